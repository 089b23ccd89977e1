"""Bounds on what a client may ask of the server."""

from dataclasses import dataclass

from starlette.exceptions import HTTPException

REFUSAL_SECONDS = 1.0  # between a request that is refused, where others wait for the network, and the answer


@dataclass(frozen=True)
class Limits:
    """Bounds that hold whatever clients send."""

    body_bytes: int = 32 << 20  # of one request
    all_bodies_bytes: int = 64 << 20  # of all requests that are being read and answered, together
    all_drawn_bytes: int = 32 << 20  # of all drawn images that clients have not read yet, but for the first
    body_seconds: float = 10.0  # for the head of a request, and then for its body
    images: int = 32  # of one request
    pixels: int = 25_000_000  # of one image, height x width
    decoded_pixels: int = 25_000_000  # of all images that are decoded at a time; see `PixelBudget`
    waiting: int = 128  # images without an answer, of all requests
    tiles: int = 512  # that wait for the network, of images of many tiles, and as many of images of few
    answer_seconds: float = 30.0  # longest wait of an image for its answer


def busy(reason: str) -> HTTPException:
    """503: the client should come again in a moment."""
    return HTTPException(503, f"{reason}; try again in a moment", {"Retry-After": "1"})
