"""Decoded images, kept so that a large one is not decoded for each of its tiles."""

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from onestage.runtime.decode import decode_image


@dataclass(frozen=True)
class DecodedImages:
    """Images as arrays in files, of which a reader takes the part that it needs; and the last image in memory.

    Processes share the folder: each writes what it had to decode, until about `max_bytes` are there. Without a folder
    there is only the last image.
    """

    folder: Path | None = None
    max_bytes: int = 0

    def read(self, path: Path, *, max_pixels: int | None, bits: int) -> UInt8[np.ndarray, "H W 3"]:
        """An image, decoded or mapped from its file; raises as `decode_image`."""
        about = path.stat() if path.is_file() else None
        version = (about.st_size, about.st_mtime_ns) if about else (0, 0)
        return _read(self, path, version, max_pixels, bits)

    def keep(self, file: Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
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


@lru_cache(maxsize=1)  # rows that are read one after the other are often tiles of one image
def _read(
    decoded: DecodedImages, path: Path, version: tuple[int, int], max_pixels: int | None, bits: int
) -> UInt8[np.ndarray, "H W 3"]:
    """`version` is the file's size and time, so that a changed one is read anew."""
    if decoded.folder is None:
        return decode_image(path, max_pixels=max_pixels, bits=bits)
    key = repr((os.fsencode(path), version, max_pixels, bits))
    file = decoded.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"
    if file.exists():
        with suppress(OSError, ValueError):
            return np.load(file, mmap_mode="r")
    image = decode_image(path, max_pixels=max_pixels, bits=bits)
    decoded.keep(file, image)
    return image
