"""The one decode function: training, prediction, evaluation and every check see the same pixels.

Rules, the same everywhere:

- JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF and JPEG 2000 are told apart by their first bytes; anything else is refused.
- Pillow reads the header, and its size is checked before a pixel is decoded. A file that makes the decoder see another
  size, or unpack more than that, is refused.
- EXIF orientation is applied, so an image is always upright. Orientation in XMP is ignored, as browsers ignore it.
- The result is 8-bit RGB: gray is repeated, palettes are looked up, alpha is dropped (as Pillow and OpenCV do), CMYK
  goes by Pillow's rule, 16 bits keep the highest 8 of those in use, 1 bit becomes 0 and 255, an animation gives its
  first frame.
- A file that is cut off is an error, not an image with a gray bottom. A lack of memory is a MemoryError: it says
  nothing of the file.

OpenCV decodes what is ordinary (nearly all images of a training set), Pillow the rest.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from .deep_colours import has_deep_colours, keep_low_bytes
from .errors import UserError
from .first_bytes import kind_of, why_unread
from .image_parts import CountedTiff, too_many_parts
from .image_tags import decoders_size, exif_orientation
from .large_tiff import decode_parts, has_parts

ImageSource: TypeAlias = str | Path | bytes

MAX_FILE_BYTES = 1 << 29  # a stored image larger than 512 MiB is a mistake
MAX_PIXELS = 89_478_485  # 256 MiB of RGB, where Pillow begins to warn
MAX_OWN_PIXELS = {"JPEG": 4 * MAX_PIXELS, "TIFF": 4 * MAX_PIXELS}  # of one's own files, where decoding takes the least
MAX_HEADER_READS = 4_000  # a segment, chunk or tag takes some; the header of a photo takes some dozens in all
MAX_EXIF_BYTES = 1 << 16  # of an EXIF block, as in a JPEG; a PNG may have it behind its pixels
MAX_PIXEL_READS = 1_000_000  # the same for the pixels: a run of a BMP takes two
MAX_TILE_PIXELS = 1 << 22  # of a TIFF's tile, which is unpacked whole, where the image itself is smaller

EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG 2000": (".jp2", ".j2k", ".jpf", ".jpx", ".jpc"),
}
# images that are told apart: HEIC has no reader with a permissive licence, the others are read by no browser
UNREAD_EXTENSIONS = (".heic", ".heif", ".ppm", ".pgm", ".pnm", ".tga", ".jxl")

_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV wants exactly one colour order; its reduced colour flags carry the bit of the other one, BGR
_REDUCE = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
# for each pixel at the peak of decoding, as measured: the file, the decoder's own buffers, Pillow's pixels, ours
_DECODING_BYTES = {"JPEG": 9, "PNG": 18, "WebP": 11, "BMP": 14, "TIFF": 16, "GIF": 14, "AVIF": 20, "JPEG 2000": 24}
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # orientation -> OpenCV's code: 1 left-right, 0 up-down, -1 both


class ImageError(UserError):
    """An image that can't be used; the text is one line that names it and says why."""


class TooManyPixelsError(ImageError):
    """An image whose header says that it is too large."""


class ImageHeader(NamedTuple):
    """An image's header."""

    width: int  # pixels of the upright image
    height: int
    format: str  # a key of `EXTENSIONS`
    orientation: int  # by EXIF, 1 to 8; from 5 the stored sides are swapped. 1 for a TIFF, which Pillow turns upright
    bits: int  # of a stored gray value or colour, 8 or 16
    decoding_bytes: int  # of memory that decoding takes at its peak, about


