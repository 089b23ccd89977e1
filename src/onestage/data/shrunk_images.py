"""Images far larger than the network's input, shrunk once and kept on disk while they train.

To decode a photograph of 12 megapixels takes as long as a training step of its image; the shrunk one is read in a
fraction of that. All images of a table lie in one file, each behind a mark that is written last: an image that a killed
process has left unfinished is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int32, Int64, UInt8

MARK = b"\x01"  # what no read gives where nothing has been written


@dataclass(frozen=True, eq=False)
class ShrunkImages:
    """Where the shrunk images of a table's rows lie."""

    file: Path
    original_sizes_hw: Int32[np.ndarray, "I 2"]
    starts: Int64[np.ndarray, " I"]  # of each image's mark in the file, bytes; -1: no place, made anew each time

    @classmethod
    def room_for(
        cls, file: Path, original_sizes_hw: Int32[np.ndarray, "I 2"], sizes_hw: Int32[np.ndarray, "I 2"], max_bytes: int
    ) -> ShrunkImages:
        """Places for those that get smaller, as many as the room holds."""
        smaller = (sizes_hw != original_sizes_hw).any(axis=1)
        needed = len(MARK) + 3 * sizes_hw.prod(axis=1, dtype=np.int64)
        starts, end = np.full(len(sizes_hw), -1, dtype=np.int64), 0
        for row in np.flatnonzero(smaller).tolist():
            if end + (size := int(needed[row])) <= max_bytes:
                starts[row], end = end, end + size
        return cls(file, original_sizes_hw, starts)

    def of_rows(self, rows: Sequence[int] | Int64[np.ndarray, " R"]) -> ShrunkImages:
        """The same for some rows of the table, in the same places."""
        return replace(self, original_sizes_hw=self.original_sizes_hw[rows], starts=self.starts[rows])

    def read(
        self, row: int, size_hw: tuple[int, int], decode: Callable[[], UInt8[np.ndarray, "H W 3"]]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A row's image in its size: from the file, or made of the decoded one and, if there is a place, put there."""
        start = int(self.starts[row])
        if start >= 0 and (kept := self._kept(start, size_hw)) is not None:
            return kept
        image = decode()
        if image.shape[:2] != size_hw:
            image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA)
        if start >= 0:
            self._keep(start, image)
        return image

    def _kept(self, start: int, size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"] | None:
        size = len(MARK) + 3 * size_hw[0] * size_hw[1]
        try:
            with self.file.open("rb", buffering=0) as opened:
                opened.seek(start)
                content = opened.read(size)
        except OSError:  # nothing has been written yet
            return None
        if not content.startswith(MARK) or len(content) < size:
            return None
        return np.frombuffer(content, dtype=np.uint8, offset=len(MARK)).reshape(*size_hw, 3)

    def _keep(self, start: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Write an image, and then its mark; a disk that is full is no reason to stop."""
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()
            with self.file.open("r+b", buffering=0) as opened:
                for place, content in ((start + len(MARK), image.tobytes()), (start, MARK)):
                    opened.seek(place)
                    if opened.write(content) < len(content):
                        return
