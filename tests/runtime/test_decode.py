"""The one decode function. Reliability cases: bad-images, modes, huge, two-headers, memory-is-not-damage."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from folders import write_image
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from onestage.runtime.decode import ImageError, check_image, decode_image, read_header


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def scene(height: int = 48, width: int = 72) -> np.ndarray:
    """Smooth colours, no symmetry: a red block stands in the upper left."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=2).astype(np.uint8)
    image[8:16, 10:30] = (255, 0, 0)
    return image


def test_an_ordinary_jpeg_is_what_opencv_decodes(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", (375, 500))
    bgr = cv2.imread(str(tmp_path / "a.jpg"))
    assert bgr is not None
    np.testing.assert_array_equal(decode_image(tmp_path / "a.jpg"), bgr[..., ::-1])


def test_a_path_and_its_bytes_give_the_same_pixels(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(decode_image(data), decode_image(str(tmp_path / "a.png")))


@pytest.mark.parametrize(("min_side", "shape"), [(None, (300, 400, 3)), (200, (300, 400, 3)), (150, (150, 200, 3))])
def test_a_jpeg_comes_out_smaller_only_where_asked_and_where_enough_is_left(min_side, shape) -> None:
    data = encoded(Image.fromarray(scene(300, 400)), "JPEG")
    assert decode_image(data, min_side=min_side).shape == shape


def test_a_reduced_jpeg_keeps_its_colours() -> None:
    data = encoded(Image.new("RGB", (64, 64), (200, 30, 60)), "JPEG", quality=95)
    np.testing.assert_allclose(decode_image(data, min_side=32)[16, 16], (200, 30, 60), atol=4)


MODES = {
    "L": lambda rgb: rgb.convert("L"),
    "LA": lambda rgb: rgb.convert("L").convert("LA"),
    "P": lambda rgb: rgb.quantize(16),
    "RGB": lambda rgb: rgb,
    "RGBA": lambda rgb: rgb.convert("RGBA"),
    "1": lambda rgb: rgb.convert("1"),
}


KINDS = {
    "PNG": ("L", "LA", "P", "RGB", "RGBA", "1"),
    "TIFF": ("L", "LA", "P", "RGB", "RGBA", "1"),
    "WebP": ("L", "LA", "P", "RGB", "RGBA", "1"),
    "BMP": ("L", "P", "RGB", "1"),
    "GIF": ("L", "P", "1"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in KINDS.items() for mode in modes])
def test_modes_every_lossless_mode_gives_pillows_rgb(kind: str, mode: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WebP" else {}
    data = encoded(MODES[mode](Image.fromarray(scene())), kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data), expected)
    header = check_image(data)
    assert (header.width, header.height, header.format) == (72, 48, kind)


def test_modes_alpha_is_dropped_not_blended() -> None:
    image = np.dstack([scene(), np.zeros((48, 72), np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(image), "PNG")), scene())


def test_modes_a_transparent_palette_and_colour_key_leave_the_colours_as_they_are() -> None:
    palette = Image.fromarray(scene()).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encoded(palette, "PNG", transparency=bytes(range(16)))), expected)
    keyed = encoded(Image.fromarray(scene()), "PNG", transparency=(255, 0, 0))
    np.testing.assert_array_equal(decode_image(keyed), scene())


def test_modes_sixteen_bits_keep_their_high_byte() -> None:
    values = (np.arange(48 * 72, dtype=np.uint16) * 18).reshape(48, 72)
    for kind in ("PNG", "TIFF"):
        image = decode_image(encoded(Image.fromarray(values), kind))
        np.testing.assert_array_equal(image, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))
    colour = np.dstack([values, values[::-1], values[:, ::-1]])
    data = cv2.imencode(".png", colour[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(data), (colour >> 8).astype(np.uint8))


def test_modes_cmyk_is_what_pillow_makes_of_it() -> None:
    data = encoded(Image.fromarray(scene()).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    np.testing.assert_allclose(decode_image(data)[12, 20], (255, 0, 0), atol=30)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WebP"])
def test_modes_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WebP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode_image(data), np.full((10, 20, 3), (255, 0, 0), np.uint8))


def test_modes_32_bit_pixels_are_refused_in_one_line() -> None:
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"32-bit pixels have no agreed range"):
        decode_image(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_modes_exif_orientation_is_applied_and_boxes_stay_within_a_pixel(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]  # how an upright image comes to be stored
    undo_exif = Image.Exif()
    undo_exif[0x0112] = undo
    upright = Image.fromarray(scene())
    carrier = Image.open(io.BytesIO(encoded(upright, "PNG", exif=undo_exif)))
    stored = ImageOps.exif_transpose(carrier)
    options = {"lossless": True} if kind == "WebP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(Image.fromarray(np.asarray(stored)), kind, exif=exif, **options)
    image = decode_image(data)
    np.testing.assert_allclose(image.astype(int), scene().astype(int), atol=6 if kind == "JPEG" else 0)
    rows, columns = np.nonzero((image[..., 0] > 240) & (image[..., 1] < 15) & (image[..., 2] < 15))
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(found, (10, 8, 30, 16), atol=1)
    header = read_header(data)
    assert (header.width, header.height) == (72, 48)


def test_modes_a_damaged_exif_block_means_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(scene()), "JPEG", exif=exif)
    start = data.index(b"Exif\0\0") + 6
    for damage in (b"XX", b"MM\0*\xff\xff\xff\xff"):
        broken = data[:start] + damage + data[start + len(damage) :]
        assert read_header(broken).orientation == 1


