"""The size of the AV1 frames in an AVIF file, which its decoder unpacks before it scales them to what the boxes say.

By ISO 14496-12 (boxes; 8.11.3, item locations) and the AV1 specification (5.3 to 5.5, sequence headers).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAX_PARTS = 4_000  # boxes, places of items, parts of an item's data; a photo has some dozens
_SEQUENCE_HEADER = 1


def largest_frame(data: bytes) -> tuple[int, int]:
    """(width, height) of the largest AV1 frame among the file's items, (0, 0) where there is none.

    Raises:
        struct.error, ValueError, IndexError: the file is damaged, or has too many parts.
    """
    sizes = [(0, 0)]
    for kind, start, end in boxes(data, 0, len(data)):
        if kind == b"meta":
            inside = {kind: data[first:last] for kind, first, last in boxes(data, start + 4, end)}
            items = _items(inside.get(b"iloc", b""), data, inside.get(b"idat", b""))
            sizes += [_size(header) for item in items for header in _sequence_headers(item)]
    return max(sizes, key=lambda size: size[0] * size[1])


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the content of each box between two places; ValueError and struct.error for damage."""
    for _ in range(_MAX_PARTS):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, start + 8), 16
        length = length or end - start
        if length < head:
            raise ValueError("a box of no length")
        yield kind, start + head, min(start + length, end)
        start += length
    raise ValueError(f"more than {_MAX_PARTS:,} boxes")


def _items(iloc: bytes, data: bytes, idat: bytes) -> Iterator[bytes]:
    """The data of each item, by the box of their locations."""
    if not iloc:
        return
    at, version, parts_left, bytes_left = 6, iloc[0], _MAX_PARTS, 2 * len(data)  # items don't overlap in usual files
    offset_size, length_size, base_size, index_size = iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4, iloc[5] & 15

    def take(size: int) -> int:
        nonlocal at
        at += size
        if at > len(iloc):
            raise ValueError("cut off")
        return int.from_bytes(iloc[at - size : at])

    id_size = 4 if version == 2 else 2
    for _ in range(take(id_size)):
        take(id_size)
        source = idat if version > 0 and take(2) & 15 == 1 else data
        take(2)
        base, parts = take(base_size), []
        for _ in range(take(2)):
            take(index_size if version > 0 else 0)
            offset, length = base + take(offset_size), take(length_size)
            parts.append(source[offset : offset + length if length else None])
            parts_left, bytes_left = parts_left - 1, bytes_left - len(parts[-1])
            if min(parts_left, bytes_left) < 0:
                raise ValueError("more parts than the file has room for")
        yield b"".join(parts)


def _sequence_headers(item: bytes) -> Iterator[bytes]:
    """The sequence headers among an item's units (AV1, 5.3); of what is no AV1 none, or nonsense."""
    at = 0
    for _ in range(_MAX_PARTS):
        if at >= len(item):
            return
        head = item[at]
        kind, at = head >> 3 & 15, at + (2 if head & 4 else 1)
        size = len(item) - at
        if head & 2:  # the size is told, in 7 bits a byte
            size = 0
            for shift in range(0, 56, 7):
                byte, at = item[at], at + 1
                size |= (byte & 127) << shift
                if byte < 128:
                    break
        if kind == _SEQUENCE_HEADER:
            yield item[at : at + min(size, 256)]
        at += size
    raise ValueError(f"more than {_MAX_PARTS:,} parts of an item")


def _size(header: bytes) -> tuple[int, int]:
    """Largest width and height of frames by a sequence header (AV1, 5.5.1); ValueError for one that no image has."""
    bits, left = int.from_bytes(header), 8 * len(header)

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise ValueError("a sequence header that is cut off")
        return bits >> left & (1 << count) - 1

    take(4)
    if take(1):  # a header for still images
        take(5)
    else:
        if take(1):
            raise ValueError("a sequence header with times, which no image has")
        delays = take(1)
        for _ in range(take(5) + 1):
            take(12)
            if take(5) > 7:
                take(1)
            if delays and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    return take(width_bits) + 1, take(height_bits) + 1
