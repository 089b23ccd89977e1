"""Images of 16 bits: the same pixels in training, prediction and exported files; and images of rarer formats."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from folders import voc_xml, write_voc_folder
from PIL import Image

import onestage
from onestage.data import read_dataset
from onestage.data.table import Table
from onestage.data.validate import significant_bits, validate_images
from onestage.data_options import DataOptions
from onestage.detectors import build
from onestage.errors import UserError
from onestage.inference.predictor import BasePredictor, Predictor, read_image
from onestage.models.model_file import load_model, read_tensors, save_model, write_tensors
from onestage.runtime.decode import ImageError, decode_image, largest_value, read_header
from onestage.runtime.exported_file import ExportedFile
from onestage.structures import Categories

CATS = Categories.from_names(["cat"])
VALUES = (np.arange(60 * 80, dtype=np.uint16) % 4096).reshape(60, 80)  # 12 bits


COLOURS = np.stack([VALUES, VALUES[::-1], VALUES[:, ::-1]], axis=2)


def set_of(root: Path, values: np.ndarray) -> Table:
    """A VOC folder with one 16-bit image."""
    write_voc_folder(root, {"a": voc_xml([("cat", 5, 5, 20, 20)], filename="a.png")})
    (root / "JPEGImages/a.jpg").unlink()
    cv2.imwrite(str(root / "JPEGImages/a.png"), values[..., ::-1] if values.ndim == 3 else values)
    return read_dataset(root, "train")[0]


@pytest.mark.parametrize(("bits", "shift"), [(16, 8), (12, 4), (10, 2), (8, 0)])
def test_the_highest_eight_of_the_bits_in_use_are_kept(bits: int, shift: int, tmp_path: Path) -> None:
    values = VALUES & (2**bits - 1)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png").bits == 16
    pixels = decode_image(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(pixels, np.repeat((values >> shift)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["png", "lzw.tif", "<raw.tif", ">raw.tif"])
@pytest.mark.parametrize(("bits", "shift"), [(16, 8), (12, 4), (10, 2), (8, 0)])
def test_colours_keep_the_highest_eight_of_the_bits_in_use_as_gray_does(
    kind: str, bits: int, shift: int, channels: int, tmp_path: Path
) -> None:
    values, file = COLOURS & (2**bits - 1), tmp_path / f"a.{kind}"
    stored = np.dstack([values, np.full(values.shape[:2], 65_535, np.uint16)])[..., :channels]
    if kind.endswith("raw.tif"):
        file.write_bytes(raw_tiff(stored, kind[0]))
    else:
        cv2.imwrite(str(file), stored[..., [2, 1, 0, 3][:channels]])
    assert read_header(file).bits == 16
    assert largest_value(file) == values.max()
    np.testing.assert_array_equal(decode_image(file, bits=bits), values >> shift)


def raw_tiff(values: np.ndarray, order: str) -> bytes:
    """A TIFF of one strip without compression (TIFF 6.0, 2 and 6), in Intel's or in Motorola's order of bytes."""
    (height, width, channels), pixels = values.shape, values.astype(f"{order}u2").tobytes()
    after = 8 + len(pixels)
    tags = {256: width, 257: height, 258: after, 259: 1, 262: 2, 273: 8, 277: channels, 278: height, 279: len(pixels)}
    tags |= {338: 2} if channels == 4 else {}
    entries = [struct.pack(f"{order}HHLL", tag, 4, 1, value) for tag, value in tags.items() if tag not in (258, 338)]
    entries.insert(2, struct.pack(f"{order}HHLL", 258, 3, channels, after))  # behind the pixels: 16 bits a channel
    entries += [struct.pack(f"{order}HHLHH", 338, 3, 1, 2, 0)] if channels == 4 else []
    start = after + 2 * channels
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", start)
    depth = struct.pack(f"{order}{channels}H", *[16] * channels)
    return head + pixels + depth + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)


def test_a_large_tiff_keeps_them_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onestage.runtime.decode.MAX_PIXELS", 100)
    cv2.imwrite(str(tmp_path / "a.tif"), COLOURS[..., ::-1], [cv2.IMWRITE_TIFF_ROWSPERSTRIP, 16])
    np.testing.assert_array_equal(decode_image(tmp_path / "a.tif", max_pixels=None, bits=12), COLOURS >> 4)


def test_a_value_beyond_the_bits_in_use_is_white(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 60_000, dtype=np.uint16)).save(tmp_path / "a.png")
    assert (decode_image(tmp_path / "a.png", bits=12) == 255).all()


@pytest.mark.parametrize(("most", "bits"), [(255, 8), (256, 9), (4095, 12), (4096, 13), (65_535, 16)])
def test_the_bits_in_use_are_those_of_the_largest_value(most: int, bits: int, tmp_path: Path) -> None:
    values = np.zeros((60, 80), dtype=np.uint16)
    values[0, 0] = most
    assert significant_bits(set_of(tmp_path, values)) == bits


def test_a_set_without_such_images_is_read_as_ever(tmp_path: Path) -> None:
    table, _ = read_dataset(write_voc_folder(tmp_path, {"a": voc_xml()}), "train")
    assert significant_bits(table) == 16


@pytest.mark.parametrize("values", [VALUES, COLOURS], ids=["gray", "colour"])
def test_training_prediction_and_the_runtime_read_the_same_pixels(values: np.ndarray, tmp_path: Path) -> None:
    table = set_of(tmp_path, values)
    trained = table.with_bits(significant_bits(table)).pixels(0)
    detector = build("retinanet-test_efficientnet", 1)
    detector.input_bits = 12
    save_model(tmp_path / "m.safetensors", detector, CATS)
    predictor = onestage.load(tmp_path / "m.safetensors", device="cpu")
    assert isinstance(predictor, BasePredictor)
    predicted = read_image(table.image_path(0), predictor.input_bits)
    exported = decode_image(table.image_path(0), bits=ExportedFile("m.onnx", b"", {"input_bits": 12}).input_bits)
    np.testing.assert_array_equal(trained, np.broadcast_to((values >> 4).reshape(60, 80, -1), (60, 80, 3)))
    np.testing.assert_array_equal(predicted, trained)
    np.testing.assert_array_equal(exported, trained)


def test_a_predictor_finds_in_a_file_what_it_finds_in_its_pixels(tmp_path: Path) -> None:
    table = set_of(tmp_path, VALUES)
    detector = build("retinanet-test_efficientnet", 1)
    detector.input_bits = 12
    selection = replace(detector.evaluation_selection, score_threshold=0.0)
    predictor = Predictor(detector, CATS, selection, device="cpu", precision="fp32")
    of_file = predictor(table.image_path(0))
    (of_files,) = predictor.predict_files([table.image_path(0)])
    of_pixels = predictor(table.with_bits(12).pixels(0))
    assert len(of_pixels) > 0
    np.testing.assert_array_equal(of_file.scores.numpy(), of_pixels.scores.numpy())
    np.testing.assert_array_equal(of_files.outcome.scores.numpy(), of_pixels.scores.numpy())


@pytest.mark.parametrize("bits", [7, 17, "12", 12.0])
def test_a_header_with_bits_that_make_no_sense_is_refused(bits: object, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", build("retinanet-test_efficientnet", 1), CATS)
    tensors, header = read_tensors(tmp_path / "m.safetensors")
    write_tensors(tmp_path / "m.safetensors", tensors, header | {"input_bits": bits})
    with pytest.raises(UserError, match=r"input_bits in its header is .*, expected 8 to 16"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("extension", ["avif", "jp2"])
def test_avif_and_jpeg_2000_are_read(extension: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (80, 60), (200, 30, 60))
    image.save(tmp_path / f"a.{extension}", quality=95) if extension == "avif" else image.save(tmp_path / "a.jp2")
    np.testing.assert_allclose(decode_image(tmp_path / f"a.{extension}"), np.asarray(image), atol=6)
    cut = (tmp_path / f"a.{extension}").read_bytes()[:-40]
    with pytest.raises(ImageError):
        decode_image(cut)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 400, "HEIC (HEIF)"),
        (b"P6\n1 1\n255\nabc", "PPM"),
        (b"\0\0\2" + b"\0" * 9 + b"\1\0\1\0\x18\0abc", "TGA"),
        (b"\xff\x0a\x41\0", "JPEG XL"),
    ],
)
def test_images_of_an_unread_kind_are_named_as_what_they_are(data: bytes, kind: str) -> None:
    message = f"a {kind} image, which is not read here; convert it to JPEG or PNG"
    with pytest.raises(ImageError, match=re.escape(message)):
        decode_image(data)


def test_a_pointer_of_git_lfs_is_told_from_a_damaged_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ImageError, match=r"a.jpg: a pointer of Git LFS in place of the image; .* git lfs pull"):
        decode_image(tmp_path / "a.jpg")


def test_images_beyond_the_limit_are_read_where_an_option_allows_them(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path, {"a": voc_xml()})
    strict, _ = read_dataset(root, "train", options=DataOptions(max_pixels=60 * 80 - 1))
    (problem,) = validate_images(strict)
    assert problem.kind == "unreadable-image"
    assert problem.message.endswith("more than the 4,799 allowed; make it smaller, or allow more by --max-pixels")
    with pytest.raises(ImageError, match="more than the 4,799 allowed"):
        strict.pixels(0)
    allowed, _ = read_dataset(root, "train", options=DataOptions(max_pixels=60 * 80))
    assert validate_images(allowed) == []
    assert allowed.pixels(0).shape == (60, 80, 3)