def test_modes_exif_behind_the_pixels_of_a_png_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(scene()), "PNG").removesuffix(PNG_END)
    turned = data + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + PNG_END
    np.testing.assert_array_equal(decode_image(turned), np.rot90(scene(), -1))
    assert read_header(turned).width == 48


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "P"), ("PNG", "RGB"), ("TIFF", "RGB"), ("JPEG", "CMYK"), ("WebP", "RGB")]
)
def test_modes_an_orientation_in_xmp_turns_neither_pixels_nor_header(kind: str, mode: str) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description tiff:Orientation=\"6\"/></x:xmpmeta>"
    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {"PNG": {"pnginfo": about}, "TIFF": {"tiffinfo": {700: xmp}}}.get(kind, {"xmp": xmp})
    data = encoded(Image.fromarray(scene()).convert(mode), kind, **options)
    assert b'tiff:Orientation="6"' in data
    assert decode_image(data).shape == (48, 72, 3)
    assert (check_image(data).width, check_image(data).height) == (72, 48)


def test_bad_images_all_300_are_named_and_none_crashes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = {
        kind: encoded(Image.fromarray(scene()), kind, **({"lossless": True} if kind == "WebP" else {}))
        for kind in ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF")
    }
    bad = [data[: int(part * len(data))] for data in good.values() for part in rng.uniform(0.02, 0.95, 40)]
    bad += [b"", b"\0" * 1000, b"<!DOCTYPE html><html><body>404</body></html>", b"\xff\xd8\xff", b"BM", b"GIF89a"]
    bad += [bytes(rng.integers(0, 256, 500, dtype=np.uint8)) for _ in range(300 - len(bad))]
    assert len(bad) == 300
    for number, data in enumerate(bad):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            check_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(ImageError):
            decode_image(path)


def test_bad_images_noise_in_the_middle_never_crashes() -> None:
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF"):
        data = np.frombuffer(encoded(Image.fromarray(scene()), kind), np.uint8)
        for _ in range(25):
            broken = data.copy()
            where = rng.integers(2, len(data), 8)
            broken[where] = rng.integers(0, 256, 8)
            try:
                image = decode_image(broken.tobytes())
            except ImageError:
                continue
            assert image.dtype == np.uint8
            assert image.shape[2] == 3


