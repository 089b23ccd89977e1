"""Cases `bad-images`, `two-headers`: spoilt images of all formats; each must end in pixels or in one line, and soon.

Good files of eight formats in all their modes, some with EXIF or XMP, are cut, have bytes changed (mostly in the
header), parts repeated, moved or taken from another file. Pixels must have the size that the header says.

python benchmarks/reliability/fuzzed_images.py --files 2000
"""

from __future__ import annotations

import io
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from PIL import Image

from onestage.runtime.decode import ImageError, decode_image, read_header

MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "GIF": ("L", "P"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "RGB", "RGBA"),
}
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
MAX_PIXELS = 25_000_000  # the server's


@dataclass(frozen=True)
class Options:
    """How many, and which."""

    files: int = 2000
    seed: int = 0


def main(options: Options) -> None:
    rng = np.random.default_rng(options.seed)
    good = good_files()
    for data in good:
        decode_image(data)
    ended: Counter[str] = Counter()
    slowest, before = 0.0, peak_mb()
    for _ in range(options.files):
        data = spoilt(good[rng.integers(len(good))], good[rng.integers(len(good))], rng)
        began = time.perf_counter()
        try:
            pixels = decode_image(data, max_pixels=MAX_PIXELS)
            header = read_header(data)
            if pixels.shape != (header.height, header.width, 3):
                raise SystemExit(f"{pixels.shape} pixels for the header {header}")
            ended["decoded"] += 1
        except ImageError as error:  # anything else ends the run with its traceback
            ended["refused in one line"] += 1
            if "\n" in str(error):
                raise SystemExit(f"more than a line: {error}") from error
        slowest = max(slowest, time.perf_counter() - began)
    counts = ", ".join(f"{count:,} {how}" for how, count in ended.items())
    print(f"{options.files:,} images: {counts}; the slowest {slowest:.2f} s; peak memory +{peak_mb() - before:.0f} MB")


def good_files() -> list[bytes]:
    """An image in every format and mode, as it is and turned by EXIF, and with XMP."""
    y, x = np.mgrid[0:60, 0:90]
    image = Image.fromarray(np.stack([x * 2, y * 4, x + y], axis=2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    for kind, modes in MODES.items():
        for mode in modes:
            stored = Image.fromarray((x * 700).astype(np.uint16)) if mode == "I;16" else image.convert(mode)
            variants: list[dict[str, Any]] = [{}]
            if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
                variants += [{"exif": exif}]
            if kind in ("JPEG", "WEBP", "AVIF"):
                variants += [{"xmp": XMP}]
            if kind == "TIFF" and mode != "1":
                variants += [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate", "tiffinfo": {700: XMP}}]
            if kind == "JPEG":
                variants += [{"progressive": True}]
            if kind == "WEBP":
                variants += [{"lossless": True}]
            for options in variants:
                file = io.BytesIO()
                stored.save(file, kind, **options)
                files.append(file.getvalue())
    return files


def spoilt(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one to three things done to it."""
    spoilt = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        header = max(12, min(len(spoilt), 400))
        start, end = sorted(rng.integers(8, max(9, len(spoilt)), 2).tolist())
        kind = rng.integers(6)
        if kind == 0:  # cut off
            del spoilt[end:]
        elif kind == 1:  # bytes of the header
            for place in rng.integers(8, header, rng.integers(1, 6)).tolist():
                if place < len(spoilt):
                    spoilt[place] = (0, 1, 2, 16, 127, 128, 255, int(rng.integers(256)))[rng.integers(8)]
        elif kind == 2:  # bytes anywhere
            for place in rng.integers(8, max(9, len(spoilt)), rng.integers(1, 9)).tolist():
                if place < len(spoilt):
                    spoilt[place] = rng.integers(256)
        elif kind == 3:  # a part twice
            part = spoilt[start : min(end, start + 200)]
            spoilt[start:start] = part * int(rng.integers(1, 50))
        elif kind == 4:  # a part lost
            del spoilt[start : min(end, start + 40)]
        else:  # a part of another file
            spoilt[start : start + 60] = other[start : start + int(rng.integers(1, 200))]
    return bytes(spoilt)


def peak_mb() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)


if __name__ == "__main__":
    main(tyro.cli(Options))
