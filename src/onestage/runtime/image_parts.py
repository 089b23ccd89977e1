"""Counts the parts of an image file that would keep a decoder busy for longer than its size does, before it is decoded.

Each scan of a JPEG may cost as much as all pixels, each compressed text of a PNG 8 MB, each strip of a TIFF a Python
object. Within these bounds, and those on sizes and reads in `decode.py`, no known bomb takes two seconds at 25 million
pixels, but for JPEG 2000: its code blocks and layers are not counted.
"""

from __future__ import annotations

import re
import struct
from collections import Counter

from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

MAX_SCANS = 64  # of a JPEG; encoders write 1 to 15
MAX_CHUNKS = 100_000  # of a PNG; encoders write one for each 8 kB or more
MAX_EXTRA_CHUNKS = 250  # of a PNG, without pixels; libpng has a line of warning for each that is bad
MAX_PACKED_CHUNKS = 64  # of those, compressed
MAX_STRIPS = 1 << 16  # of a TIFF, or tiles
MAX_RUN_LENGTH_PIXELS = 4_000_000  # of a BMP with run lengths, which Pillow unpacks in Python

_JPEG_SEGMENT = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # a marker that a length follows; SOI; EOI
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_PACKED_CHUNKS, _PIXEL_CHUNKS = (b"zTXt", b"iTXt", b"iCCP"), (b"IDAT", b"fdAT", b"fcTL")
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324  # tags of TIFF 6.0


class CountedTiff(TiffImageFile):
    """Pillow's reader of TIFF, which makes an object for each strip or tile: for so many and no more."""

    def _setup(self) -> None:
        for tag in (_STRIP_OFFSETS, _TILE_OFFSETS):
            if len(self.tag_v2._tagdata.get(tag, b"")) > 4 * MAX_STRIPS:  # undecoded: 4 bytes each
                raise ValueError(f"more than {MAX_STRIPS:,} strips or tiles")
        super()._setup()


def too_many_parts(image: ImageFile, data: bytes, header_end: int) -> str | None:
    """Why a file would take too long to decode, or None. `header_end` is where Pillow stopped reading its header."""
    if image.format == "JPEG" and not _has_one_scan(image, data, header_end) and _scans(data, header_end) > MAX_SCANS:
        return f"a JPEG of more than {MAX_SCANS} scans"
    if image.format == "PNG":
        kinds = _chunks(data)
        extra = kinds.total() - sum(kinds[kind] for kind in _PIXEL_CHUNKS)
        packed = sum(kinds[kind] for kind in _PACKED_CHUNKS)
        if kinds.total() > MAX_CHUNKS or extra > MAX_EXTRA_CHUNKS or packed > MAX_PACKED_CHUNKS:
            return f"a PNG of {kinds.total():,} chunks, {extra:,} of them beside its pixels, {packed:,} compressed"
    run_lengths = any(tile.codec_name == "bmp_rle" for tile in image.tile)
    if run_lengths and image.width * image.height > MAX_RUN_LENGTH_PIXELS:
        return f"a BMP of run lengths with more than {MAX_RUN_LENGTH_PIXELS:,} pixels"
    return None


def _has_one_scan(image: ImageFile, data: bytes, header_end: int) -> bool:
    """True for a sequential JPEG whose first scan, behind whose head Pillow stopped, has all components."""
    components = getattr(image, "layers", 0)
    length = 6 + 2 * components
    head = _SCAN + struct.pack(">HB", length, components)
    return "progressive" not in image.info and data.startswith(head, header_end - 2 - length)


def _scans(data: bytes, position: int) -> int:
    """Number of scans of a JPEG, from behind the head of the first one on; no more are counted than are too many."""
    if data.count(_SCAN, position) < MAX_SCANS:  # fast, and never below the true number
        return 1
    scans = 1
    for _ in range(8 * MAX_SCANS):  # tables stand between scans
        segment = _JPEG_SEGMENT.search(data, position)
        if segment is None or segment[0] == _END:
            return scans
        scans += segment[0] == _SCAN
        position = segment.end() + int.from_bytes(data[segment.end() : segment.end() + 2])
    return MAX_SCANS + 1


def _chunks(data: bytes) -> Counter[bytes]:
    """How many chunks of each kind a PNG has; no more are counted than are too many."""
    kinds: Counter[bytes] = Counter()
    position = 8
    for _ in range(MAX_CHUNKS + 1):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        kinds[kind] += 1
        position += 12 + length
        if kind == b"IEND":
            break
    return kinds