def test_bad_images_a_thumbnails_end_mark_does_not_make_a_cut_jpeg_whole() -> None:
    thumbnail = encoded(Image.fromarray(scene(16, 16)), "JPEG")
    whole = encoded(Image.fromarray(scene()), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(thumbnail)) + b"Exif\0\0" + thumbnail
    with_thumbnail = whole[:2] + segment + whole[2:]
    assert decode_image(with_thumbnail).shape == (48, 72, 3)
    with pytest.raises(ImageError, match="cut off"):
        decode_image(with_thumbnail[: len(with_thumbnail) * 9 // 10])


def test_a_jpeg_with_bytes_behind_its_end_is_whole() -> None:
    assert decode_image(encoded(Image.fromarray(scene()), "JPEG") + b"\0" * 100 + b"camera").shape == (48, 72, 3)


def test_bad_images_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path, tmp_path / "none.jpg", tmp_path / "none.jpg\0.png"):
        with pytest.raises(ImageError):
            decode_image(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file (PNG specification, 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


PNG, PNG_END = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")


def huge_files(side: int) -> dict[str, bytes]:
    """Files whose headers claim side x side pixels (16,383, its most, for a WebP)."""
    jpeg = bytearray(encoded(Image.fromarray(scene()), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    gif = bytearray(encoded(Image.fromarray(scene()).quantize(8), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    bmp = bytearray(encoded(Image.fromarray(scene()), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    tiff = bytearray(encoded(Image.fromarray(scene()), "TIFF"))
    (first,) = struct.unpack_from("<I", tiff, 4)
    for entry in range(first + 2, first + 2 + 12 * struct.unpack_from("<H", tiff, first)[0], 12):
        if struct.unpack_from("<H", tiff, entry)[0] in (256, 257):
            tiff[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    extended = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + 2 * (16_382).to_bytes(3, "little")
    webp = b"RIFF" + struct.pack("<I", len(extended)) + extended
    files = {"JPEG": bytes(jpeg), "GIF": bytes(gif), "BMP": bytes(bmp), "TIFF": bytes(tiff), "WebP": webp}
    return {"PNG": PNG + png_header(side, side) + PNG_END, **files}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WebP"])
def test_huge_a_30000_pixel_header_is_refused_before_decoding(kind: str) -> None:
    data = huge_files(30_000)[kind]
    decode_image(encoded(Image.fromarray(scene()), "TIFF"))  # the decoders are loaded
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(ImageError, match=r"pixels|too large"):
        decode_image(data)
    seconds, (_, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 0.05
    assert peak < 50e6


def test_huge_a_second_header_in_a_png_is_the_one_that_counts() -> None:
    data = PNG + png_header(10, 10) + png_header(9000, 9000) + chunk(b"IDAT", b"") + PNG_END
    with pytest.raises(ImageError, match="9000x9000 pixels, more than the 25,000,000 allowed"):
        decode_image(data, max_pixels=25_000_000)


def test_huge_a_tile_larger_than_its_tiff_is_refused() -> None:
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 1), (277, 1), (322, 20_000), (323, 20_000)]
    tags += [(324, 8 + 2 + 12 * 10 + 4), (325, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + 100)
    with pytest.raises(ImageError, match="20000x20000 pixels, more than the 89,478,485 allowed"):
        decode_image(data)


def endless_headers() -> dict[str, bytes]:
    """Headers of a million parts, and one whose texts unpack to 3 GB."""
    jpeg = encoded(Image.fromarray(scene()), "JPEG")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))
    before_pixels = PNG + png_header(72, 48)
    return {
        "JPEG segments": jpeg[:2] + 1_000_000 * b"\xff\xe1\0\2" + jpeg[2:],
        "JPEG junk": jpeg[:2] + b"\xff\xfe\0\2" + bytes(4_000_000) + jpeg[2:],
        "PNG chunks": before_pixels + 1_000_000 * chunk(b"teXt", b"") + PNG_END,
        "PNG texts": before_pixels + 3_000 * text + PNG_END,
        "GIF comments": b"GIF89a" + bytes(7) + 1_000_000 * b"!\xfe\1a\0",
    }


@pytest.mark.parametrize("kind", endless_headers())
def test_huge_a_header_without_an_end_is_refused_in_time(kind: str) -> None:
    data, began = endless_headers()[kind], time.process_time()
    with pytest.raises(ImageError, match=r"damaged (JPEG|PNG|GIF) header"):
        read_header(data)
    assert time.process_time() - began < 1


def test_huge_the_bound_is_the_callers() -> None:
    data = encoded(Image.fromarray(scene()), "PNG")
    assert decode_image(data, max_pixels=48 * 72).shape == (48, 72, 3)
    with pytest.raises(ImageError, match="72x48 pixels, more than the 3,455 allowed"):
        decode_image(data, max_pixels=48 * 72 - 1)


def jpeg2000(said: tuple[int, int], held: tuple[int, int]) -> bytes:
    """A JPEG 2000 file whose box (ihdr: height, width) and codestream (SIZ: Xsiz, Ysiz) say these (width, height)."""
    data = bytearray(encoded(Image.fromarray(scene()), "JPEG2000"))
    box, codestream = data.index(b"ihdr") + 4, data.index(b"\xff\x4f\xff\x51") + 8
    data[box : box + 8] = struct.pack(">II", *said[::-1])
    data[codestream : codestream + 8] = struct.pack(">II", *held)
    return bytes(data)


def tiled_tiff(side: int, *tiles: int, big: bool = False) -> bytes:
    """A gray TIFF of side x side pixels in one deflated tile; where several sizes are given, each has its own tags."""
    tags = [(256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(tag, tile) for tile in tiles for tag in (322, 323)] + [(324, 400), (325, 100)]
    head = b"II" + (struct.pack("<HHHQQ", 43, 8, 0, 16, len(tags)) if big else struct.pack("<HIH", 42, 8, len(tags)))
    entries = b"".join(struct.pack("<HHQQ" if big else "<HHII", tag, 4, 1, value) for tag, value in tags)
    return (head + entries + bytes(8)).ljust(400, b"\0") + zlib.compress(bytes(100))


def avif(said: tuple[int, int], held: tuple[int, int]) -> bytes:
    """An AVIF file of one colour whose box (ispe: width, height) says another size than its AV1 frame."""
    data = bytearray(encoded(Image.new("RGB", held, "red"), "AVIF", speed=10))
    box = data.index(b"ispe") + 8
    data[box : box + 8] = struct.pack(">II", *said)
    return bytes(data)


TWO_SIZES = {
    "AVIF": avif((10, 10), (4000, 4000)),
    "PNG, large then small": (PNG + png_header(4000, 4000) + png_header(10, 10) + chunk(b"IDAT", b"") + PNG_END),
    "JPEG 2000": jpeg2000((10, 10), (4000, 4000)),
    "JPEG 2000, the other way round": jpeg2000((4000, 4000), (72, 48)),
    "TIFF": tiled_tiff(10, 4000),
    "TIFF, tags twice": tiled_tiff(10, 4000, 16),
    "TIFF, tags twice, the other way round": tiled_tiff(10, 16, 4000),
    "BigTIFF": tiled_tiff(10, 4000, big=True),
}


@pytest.mark.parametrize("which", TWO_SIZES)
def test_two_headers_the_decoder_never_unpacks_another_size_than_the_header_says(which: str) -> None:
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"header says \d+x\d+ pixels, but its (data|tiles|frames) \d+x\d+; replace"):
        decode_image(TWO_SIZES[which])
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    with pytest.raises(ImageError, match="4000x4000 pixels, more than the 1,000,000 allowed"):
        read_header(TWO_SIZES[which], max_pixels=1_000_000)


def test_huge_a_tiff_of_many_tags_is_refused_without_a_word_on_each(capfd: pytest.CaptureFixture[str]) -> None:
    entries = b"".join(struct.pack("<HHII", 40_000 + tag, 7, 1 << 20, 8) for tag in range(1000))
    with pytest.raises(ImageError, match="1,000 tags, more than the 200 allowed"):
        decode_image(struct.pack("<2sHIH", b"II", 42, 8, 1000) + entries + bytes(4))
    assert capfd.readouterr() == ("", "")


def test_two_headers_files_that_say_one_size_are_decoded() -> None:
    image = Image.fromarray(scene())
    assert decode_image(jpeg2000((72, 48), (72, 48))).shape == (48, 72, 3)
    for more in ({}, {"save_all": True, "append_images": [image]}, {"subsampling": "4:4:4"}):
        assert decode_image(encoded(image, "AVIF", **more)).shape == (48, 72, 3)
    assert decode_image(encoded(image.convert("RGBA"), "AVIF")).shape == (48, 72, 3)
    for options in ({"lossless": True}, {"quality": 80}, {"exif": b"Exif\0\0"}):  # VP8L, VP8, VP8X
        assert decode_image(encoded(image, "WebP", **options)).shape == (48, 72, 3)


WITH_LITTLE_MEMORY = """
import io, resource, sys
from PIL import Image
from onestage.runtime.decode import ImageError, decode_image

image, files = Image.new("RGB", (3000, 3000), "red"), {}
for kind, options in {"JPEG": {}, "PNG": {}, "WebP": {"method": 0}, "TIFF": {"compression": "tiff_lzw"}}.items():
    file = io.BytesIO()
    image.save(file, kind, **options)
    decode_image(file.getvalue())
    files[kind] = file.getvalue()
del image
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
size = int(status["VmSize"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 4_000_000, resource.RLIM_INFINITY))
for kind, data in files.items():
    try:
        decode_image(data)
    except MemoryError as error:
        print(kind, "no memory", "not enough memory" in str(error) or not str(error))
    except ImageError as error:
        print(kind, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it limits its address space")
def test_memory_is_not_damage_a_lack_of_it_says_nothing_of_the_file() -> None:
    done = subprocess.run([sys.executable, "-c", WITH_LITTLE_MEMORY], capture_output=True, text=True)
    assert set(done.stdout.splitlines()) == {f"{kind} no memory True" for kind in ("JPEG", "PNG", "WebP", "TIFF")}


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "P"), ("PNG", "1"), ("JPEG", "CMYK"), ("JPEG", "L"), ("TIFF", "P")])
def test_modes_exif_turns_header_and_pixels_alike_in_every_mode(kind: str, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored top is the upright right side
    stored = Image.fromarray(scene()).convert(mode)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    turned, plain = (encoded(stored, kind, **options, **more) for more in ({"exif": exif}, {}))
    np.testing.assert_array_equal(decode_image(turned), np.rot90(decode_image(plain), -1))
    header = check_image(turned)
    assert (header.width, header.height) == (48, 72)
