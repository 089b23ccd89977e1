"""Large TIFF images, decoded one strip or tile after the other: at once, Pillow takes five times the memory."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from itertools import product

import numpy as np
from jaxtyping import UInt8
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

# Tags of TIFF 6.0
_WIDTH, _LENGTH, _COMPRESSION, _ORIENTATION, _ROWS, _PLANES = 256, 257, 259, 274, 278, 284
_TILE_WIDTH, _TILE_LENGTH, _JPEG_TABLES = 322, 323, 347
_STRIPS, _TILES = (273, 279), (324, 325)  # where they are, and how long, in bytes
_SHORTS = (258, 259, 262, 266, 277, 317, 320, 338, 339, 530)  # numbers below 65,536: coding of samples, and colours
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_OLD_JPEG = 6  # a compression


def has_parts(image: TiffImageFile) -> bool:
    """False for what is decoded at once: colours one after the other; TIFF 6.0's JPEG, with tables elsewhere."""
    return image.tag_v2.get(_PLANES, 1) == 1 and image.tag_v2.get(_COMPRESSION) != _OLD_JPEG


def decode_parts(
    image: TiffImageFile, data: bytes, rgb: Callable[[TiffImageFile], UInt8[np.ndarray, "h w 3"]]
) -> tuple[UInt8[np.ndarray, "H W 3"], int]:
    """The pixels of an opened TIFF that `has_parts`, as they are stored, and their orientation by EXIF.

    `rgb` loads one part.

    Raises:
        Exception: whatever a damaged file makes Pillow raise.
    """
    tags = image.tag_v2
    width, height = int(tags[_WIDTH]), int(tags[_LENGTH])
    tiled = _TILES[0] in tags
    columns = int(tags[_TILE_WIDTH]) if tiled else width
    rows = int(tags[_TILE_LENGTH]) if tiled else min(height, int(tags.get(_ROWS, height)))
    offsets, counts = (tags[tag] for tag in (_TILES if tiled else _STRIPS))
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    corners = product(range(0, height, rows), range(0, width, columns))
    for (y, x), offset, count in zip(corners, offsets, counts, strict=True):
        size_hw = rows if tiled else min(rows, height - y), columns
        with TiffImageFile(io.BytesIO(_file_of_part(tags, data[offset : offset + count], size_hw, tiled))) as part:
            shown = pixels[y : y + rows, x : x + columns]
            shown[:] = rgb(part)[: shown.shape[0], : shown.shape[1]]
    orientation = tags.get(_ORIENTATION)
    return pixels, orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _file_of_part(tags: ImageFileDirectory_v2, data: bytes, size_hw: tuple[int, int], tiled: bool) -> bytes:
    """A TIFF file of one strip or tile: header, coded pixels, tags, and the values that are too long for these."""
    order, magic = ("<", b"II*\0") if tags.prefix == b"II" else (">", b"MM\0*")
    sides = {_LENGTH: size_hw[0], _WIDTH: size_hw[1]}
    sides |= {_TILE_LENGTH: size_hw[0], _TILE_WIDTH: size_hw[1]} if tiled else {_ROWS: size_hw[0]}
    place, length = _TILES if tiled else _STRIPS
    values = {tag: (_LONG, 1, struct.pack(f"{order}L", value)) for tag, value in sides.items()}
    values |= {place: (_LONG, 1, struct.pack(f"{order}L", 8)), length: (_LONG, 1, struct.pack(f"{order}L", len(data)))}
    for tag in _SHORTS:
        if tag in tags:
            numbers = tags[tag] if isinstance(tags[tag], tuple) else (tags[tag],)
            values[tag] = _SHORT, len(numbers), struct.pack(f"{order}{len(numbers)}H", *numbers)
    if _JPEG_TABLES in tags:
        values[_JPEG_TABLES] = _UNDEFINED, len(tags[_JPEG_TABLES]), tags[_JPEG_TABLES]
    start = 8 + len(data)
    entries, behind = struct.pack(f"{order}H", len(values)), b""
    for tag, (kind, count, value) in sorted(values.items()):
        if len(value) > 4:
            value, behind = struct.pack(f"{order}L", start + 6 + 12 * len(values) + len(behind)), behind + value
        entries += struct.pack(f"{order}HHL4s", tag, kind, count, value)
    return magic + struct.pack(f"{order}L", start) + data + entries + bytes(4) + behind
