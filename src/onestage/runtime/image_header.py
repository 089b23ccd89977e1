"""What an image file says about itself, read without decoding a pixel.

The formats are told apart by their first bytes, never by the file's name. JPEG, PNG and WebP are parsed here, because
their size must be known before a decoder allocates anything; Pillow reads the headers of BMP, TIFF and GIF.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image

from .errors import UserError

FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF")
EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
MAX_PIXELS = 89_478_485  # 256 MiB of RGB, where Pillow begins to warn
EXIF_ORIENTATION = 0x0112


class ImageError(UserError):
    """An image that can't be used; the text is one line that names it and says why."""


class TooManyPixelsError(ImageError):
    """An image whose header says that it is too large."""


@dataclass(frozen=True)
class ImageHeader:
    """An image's header.

    Attributes:
        width: pixels of the upright image (after EXIF orientation).
        height: pixels of the upright image.
        format: one of `FORMATS`.
        orientation: EXIF's, 1 to 8; 5 to 8 swap the sides of what is stored.
        ordinary: 8-bit gray, RGB or (PNG) RGBA in one frame, which OpenCV decodes as is.
        data_start: where the coded pixels of a JPEG begin; 0 in other formats.
    """

    width: int
    height: int
    format: str
    orientation: int = 1
    ordinary: bool = False
    data_start: int = 0


def sniff_format(data: bytes) -> str | None:
    """The format by its magic bytes; None where it is none of `FORMATS`."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "TIFF"
    return "BMP" if data[:2] == b"BM" else None


def parse_header(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of a whole file's bytes and hold its size against `max_pixels` (H * W).

    Raises:
        ImageError: not one of `FORMATS`, or a damaged header; `name` stands in its text.
        TooManyPixelsError: more than `max_pixels`.
    """
    kind = sniff_format(data)
    if kind is None:
        what = f"it begins with {bytes(data[:12])!r}" if data else "the file is empty"
        raise ImageError(f"{name}: not a JPEG, PNG, WebP, BMP, TIFF or GIF image ({what}); replace or delete it")
    try:
        header = {"JPEG": _jpeg, "PNG": _png, "WebP": _webp}.get(kind, _by_pillow)(data)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixelsError(f"{name}: too large to decode safely ({error}); make it smaller") from error
    except Exception as error:  # a damaged header makes Pillow raise nearly anything
        raise ImageError(f"{name}: damaged {kind} header ({error}); replace or delete it") from error
    if header.width < 1 or header.height < 1:
        raise ImageError(f"{name}: the {kind} header says {header.width}x{header.height} pixels; replace or delete it")
    if header.width * header.height > max_pixels:
        raise TooManyPixelsError(
            f"{name}: {header.width}x{header.height} pixels, more than the {max_pixels:,} allowed; make it smaller"
        )
    return header


def upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) of a stored image once its EXIF orientation is applied."""
    return (height, width) if orientation >= 5 else (width, height)


def _jpeg(data: bytes) -> ImageHeader:
    """Walk the segments up to the first scan (ITU T.81, B.1.1)."""
    position, orientation, frame = 2, 1, None
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:  # fill bytes
            position += 1
        if data[position] != 0xFF:
            raise ValueError(f"no segment at byte {position}")
        marker = data[position + 1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # stand alone
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = position + 4
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = (marker, *struct.unpack_from(">BHHB", data, body))
        elif marker == 0xE1 and data[body : body + 6] == b"Exif\x00\x00":
            orientation = _exif_orientation(data[body + 6 : position + 2 + length])
        elif marker in (0xDA, 0xD9):
            break
        position += 2 + length
    if frame is None or marker == 0xD9:
        raise ValueError("no image in it")
    kind, precision, height, width, components = frame
    ordinary = kind in (0xC0, 0xC1, 0xC2) and precision == 8 and components in (1, 3)
    return ImageHeader(*upright(width, height, orientation), "JPEG", orientation, ordinary, position)


def _png(data: bytes) -> ImageHeader:
    """Walk the chunks' heads (PNG specification, 5.3): an EXIF chunk may come after the pixels."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    orientation, animated, position = 1, False, 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : position + 8 + length])
        animated = animated or kind == b"acTL"
        position += 12 + length
    ordinary = depth == 8 and colour in (0, 2, 6) and not animated  # gray, RGB, RGBA
    return ImageHeader(*upright(width, height, orientation), "PNG", orientation, ordinary)


def _webp(data: bytes) -> ImageHeader:
    """The size of the canvas (RFC 9649, 2.5 to 2.7); Pillow looks for EXIF only once the size is known to be sane."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    orientation = 1
    if kind == b"VP8X" and data[20] & 0x08:  # the flag for an EXIF chunk
        position = 12
        while position + 8 <= len(data):
            chunk, length = struct.unpack_from("<4sI", data, position)
            if chunk == b"EXIF":
                exif = data[position + 8 : position + 8 + length]
                orientation = _exif_orientation(exif.removeprefix(b"Exif\x00\x00"))
            position += 8 + length + length % 2
    return ImageHeader(*upright(width, height, orientation), "WebP", orientation)


def _by_pillow(data: bytes) -> ImageHeader:
    with Image.open(io.BytesIO(data), formats=("BMP", "TIFF", "GIF")) as image:
        kind = {"DIB": "BMP"}.get(image.format or "", image.format or "")
        orientation = 1
        width, height = image.size  # of a TIFF: upright already
        return ImageHeader(width, height, kind, orientation)


def _exif_orientation(exif: bytes) -> int:
    """The orientation tag of an EXIF block (a TIFF file of its own); 1 where there is none or it is damaged."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(exif[:2]))
    try:
        if order is None:
            return 1
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == EXIF_ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
