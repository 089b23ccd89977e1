"""TIFF images over the usual limit are decoded strip by strip, or tile by tile, to what Pillow makes of them whole."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from onestage.runtime import decode
from onestage.runtime.decode import ImageError, TooManyPixelsError, check_image, decode_image, read_header

HEIGHT, WIDTH, ROWS = 75, 60, 16  # the last strip has 11 rows


def stored(mode: str) -> Image.Image:
    """Smooth colours with noise, which no part of the image shares with another."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(0).integers(0, 30, (HEIGHT, WIDTH, 3))
    rgb = Image.fromarray((np.stack([2 * y, 3 * x, y + x], axis=-1) + noise).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray((np.asarray(rgb.convert("L")).astype(np.uint16) << 8) + 77)
    return rgb.convert(mode)


def in_parts(data: bytes, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    return decode_image(data, max_pixels=None)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "RGBA", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_strips(mode: str, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    stored(mode).save(file, "TIFF", compression=compression, tiffinfo={278: ROWS})
    whole = decode_image(file.getvalue())
    np.testing.assert_array_equal(in_parts(file.getvalue(), monkeypatch), whole)
    assert whole.std() > 20


@pytest.mark.parametrize("orientation", [*range(1, 9), 9])
def test_a_large_tiff_is_turned_upright(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    stored("RGB").save(file, "TIFF", tiffinfo={274: orientation, 278: ROWS})
    whole = decode_image(file.getvalue())
    np.testing.assert_array_equal(in_parts(file.getvalue(), monkeypatch), whole)


def test_coded_as_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    stored("RGB").save(file, "TIFF", compression="jpeg", tiffinfo={278: ROWS})
    whole = decode_image(file.getvalue())
    np.testing.assert_array_equal(in_parts(file.getvalue(), monkeypatch), whole)


def tiled_tiff(pixels: np.ndarray, side: int, order: str) -> bytes:
    """A TIFF of compressed tiles, which Pillow can't write."""
    height, width = pixels.shape[:2]
    padded = np.zeros((-(-height // side) * side, -(-width // side) * side, 3), dtype=np.uint8)
    padded[:height, :width] = pixels
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    tiles = [zlib.compress(padded[y : y + side, x : x + side].tobytes()) for y, x in corners]
    tiles = [tile + bytes(len(tile) % 2) for tile in tiles]
    starts = (8 + np.cumsum([0, *map(len, tiles)])).tolist()
    magic = b"II*\0" if order == "little" else b"MM\0*"
    tags = ImageFileDirectory_v2(magic + bytes(4))
    tags[256], tags[257], tags[258], tags[259], tags[262], tags[277] = width, height, (8, 8, 8), 8, 2, 3
    tags[322], tags[323] = side, side
    tags[324], tags[325] = tuple(starts[:-1]), tuple(map(len, tiles))
    return magic + starts[-1].to_bytes(4, order) + b"".join(tiles) + tags.tobytes(starts[-1])


@pytest.mark.parametrize("order", ["little", "big"])
def test_tiles(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.asarray(stored("RGB"))
    data = tiled_tiff(pixels, 32, order)
    np.testing.assert_array_equal(decode_image(data), pixels)
    np.testing.assert_array_equal(in_parts(data, monkeypatch), pixels)


def planar_tiff(pixels: np.ndarray) -> bytes:
    """A TIFF of all reds, then all greens, then all blues, which Pillow can't write."""
    height, width = pixels.shape[:2]
    tags = ImageFileDirectory_v2(b"II*\0" + bytes(4))
    tags[256], tags[257], tags[258], tags[259], tags[262], tags[277] = width, height, (8, 8, 8), 1, 2, 3
    tags[278], tags[279], tags[284] = height, (height * width,) * 3, 2
    tags[273] = tuple(height * width * plane for plane in range(3))  # Pillow counts them from behind the tags
    return b"II*\0" + (8).to_bytes(4, "little") + tags.tobytes(8) + np.moveaxis(pixels, 2, 0).tobytes()


def test_colours_one_after_the_other_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.asarray(stored("RGB"))
    data = planar_tiff(pixels)
    np.testing.assert_array_equal(decode_image(data), pixels)
    np.testing.assert_array_equal(in_parts(data, monkeypatch), pixels)


def test_a_damaged_strip_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    stored("RGB").save(file, "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: ROWS})
    data = bytearray(file.getvalue())
    data[600:3000] = bytes(2400)
    with pytest.raises(ImageError, match="image: damaged or unsupported TIFF data"):
        in_parts(bytes(data), monkeypatch)


@pytest.mark.parametrize(("kind", "allowed"), [("TIFF", True), ("JPEG", True), ("PNG", False), ("WEBP", False)])
def test_ones_own_jpegs_and_tiffs_may_be_larger(kind: str, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    file = io.BytesIO()
    stored("RGB").save(file, kind)
    for read in (decode_image, check_image, read_header):
        with pytest.raises(TooManyPixelsError, match=r"60x75 pixels, more than the 1,000 allowed"):
            read(file.getvalue(), max_pixels=1000)
        if allowed:
            read(file.getvalue(), max_pixels=None)
        else:
            with pytest.raises(TooManyPixelsError, match=r"60x75 pixels, more than the 1,000 allowed"):
                read(file.getvalue(), max_pixels=None)
