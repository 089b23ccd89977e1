"""The one decode function: training, prediction, evaluation and every check see the same pixels.

Rules, the same everywhere:

- JPEG, PNG, WebP, BMP, TIFF and GIF, told apart by their bytes; anything else is refused.
- The header's size is held against a bound before a decoder runs.
- EXIF orientation is applied, so an image is always upright.
- The result is 8-bit RGB: gray is repeated, palettes are looked up, alpha is dropped (as Pillow and OpenCV do), CMYK
  goes by Pillow's rule, 16 bits keep their high byte, 1 bit becomes 0 and 255, an animation gives its first frame.
- A file that is cut off is an error, not an image with a gray bottom.

OpenCV decodes what is ordinary (nearly all images of a training set), Pillow the rest.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from .image_header import EXIF_ORIENTATION, MAX_PIXELS, ImageError, ImageHeader, parse_header

__all__ = ["MAX_FILE_BYTES", "MAX_PIXELS", "ImageError", "ImageHeader", "check_image", "decode_image", "read_header"]

ImageSource: TypeAlias = str | Path | bytes

MAX_FILE_BYTES = 1 << 29  # a stored image larger than 512 MiB is a mistake

_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV wants exactly one colour order; its reduced colour flags carry the bit of the other one, BGR
_DECODE_REDUCED = {
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | _DECODE,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | _DECODE,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | _DECODE,
}


def decode_image(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image file, or the bytes of one, to upright 8-bit RGB.

    Args:
        source: a path, or a file's whole content.
        max_pixels: the largest H * W that is decoded.
        min_side: where given, a JPEG may come out smaller by 2, 4 or 8 (sides rounded up), as long as its shorter side
            keeps at least so many pixels. Faster where the network's input is much smaller than the image; the caller
            scales the boxes.

    Raises:
        ImageError: the file is missing, not an image, damaged, cut off or too large. One line that names it.
    """
    data, name = _content(source)
    header = parse_header(data, name, max_pixels)
    _refuse_if_cut_off(data, header, name)
    if not header.ordinary:
        return _decode_by_pillow(data, header, name)
    flags = _DECODE_REDUCED.get(_reduction(header, min_side), _DECODE)
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"{name}: damaged {header.format} data; replace or delete it") from error
    if image is None:
        raise ImageError(f"{name}: damaged {header.format} data; replace or delete it")
    return _turn_upright(image, header.orientation)


def read_header(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """An image's upright size and format, without decoding it.

    Raises:
        ImageError: as `decode_image`, but damage behind the header goes unnoticed (see `check_image`).
    """
    data, name = _content(source)
    return parse_header(data, name, max_pixels)


def check_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """`read_header`, and a cheap proof that the file is whole: JPEG and PNG by their end mark, others by decoding.

    Raises:
        ImageError: as `decode_image`.
    """
    data, name = _content(source)
    header = parse_header(data, name, max_pixels)
    _refuse_if_cut_off(data, header, name)
    if header.format not in ("JPEG", "PNG"):
        _decode_by_pillow(data, header, name)
    return header


def _content(source: ImageSource) -> tuple[bytes, str]:
    """A file's bytes and what to call it in errors. Only regular files are opened: a pipe would wait for ever."""
    if isinstance(source, bytes):
        return source, "image"
    name = os.fspath(source)
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: not a file; give an image")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"{name}: {status.st_size:,} bytes, more than the {MAX_FILE_BYTES:,} allowed for an image")
        with open(name, "rb") as file:
            return file.read(), name
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such image") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: can't be read ({getattr(error, 'strerror', None) or error})") from error


def _refuse_if_cut_off(data: bytes, header: ImageHeader, name: str) -> None:
    """Look for the end mark of a JPEG (EOI behind the first scan: an embedded thumbnail has its own) or a PNG."""
    if header.format == "JPEG":
        # coded pixels can't hold FF D9 (an FF is followed by 00), so the first one behind the scan's head is the end;
        # nearly always it is the file's last two bytes
        whole = data.endswith(b"\xff\xd9") or data.find(b"\xff\xd9", header.data_start) >= 0
    elif header.format == "PNG":
        whole = data.rfind(b"IEND\xaeB`\x82") >= 0
    else:
        return
    if not whole:
        raise ImageError(
            f"{name}: the {header.format} file is cut off (its end mark is missing); fetch it again or delete it"
        )


def _reduction(header: ImageHeader, min_side: int | None) -> int:
    """By how much libjpeg may shrink the image while decoding: 1, 2, 4 or 8."""
    if min_side is None or header.format != "JPEG":
        return 1
    shorter = min(header.width, header.height)
    return next((factor for factor in (8, 4, 2) if shorter >= factor * min_side), 1)


def _decode_by_pillow(data: bytes, header: ImageHeader, name: str) -> UInt8[np.ndarray, "H W 3"]:
    try:
        with Image.open(io.BytesIO(data), formats=(header.format.upper(),)) as image:
            image.load()  # the first frame; a TIFF is turned upright here
            orientation = image.getexif().get(EXIF_ORIENTATION, 1)
            rgb = _to_rgb(image)
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ImageError(
            f"{name}: damaged or unsupported {header.format} data ({error}); replace or delete it"
        ) from error
    return _turn_upright(rgb, orientation)


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode.startswith("I;16"):
        high = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no agreed range, store 8 or 16 bits")
    image.info.pop("transparency", None)  # or Pillow warns that alpha is dropped, which is our rule
    return np.array(image.convert("RGB"))


def _turn_upright(image: UInt8[np.ndarray, "H W 3"], orientation: int) -> UInt8[np.ndarray, "h w 3"]:
    """Apply EXIF orientation 1 to 8 (EXIF 2.32, 4.6.4)."""
    if orientation not in range(2, 9):
        return image
    if orientation >= 5:
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)  # 1 left-right, 0 up-down, -1 both
    return image if flip is None else cv2.flip(image, flip)
