"""Decoded images, kept so that a large one is not decoded for each of its tiles."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from onestage.runtime.decode import decode_image

_last: tuple[tuple[Path | None, str], UInt8[np.ndarray, "H W 3"]] | None = (
    None  # of this process: neighbours are often read in a row
)


@dataclass(frozen=True)
class DecodedImages:
    """Images as arrays in files, of which a reader takes the part that it needs; and the last image in memory.

    Processes share the folder: each writes what it had to decode, until about `max_bytes` are there. Without a folder
    there is only the last image.
    """

    folder: Path | None = None
    max_bytes: int = 0

    def read(self, path: Path, *, max_pixels: int, bits: int) -> UInt8[np.ndarray, "H W 3"]:
        """An image, decoded or mapped from its file; raises as `decode_image`."""
        global _last
        about = path.stat() if path.is_file() else None
        key = f"{path}|{max_pixels}|{bits}" + (f"|{about.st_size}|{about.st_mtime_ns}" if about else "")
        if _last is not None and _last[0] == (self.folder, key):
            return _last[1]
        file = self.folder and self.folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()}.npy"
        image = None
        if file is not None and file.exists():
            with suppress(OSError, ValueError):
                image = np.load(file, mmap_mode="r")
        if image is None:
            image = decode_image(path, max_pixels=max_pixels, bits=bits)
            if file is not None:
                self._keep(file, image)
        _last = (self.folder, key), image
        return image

    def _keep(self, file: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Write an image's file, if there is room; a disk that is full is no reason to stop."""
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            if sum(one.stat().st_size for one in file.parent.glob("*.npy")) + image.nbytes > self.max_bytes:
                return
            unfinished = file.with_suffix(f".{os.getpid()}.part")
            try:
                with unfinished.open("wb") as opened:
                    np.save(opened, image)
                os.replace(unfinished, file)
            finally:
                unfinished.unlink(missing_ok=True)
