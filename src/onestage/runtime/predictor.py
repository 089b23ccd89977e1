"""An exported detector as a function: an image in, its detections out, in the image's own pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np

from .decode import decode_image
from .detections import DetectionArrays
from .errors import UserError
from .exported_file import read_exported
from .session import OnnxSession, Session

AnyImage: TypeAlias = str | Path | bytes | np.ndarray
"""A path, an encoded file's bytes, or an RGB array (H, W, 3) of uint8."""


class OnnxPredictor:
    """An exported detector that takes images and gives detections.

    Attributes:
        session: the network in its engine.
        score_threshold: score above which a detection is kept; may be changed between calls.
    """

    def __init__(self, session: Session, score_threshold: float = 0.5) -> None:
        self.session = session
        self.score_threshold = score_threshold

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.session.file.names

    @overload
    def __call__(self, images: AnyImage, batch_size: int = 8) -> DetectionArrays: ...
    @overload
    def __call__(self, images: Sequence[AnyImage], batch_size: int = 8) -> list[DetectionArrays]: ...
    def __call__(
        self, images: AnyImage | Sequence[AnyImage], batch_size: int = 8
    ) -> DetectionArrays | list[DetectionArrays]:
        """Detect in one image, or in a list of images (a list in gives a list out, in order).

        Raises:
            ImageError: an image that can't be read.
            UserError: an array that is not (H, W, 3) of uint8.
        """
        if isinstance(images, AnyImage):
            return self.session([read_image(images)], self.score_threshold)[0]
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: give 1 or more")
        found: list[DetectionArrays] = []
        for start in range(0, len(images), batch_size):
            pixels = [read_image(image) for image in images[start : start + batch_size]]
            found += self.session(pixels, self.score_threshold)
        return found


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    score_threshold: float = 0.5,
    threads: int | None = None,
) -> OnnxPredictor:
    """Load a file that `onestage export --format onnx` wrote.

    Args:
        device: "cpu" or "cuda"; None: "cpu".
        score_threshold: score above which a detection is kept.
        threads: number of CPU threads; None: as many as this process may use.

    Raises:
        UserError: no such file, a file that isn't safe or isn't ours, or no ONNX Runtime.
    """
    return OnnxPredictor(OnnxSession(read_exported(path), device=device, threads=threads), score_threshold)


def read_image(image: AnyImage) -> np.ndarray:
    """RGB pixels, upright, (H, W, 3) of uint8."""
    if not isinstance(image, np.ndarray):
        return decode_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(
            f"array of shape {image.shape} and type {image.dtype} is not an image; "
            "give RGB pixels, (height, width, 3) of uint8"
        )
    return image
