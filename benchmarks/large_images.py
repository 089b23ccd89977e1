"""An image of 108 million pixels: memory and time of decoding it, and of a tile of it while its tiles train.

    python benchmarks/large_images.py --out FOLDER

Draws a JPEG and a TIFF (LZW, strips of 64 rows) of 12,000 x 9,000 pixels. Each is decoded in a process of its own,
whose growth at its peak is shown, the file included. "at once" is the TIFF as Pillow decodes it whole. Linux only.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from PIL import Image

from onestage.data import decoded_images
from onestage.data.decoded_images import DecodedImages
from onestage.runtime import decode

SIZE_WH, TILE, PLACES = (12_000, 9_000), 300, 200


@dataclass(frozen=True)
class Options:
    """Where the images are drawn."""

    out: Path


def draw(folder: Path) -> tuple[Path, Path]:
    """A JPEG and a TIFF of coarse noise."""
    folder.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(cv2.resize(coarse, SIZE_WH, interpolation=cv2.INTER_LINEAR))
    image.save(folder / "large.jpg", quality=90)
    image.save(folder / "large.tif", compression="tiff_lzw", tiffinfo={278: 64})
    return folder / "large.jpg", folder / "large.tif"


def decoding(file: Path, at_once: bool) -> tuple[float, float]:
    """Seconds, and MiB by which this process grew."""
    if at_once:
        setattr(decode, "has_parts", lambda image: False)  # noqa: B010
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, started = _peak_kib(), time.perf_counter()
    decode.decode_image(file, max_pixels=None)
    return time.perf_counter() - started, (_peak_kib() - before) / 1024


def _peak_kib() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def tile_ms(file: Path, decoded: DecodedImages) -> float:
    """Median milliseconds to read a tile at some place of an image that was read before."""
    decoded.read(file, max_pixels=None, bits=16)
    seconds, rng = [], np.random.default_rng(0)
    for _ in range(PLACES):
        x, y = (int(rng.integers(0, side - TILE)) for side in SIZE_WH)
        decoded_images._read.cache_clear()  # as if tiles of another image were read in between
        started = time.perf_counter()
        np.ascontiguousarray(decoded.read(file, max_pixels=None, bits=16)[y : y + TILE, x : x + TILE])
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def main(options: Options) -> None:
    """Print all of it."""
    jpeg, tiff = draw(options.out)
    for file, at_once in ((tiff, False), (tiff, True), (jpeg, False)):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            seconds, mib = alone.submit(decoding, file, at_once).result()
        how = "at once" if at_once else ""
        print(f"{file.name} ({file.stat().st_size / 1e6:.0f} MB) {how}: {seconds:.1f} s, {mib:.0f} MiB")
    cached = DecodedImages(options.out / "decoded", 10**9)
    print(f"a tile of {jpeg.name} from the cache: {tile_ms(jpeg, cached):.2f} ms")


if __name__ == "__main__":
    main(tyro.cli(Options))
