"""Bounds on what a client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException


@dataclass(frozen=True)
class Limits:
    """Bounds that hold whatever clients send.

    Attributes:
        body_bytes: most bytes of one request's body.
        all_bodies_bytes: most bytes of all requests that are being read and answered, together.
        body_seconds: longest time for the head of a request, and then for its body.
        images: most images of one request.
        pixels: most pixels of one image, height x width.
        decoded_pixels: most pixels of all images that are decoded at a time, at 3 bytes each.
        waiting: most images without an answer, of all requests.
        answer_seconds: longest wait of an image for its answer.
    """

    body_bytes: int = 32 << 20
    all_bodies_bytes: int = 256 << 20
    body_seconds: float = 10.0
    images: int = 32
    pixels: int = 25_000_000
    decoded_pixels: int = 25_000_000
    waiting: int = 128
    answer_seconds: float = 30.0


def busy(reason: str) -> HTTPException:
    """503: the client should come again in a moment."""
    return HTTPException(503, f"{reason}; try again in a moment", {"Retry-After": "1"})