def decode_image(
    source: ImageSource, *, max_pixels: int | None = MAX_PIXELS, min_side: int | None = None, bits: int = 16
) -> UInt8[np.ndarray, "H W 3"]:
    """Decode an image file, or the bytes of one, to upright 8-bit RGB.

    Args:
        source: a path, or a file's whole content.
        max_pixels: the largest H * W that is decoded. None, for files that are no stranger's: 358 million of a JPEG or
            a TIFF, 89 million of others.
        min_side: where given, a JPEG may come out smaller by 2, 4 or 8 (sides rounded up), as long as its shorter side
            keeps at least so many pixels. Faster where the network's input is much smaller than the image; the caller
            scales the boxes.
        bits: how many bits of a 16-bit image hold values: 12 for many cameras. Its highest 8 are kept.

    Raises:
        ImageError: the file is missing, not an image, damaged, cut off or too large. One line that names it.
        MemoryError: there is not enough memory to decode it.
    """
    file = _opened(source, max_pixels)
    _refuse_if_cut_off(file)
    header, factor = file.header, 1
    if _is_ordinary(file.image):
        if header.format == "JPEG" and min_side is not None:
            shorter = min(header.width, header.height)
            factor = next((factor for factor in _REDUCE if shorter >= factor * min_side), 1)
        pixels = _decoded_by_opencv(file, _DECODE | _REDUCE.get(factor, 0))
    else:
        pixels = _decoded_by_pillow(file, bits)
    pixels = _upright(pixels, header.orientation)
    if pixels.shape[:2] != (-(-header.height // factor), -(-header.width // factor)):
        raise ImageError(
            f"{file.name}: the {header.format} header says {header.width}x{header.height} pixels, but the file holds "
            f"{pixels.shape[1]}x{pixels.shape[0]}; replace or delete it"
        )
    return pixels


def decode_pillow(image: Image.Image, *, bits: int = 16) -> UInt8[np.ndarray, "H W 3"]:
    """The upright 8-bit RGB of a Pillow image, by the same rules as of its file; the image itself is only loaded.

    Raises:
        ImageError: its file is damaged or cut off, or its mode has no meaning in RGB.
        MemoryError: there is not enough memory to load it.
    """
    xmp = image.info.pop("xmp", None)  # or Pillow would turn a TIFF by it
    try:
        if image.mode == "HSV":
            raise ValueError("no image file has such pixels")
        image.load()
        pixels = np.asarray(image) if image.mode == "RGB" else _rgb(image.copy(), bits)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise ImageError(f"a Pillow image of mode {image.mode}: {error}; give a whole image, in RGB") from error
    finally:
        if xmp is not None:
            image.info["xmp"] = xmp
    return _upright(pixels, exif_orientation(image.info.get("exif")))


def read_header(source: ImageSource, *, max_pixels: int | None = MAX_PIXELS) -> ImageHeader:
    """An image's upright size and format, without decoding it. Raises as `decode_image`, but sees the header alone."""
    return _opened(source, max_pixels).header


def check_image(source: ImageSource, *, max_pixels: int | None = MAX_PIXELS) -> ImageHeader:
    """`read_header`, and a cheap proof that the file is whole: JPEG and PNG by their end mark, others by decoding.

    Raises as `decode_image`.
    """
    file = _opened(source, max_pixels)
    _refuse_if_cut_off(file)
    if file.header.format not in ("JPEG", "PNG"):
        _decoded_by_pillow(file)
    return file.header


def largest_value(source: ImageSource) -> int:
    """The largest value of an image of 16 bits, 0 for one of 8 bits or one that can't be read."""
    try:
        file = _opened(source, None)
        if file.header.bits == 8:
            return 0
        return int((_deep_colours(file) if has_deep_colours(file.image) else np.asarray(file.image)).max())
    except MemoryError:
        raise
    except Exception:  # damaged files make Pillow raise nearly anything
        return 0


class _Opened(NamedTuple):
    """A file whose header has been read and whose size is allowed."""

    name: str  # for messages
    content: _Content
    image: ImageFile
    header: ImageHeader


def _opened(source: ImageSource, max_pixels: int | None) -> _Opened:
    data, name = _bytes_of(source)
    kind = kind_of(data)
    if kind is None:
        raise ImageError(f"{name}: {why_unread(data)}")
    if kind == "AVIF":  # of an animation its still image, whose size is known, by another brand in front
        data = data[:8] + b"avif" + data[12:]
    content, unpacked = _Content(data), None
    if max_pixels is None:
        max_pixels = MAX_OWN_PIXELS.get(kind, MAX_PIXELS)
    try:
        unpacked = decoders_size(kind, data)
        _check_pixels(name, unpacked or (0, 0), max_pixels)
        image = _plugin(kind)(content)
        orientation = 1 if kind == "TIFF" else exif_orientation(_exif(image, data))
    except (MemoryError, TooManyPixelsError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixelsError(f"{name}: too large to decode safely ({error}); make it smaller") from error
    except Exception as error:  # a damaged header makes Pillow raise nearly anything
        width, height = unpacked or (0, 0)
        raise _failure(name, 24 * width * height, f"damaged {kind} header ({error})") from error
    _check_pixels(name, image.size, max_pixels)
    unpacked = unpacked or image.size
    _check_decoders_size(name, kind, image.size, unpacked)
    if problem := too_many_parts(image, data, content.tell()):
        raise ImageError(f"{name}: {problem}, which would take too long to decode; store it anew, as PNG or JPEG")
    content.reads_left = MAX_PIXEL_READS
    width, height = image.size if orientation < 5 else image.size[::-1]
    bits = 16 if image.mode.startswith("I") or has_deep_colours(image) else 8
    needed = _DECODING_BYTES[kind] * max(width * height, unpacked[0] * unpacked[1])
    return _Opened(name, content, image, ImageHeader(width, height, kind, orientation, bits, needed))


def _check_pixels(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name}: {width}x{height} pixels, more than the {max_pixels:,} allowed; make it smaller"
        )


def _check_decoders_size(name: str, kind: str, size: tuple[int, int], unpacked: tuple[int, int]) -> None:
    """Refuse a file whose decoder would unpack another size than its header says."""
    if kind in ("TIFF", "AVIF"):  # tiles of usual sizes may be larger than a small image
        fits = unpacked[0] * unpacked[1] <= max(2 * size[0] * size[1], MAX_TILE_PIXELS)
    else:
        fits = unpacked == size
    if not fits:
        what = {"TIFF": "tiles", "AVIF": "frames"}.get(kind, "data")
        raise ImageError(
            f"{name}: the {kind} header says {size[0]}x{size[1]} pixels, but its {what} {unpacked[0]}x{unpacked[1]}; "
            "replace or delete it"
        )


def _bytes_of(source: ImageSource) -> tuple[bytes, str]:
    """A file's bytes and what to call it in errors. Only regular files are opened: a pipe would wait for ever."""
    if isinstance(source, bytes):
        return source, "image"
    name = os.fspath(source)
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            problem = "not a file; give an image"
        elif status.st_size > MAX_FILE_BYTES:
            problem = f"{status.st_size:,} bytes, more than the {MAX_FILE_BYTES:,} allowed for an image"
        else:
            return Path(name).read_bytes(), name
    except FileNotFoundError:
        problem = "no such image"
    except (OSError, ValueError) as error:
        problem = f"can't be read ({getattr(error, 'strerror', None) or error})"
    raise ImageError(f"{name}: {problem}")


class _Content(io.BytesIO):
    """The bytes of an image file, for Pillow.

    A stranger's header may have millions of parts. Each costs Pillow time and memory, so it gets only so many reads
    until the header is known.
    """

    reads_left = MAX_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise ValueError(f"more than {MAX_HEADER_READS:,} parts")
        return super().read(size)


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Nothing: Pillow would parse every tag, and warn of each bad one."""


def _plugin(kind: str) -> type[ImageFile]:
    """Pillow's reader of one format. Not by `Image.open`, which tries all formats: some run other programs (EPS)."""
    if kind in ("JPEG", "TIFF"):
        return _Jpeg if kind == "JPEG" else CountedTiff
    name = {"WebP": "WebP", "JPEG 2000": "Jpeg2K"}.get(kind, kind.capitalize())
    return getattr(importlib.import_module(f"PIL.{name}ImagePlugin"), f"{name}ImageFile")


def _exif(image: ImageFile, data: bytes) -> object:
    """An image's EXIF block, as its file has it.

    Not by Pillow's `getexif`, which reads XMP too, parses (and warns of) every tag, and decodes a PNG to look behind
    its pixels.
    """
    exif = image.info.get("exif")
    if exif is None and image.format == "PNG" and (start := data.find(b"eXIf", -MAX_EXIF_BYTES)) > 0:
        return data[start + 4 : start + 4 + int.from_bytes(data[start - 4 : start])]
    return exif


def _upright(pixels: UInt8[np.ndarray, "H W 3"], orientation: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Turn stored pixels as their EXIF orientation says (EXIF 2.32, 4.6.4)."""
    if orientation >= 5:
        pixels = cv2.transpose(pixels)
    return cv2.flip(pixels, _FLIPS[orientation]) if orientation in _FLIPS else pixels


def _refuse_if_cut_off(file: _Opened) -> None:
    """Look for the end mark of a JPEG (EOI behind the first scan: an embedded thumbnail has its own) or a PNG."""
    kind = file.header.format
    # coded pixels can't hold FF D9 (an FF is followed by 00), so it is the end behind the scan's head, where Pillow
    # stopped reading
    marks = {"JPEG": (b"\xff\xd9", file.content.tell()), "PNG": (b"IEND\xaeB`\x82", 0)}
    if kind in marks and file.content.getvalue().rfind(*marks[kind]) < 0:
        raise ImageError(
            f"{file.name}: the {kind} file is cut off (its end mark is missing); fetch it again or delete it"
        )


def _is_ordinary(image: ImageFile) -> bool:
    """True for one frame of 8-bit gray, RGB or (PNG) RGBA, which OpenCV decodes as Pillow does, in less memory."""
    if image.format == "WEBP":
        return getattr(image, "n_frames", 1) == 1
    if image.format == "JPEG":
        return image.mode in ("L", "RGB")
    if image.format != "PNG" or "loop" in image.info:  # which every animation has
        return False
    return image.mode in ("L", "RGB", "RGBA") and [tile.args for tile in image.tile] == [image.mode]  # as stored


def _decoded_by_opencv(file: _Opened, flags: int) -> UInt8[np.ndarray, "H W 3"]:
    try:
        image = cv2.imdecode(np.frombuffer(file.content.getvalue(), dtype=np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise _failure(file.name, file.header.decoding_bytes, f"damaged {file.header.format} data")
    return image


def _decoded_by_pillow(file: _Opened, bits: int = 16) -> UInt8[np.ndarray, "H W 3"]:
    if bits == 16 or not has_deep_colours(file.image):
        return _loaded_by_pillow(file, bits)
    colours = _deep_colours(file)
    colours >>= bits - 8
    return np.minimum(colours, 255, out=colours).astype(np.uint8)


def _deep_colours(file: _Opened) -> UInt16[np.ndarray, "H W 3"]:
    colours = _loaded_by_pillow(file).astype(np.uint16)
    colours <<= 8
    colours |= _loaded_by_pillow(_opened(file.content.getvalue(), None), low_bytes=True)
    return colours


def _loaded_by_pillow(file: _Opened, bits: int = 16, *, low_bytes: bool = False) -> UInt8[np.ndarray, "H W 3"]:
    image, prepared = file.image, keep_low_bytes if low_bytes else lambda image: image
    image.info.pop("xmp", None)  # or a TIFF would be turned by it
    try:
        if isinstance(image, CountedTiff) and image.width * image.height > MAX_PIXELS and has_parts(image):
            pixels, orientation = decode_parts(image, file.content.getvalue(), lambda part: _rgb(prepared(part), bits))
            return _upright(pixels, orientation)
        prepared(image).load()  # the first frame; a TIFF is turned upright here
        return _rgb(image, bits)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise _failure(
            file.name, file.header.decoding_bytes, f"damaged or unsupported {file.header.format} data ({error})"
        ) from error


def _rgb(image: Image.Image, bits: int) -> UInt8[np.ndarray, "H W 3"]:
    """The 8-bit RGB of a loaded image; ValueError for a mode that has none."""
    image.info.pop("transparency", None)  # or Pillow would warn that alpha is dropped, which is our rule
    if image.mode.startswith("I;16"):
        gray = np.minimum(np.asarray(image) >> (bits - 8), 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no agreed range, store 8 or 16 bits")
    return np.array(image.convert("RGB"))


def _failure(name: str, needed_bytes: int, problem: str) -> Exception:
    """The error for a file that its decoder gave up.

    Decoders seldom tell a lack of memory from damage. So it counts as one where what they need can't be had now.
    """
    try:
        np.empty(max(0, needed_bytes), dtype=np.uint8)
    except MemoryError:
        return MemoryError(f"{name}: not enough memory to decode it, about {needed_bytes:,} bytes")
    return ImageError(f"{name}: {problem}; replace or delete it")
