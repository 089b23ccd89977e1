"""What a client may ask of the server, and how it is told that it asked too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Limits:
    """Bounds that hold whatever clients send.

    Attributes:
        body_bytes: of one request.
        all_bodies_bytes: of the requests that are being read and answered, together.
        body_seconds: in which the head of a request must have come, and then its body.
        images: of one request.
        pixels: of one image, height x width.
        decoded_pixels: of all images that are decoded at a time, at 3 bytes each.
        waiting: images of all requests that have no answer yet.
        answer_seconds: that an image may wait for its answer.
    """

    body_bytes: int = 32 << 20
    all_bodies_bytes: int = 256 << 20
    body_seconds: float = 10.0
    images: int = 32
    pixels: int = 25_000_000
    decoded_pixels: int = 25_000_000
    waiting: int = 128
    answer_seconds: float = 30.0


class RefusedError(Exception):
    """A request that gets no detections: an HTTP status, and one sentence for the client."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


def busy(reason: str) -> RefusedError:
    """503: come again in a moment."""
    return RefusedError(503, f"{reason}; try again in a moment", {"Retry-After": str(RETRY_AFTER_S)})
