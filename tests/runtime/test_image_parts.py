"""Case scan-bomb: the parts of image files that would keep a decoder busy are counted before it begins."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from onestage.runtime.decode import ImageError, check_image, decode_image, read_header

EMPTY_SCAN = b"\xff\xda\0\x08\1\1\0\1\x3f\0"  # of the luminance's AC coefficients, without data (ITU T.81, B.2.3)
END = b"\xff\xd9"


def encoded(kind: str, side: int = 64, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*more: bytes, mode: str = "RGB") -> bytes:
    data = encoded("PNG", mode=mode)
    return data[:-12] + b"".join(more) + data[-12:]


def tiff(strips: int) -> bytes:
    """A TIFF of 10 x 10 gray pixels with one strip said again and again."""
    tags = [(256, 1, 10), (257, 1, 10), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 1), (278, 1, 1)]
    offsets = 8 + 2 + 9 * 12 + 4  # behind this directory; the strips' lengths follow them
    tags = sorted([*tags, (273, strips, offsets), (279, strips, offsets + 4 * strips)])
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + struct.pack("<I", 8) * 2 * strips


def run_length_bmp(side: int) -> bytes:
    """A BMP of one pixel and then the end of the line, again and again: 4 bytes a row (BI_RLE8)."""
    rows = b"\1\0\0\0" * side + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + head + bytes(1024) + rows


def bombs() -> dict[str, bytes]:
    progressive = encoded("JPEG", progressive=True).removesuffix(END)
    sequential = encoded("JPEG").removesuffix(END)
    first_scan = sequential.index(b"\xff\xda")
    luminance_alone = sequential[:first_scan] + b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    false_end = b"\xff\xfe\0\6ab" + END  # a comment that holds an end mark
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1000)))
    return {
        "progressive scans": progressive + 3000 * EMPTY_SCAN + END,
        "scans behind a comment": progressive + false_end + 3000 * EMPTY_SCAN + END,
        "segments between scans": progressive + 100_000 * b"\xff\xfe\0\2" + 3000 * EMPTY_SCAN + END,
        "sequential scans": luminance_alone + 3000 * b"\xff\xda\0\x08\1\2\0\0\x3f\0" + END,
        "texts": png(*65 * [text]),
        "chunks of nobody": png(*300 * [chunk(b"teXt", b"")]),
        "pixel chunks": png(*100_000 * [chunk(b"IDAT", b"")], mode="P"),
        "strips": tiff(2_000_000),
        "run lengths": run_length_bmp(5000),
    }


@pytest.mark.parametrize("kind", bombs())
def test_scan_bomb_is_refused_before_decoding_and_named_by_the_check_before_training(kind: str) -> None:
    data, began = bombs()[kind], time.process_time()
    for read in (read_header, check_image, decode_image):
        with pytest.raises(ImageError, match=r"too long to decode|more than 65,536 strips") as caught:
            read(data)
        assert "\n" not in str(caught.value)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"progressive": True, "subsampling": 0}])
def test_scan_bomb_a_photo_with_a_film_behind_its_end_is_none(options: dict) -> None:
    film = 500 * EMPTY_SCAN
    photo = encoded("JPEG", **options)
    np.testing.assert_array_equal(decode_image(photo + film), decode_image(photo))


def test_scan_bomb_many_parts_that_are_usual_are_none() -> None:
    assert decode_image(tiff(10)).shape == (10, 10, 3)
    assert decode_image(png(*60 * [chunk(b"tEXt", b"exif:a\0b")])).shape == (64, 64, 3)
    assert decode_image(run_length_bmp(100)).shape == (100, 100, 3)
    assert decode_image(encoded("GIF", mode="P")).shape == (64, 64, 3)
