"""An exported detector as a function: a picture in, its detections out, in the picture's own pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, overload

import numpy as np

from .decode import decode_image
from .detections import Detections
from .errors import UserError
from .exported_file import read_exported
from .session import OnnxSession, Session

Picture: TypeAlias = str | Path | bytes | np.ndarray
"""A path, an encoded file's bytes, or an RGB array (H, W, 3) of uint8."""


class Predictor:
    """Holds an exported network, and which of its detections to keep.

    Attributes:
        session: the network.
        score_threshold: detections have a score above it; set it freely between calls.
    """

    def __init__(self, session: Session, score_threshold: float = 0.5) -> None:
        self.session = session
        self.score_threshold = score_threshold

    @property
    def names(self) -> tuple[str, ...]:
        """Of every class, by label."""
        return self.session.file.names

    @overload
    def __call__(self, pictures: Picture, batch_size: int = 8) -> Detections: ...
    @overload
    def __call__(self, pictures: Sequence[Picture], batch_size: int = 8) -> list[Detections]: ...
    def __call__(self, pictures: Picture | Sequence[Picture], batch_size: int = 8) -> Detections | list[Detections]:
        """Detect in one picture, or in a list of them (a list in gives a list out, in order).

        Raises:
            ImageError: a picture that can't be read.
            UserError: an array that is not (H, W, 3) of uint8.
        """
        if isinstance(pictures, Picture):
            return self.session([read_picture(pictures)], self.score_threshold)[0]
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: give 1 or more")
        found: list[Detections] = []
        for start in range(0, len(pictures), batch_size):
            images = [read_picture(picture) for picture in pictures[start : start + batch_size]]
            found += self.session(images, self.score_threshold)
        return found


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    score_threshold: float = 0.5,
    threads: int | None = None,
) -> Predictor:
    """The predictor of a file that `onestage export` wrote.

    Args:
        device: "cpu" (None) or "cuda".
        score_threshold: detections have a score above it.
        threads: of the processor; None for as many as this process may use.

    Raises:
        UserError: no such file, one that isn't safe or isn't ours, or no ONNX Runtime.
    """
    return Predictor(OnnxSession(read_exported(path), device=device, threads=threads), score_threshold)


def read_picture(picture: Picture) -> np.ndarray:
    """RGB pixels, upright, (H, W, 3) of uint8."""
    if not isinstance(picture, np.ndarray):
        return decode_image(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise UserError(
            f"array of shape {picture.shape} and type {picture.dtype} is no picture; "
            "give RGB pixels, (height, width, 3) of uint8"
        )
    return picture
