"""What an image file says of itself where Pillow's reading is not enough: how it is turned, what its decoder unpacks.

Read by the formats' specifications, from a stranger's bytes: nothing is unpacked, and what is read is bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .avif_size import boxes, largest_frame

_ORIENTATION, _TILE_WIDTH, _TILE_LENGTH = 274, 322, 323  # tags of TIFF 6.0
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of TIFF values -> struct's letters
_MAX_TIFF_TAGS = 200  # a photo has some dozens; libtiff prints a line of each that it does not like
_CODESTREAM = b"\xff\x4f\xff\x51"  # how that of a JPEG 2000 image begins


def exif_orientation(exif: object) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or the EXIF block (a TIFF file of its own) is damaged."""
    if not isinstance(exif, bytes):
        return 1
    try:
        for tag, value in _tags(exif.removeprefix(b"Exif\x00\x00")):
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except (struct.error, ValueError):
        pass
    return 1


def decoders_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """(width, height) of what the decoder will unpack at once, where that may differ from what Pillow says.

    Of a TIFF it is the tile, (0, 0) where it has none; of an AVIF the largest frame. struct.error, ValueError or
    IndexError: the header is damaged.
    """
    if kind == "PNG":  # libpng goes by the first IHDR, Pillow by the last
        name, width, height = struct.unpack_from(">4sII", data, 12)
        if name != b"IHDR":
            raise ValueError(f"it begins with {name!r}, not with IHDR")
        return width, height
    if kind == "JPEG 2000":
        return _codestream_size(data)
    if kind == "WebP":
        return _webp_size(data)
    if kind == "AVIF":
        return largest_frame(data)
    if kind != "TIFF":
        return None
    sides = {_TILE_WIDTH: 0, _TILE_LENGTH: 0}
    for tag, value in _tags(data, most=_MAX_TIFF_TAGS):  # one may be there twice, for libtiff and for Pillow
        if tag in sides:
            sides[tag] = max(sides[tag], value)
    return sides[_TILE_WIDTH], sides[_TILE_LENGTH]


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a WebP's canvas (RFC 9649, 2.5 to 2.7), for which Pillow takes memory with the header."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
        return width + 1, height + 1
    if kind == b"VP8L":
        (sides,) = struct.unpack_from("<I", data, 21)
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _codestream_size(data: bytes) -> tuple[int, int]:
    """(width, height) by the codestream of a JPEG 2000 file, not by the boxes around it (ISO 15444-1, A.5.1, I.4)."""
    start = 0
    if not data.startswith(_CODESTREAM):
        start = next((first for kind, first, _ in boxes(data, 0, len(data)) if kind == b"jp2c"), len(data))
    if not data.startswith(_CODESTREAM, start):
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    return right - left, bottom - top


def _tags(tiff: bytes, most: int = 0xFFFF) -> Iterator[tuple[int, int]]:
    """(tag, value) of each entry that is one whole number in a TIFF's first directory (TIFF 6.0, 2; BigTIFF).

    None of what is no TIFF; struct.error where it is cut off, ValueError where it has more than `most` entries.
    """
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return
    big = struct.unpack_from(f"{order}H", tiff, 2) == (43,)
    offset, count, entry = (f"{order}{form}" for form in (("Q", "Q", "HHQ") if big else ("I", "H", "HHI")))
    (start,) = struct.unpack_from(offset, tiff, 8 if big else 4)
    (entries,) = struct.unpack_from(count, tiff, start)
    if entries > most:
        raise ValueError(f"{entries:,} tags, more than the {most:,} allowed")
    start, size = start + struct.calcsize(count), 20 if big else 12
    for at in range(start, start + size * entries, size):
        tag, kind, values = struct.unpack_from(entry, tiff, at)
        if kind in _WHOLE_NUMBERS and values == 1:
            yield tag, struct.unpack_from(order + _WHOLE_NUMBERS[kind], tiff, at + struct.calcsize(entry))[0]
