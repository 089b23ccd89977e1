"""Images of any size and make in, detections in their own pixels out."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from red_box import CATEGORIES, RedBoxDetector, red_box
from small_model import write_small_model

from onestage.compute.device import Precision
from onestage.detectors import build
from onestage.errors import UserError
from onestage.inference.predictor import AnyImage, Predictor, load, read_image
from onestage.models.model_file import save_model
from onestage.postprocess import Selection
from onestage.runtime.decode import ImageError, decode_image
from onestage.structures import Categories, Detections


def png(image: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    return encoded.getvalue()


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")


def assert_found(found: Detections, box_xyxy: tuple[int, int, int, int], within: float) -> None:
    assert found.names == ("blue", "red")
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.boxes_xyxy[0].numpy(), box_xyxy, atol=within)


@pytest.mark.parametrize(("width", "height"), [(100, 100), (400, 200), (50, 300), (3, 3)])
def test_boxes_are_pixels_of_the_original_image(predictor: Predictor, width: int, height: int) -> None:
    box = (width // 3, height // 3, width - width // 3, height - height // 3)
    one_pixel_of_the_input = max(width, height) / 100
    assert_found(predictor(red_box(width, height, box)), box, within=one_pixel_of_the_input)


def test_every_way_to_give_an_image_gives_the_same_detections(predictor: Predictor, tmp_path: Path) -> None:
    box = (40, 60, 120, 180)
    image = red_box(200, 300, box)
    (tmp_path / "a.png").write_bytes(png(image))
    ways: list[AnyImage] = [image, png(image), tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image)]
    for found in predictor(ways):
        assert_found(found, box, within=0)


def test_a_list_gives_a_list_in_order_whatever_the_batch_size(predictor: Predictor) -> None:
    boxes = [(0, 0, 10 * n, 20) for n in range(1, 6)]
    images = [red_box(100, 100, box) for box in boxes]
    for batch_size in (1, 2, 5, 8):
        found = predictor(images, batch_size=batch_size)
        assert [one.boxes_xyxy.tolist() for one in found] == [[list(map(float, box))] for box in boxes]
    assert predictor(images[:1])[0].boxes_xyxy.tolist() == [[0, 0, 10, 20]]
    assert predictor([]) == []


def test_an_image_with_nothing_in_it_gives_no_detections(predictor: Predictor) -> None:
    found = predictor(np.zeros((20, 30, 3), dtype=np.uint8))
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)


def test_an_unreadable_file_is_an_outcome_and_the_rest_go_on(predictor: Predictor, tmp_path: Path) -> None:
    images = [red_box(100, 50, (0, 0, 10 * n, 10)) for n in range(1, 5)]
    paths = [tmp_path / f"{n}.png" for n in range(6)]
    for path, image in zip((paths[0], paths[2], paths[3], paths[5]), images, strict=True):
        path.write_bytes(png(image))
    paths[1].write_text("<html>not found</html>")  # paths[4] does not exist
    for batch_size in (1, 2, 6, 8):
        results = list(predictor.predict_files(paths, batch_size=batch_size))
        assert [result.path for result in results] == paths
        outcomes = [result.outcome for result in results]
        assert [isinstance(outcome, ImageError) for outcome in outcomes] == [False, True, False, False, True, False]
        widths = [outcome.boxes_xyxy[0, 2].item() for outcome in outcomes if isinstance(outcome, Detections)]
        assert widths == [10, 20, 30, 40]
        assert results[1].image is None
        np.testing.assert_array_equal(results[2].image, images[1])
        assert "1.png" in str(outcomes[1])


def test_reading_goes_ahead_of_the_network_but_not_far(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(red_box(10, 10, (0, 0, 5, 5))))
    asked = 0

    def paths() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield path

    results = cast(Generator[Any, None, None], predictor.predict_files(paths(), batch_size=4))
    for _ in range(4):
        next(results)
    assert 4 < asked <= 4 + 4 + 1
    results.close()  # leaves no thread behind


def test_a_bad_image_in_a_list_is_an_error(predictor: Predictor) -> None:
    with pytest.raises(ImageError):
        predictor([red_box(10, 10, (0, 0, 5, 5)), b"no image"])


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 4), np.uint8), r"\(4, 4\).*uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_an_array_that_is_no_rgb_image_is_named(array: np.ndarray, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_image(array)


def test_a_batch_size_below_one_is_named(predictor: Predictor) -> None:
    with pytest.raises(UserError, match="batch size 0"):
        predictor([b""], batch_size=0)


def test_categories_that_do_not_fit_the_detector_are_named() -> None:
    with pytest.raises(UserError, match="red-box knows 2 classes, but 1 names"):
        Predictor(RedBoxDetector(), Categories.from_names(["red"]), device="cpu")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_pillow_image_has_the_pixels_that_its_file_has(mode: str) -> None:
    """Case `modes`."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, format="TIFF" if mode == "CMYK" else "PNG")
    np.testing.assert_array_equal(read_image(image), decode_image(encoded.getvalue()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_is_turned_upright_as_its_file_is(orientation: int) -> None:
    """Case `modes`, EXIF 1..8."""
    image = np.zeros((8, 16, 3), dtype=np.uint8)
    image[:4, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="JPEG", exif=exif, quality=100, subsampling=0)
    with Image.open(io.BytesIO(encoded.getvalue())) as opened:
        given = read_image(opened)
    expected = decode_image(encoded.getvalue())
    assert expected.shape == ((8, 16, 3) if orientation <= 4 else (16, 8, 3))
    np.testing.assert_allclose(given.astype(int), expected, atol=2)  # two JPEG decoders


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WebP"])
@pytest.mark.parametrize("loaded", [False, True])
def test_image_xmp_orientation_turns_a_pillow_image_no_more_than_its_file(kind: str, loaded: bool) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description tiff:Orientation=\"6\"/></x:xmpmeta>"
    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options: dict[str, Any] = {"PNG": {"pnginfo": about}, "TIFF": {"tiffinfo": {700: xmp}}}.get(kind, {"xmp": xmp})
    encoded = io.BytesIO()
    Image.new("P", (16, 8), 3).convert("P" if kind in ("PNG", "TIFF") else "RGB").save(encoded, kind, **options)
    with Image.open(io.BytesIO(encoded.getvalue())) as opened:
        if loaded and kind != "TIFF":  # Pillow turns a TIFF as it loads it
            opened.load()
        assert read_image(opened).shape == decode_image(encoded.getvalue()).shape == (8, 16, 3)
        assert "xmp" in opened.info


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WebP"])
def test_a_pillow_image_is_turned_once_whether_it_is_loaded_or_not(kind: str, loaded: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = io.BytesIO()
    Image.fromarray(np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)).save(
        encoded, kind, exif=exif, lossless=True
    )
    with Image.open(io.BytesIO(encoded.getvalue())) as opened:
        if loaded:
            opened.load()
        np.testing.assert_array_equal(read_image(opened), decode_image(encoded.getvalue()))


def test_a_cut_off_pillow_image_is_an_image_error() -> None:
    encoded = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(encoded, "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        read_image(Image.open(io.BytesIO(encoded.getvalue()[:2000])))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_copies_of_a_predictor_and_its_pickle_find_the_same(precision: Precision, tmp_path: Path) -> None:
    first = load(write_small_model(tmp_path / "m.safetensors"), device="cpu", precision=precision)
    first.selection = replace(first.selection, score_threshold=0.2)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    found = first(image)
    assert len(found) > 5
    torch.save(cast(Predictor, first).detector, tmp_path / "d.pt")
    for other in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        torch.testing.assert_close(other(image).boxes_xyxy, found.boxes_xyxy)


def test_threads_each_get_the_detections_of_their_own_image(predictor: Predictor) -> None:
    boxes = [(0, 0, 10 * n, 20) for n in range(1, 9)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda box: predictor(red_box(100, 100, box)).boxes_xyxy.tolist(), 5 * boxes))
    assert found == [[list(map(float, box))] for box in 5 * boxes]


def test_a_pillow_mode_without_rgb_meaning_is_named() -> None:
    with pytest.raises(ImageError, match="HSV"):
        read_image(Image.new("HSV", (4, 4)))


def test_a_saved_model_is_loaded_with_its_categories_and_finds_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = build("ssd300-tf_efficientnet_lite0", num_classes=2)
    save_model(tmp_path / "model.safetensors", detector, CATEGORIES)
    selection = Selection(score_threshold=0.05)
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)

    found = load(tmp_path, device="cpu", selection=selection, precision="fp32")(image)

    detector.eval()
    with torch.no_grad():
        images = torch.from_numpy(image).permute(2, 0, 1)[None]
        (expected,) = detector.detect(detector(images), selection, (300, 300))
    assert found.names == ("blue", "red")
    assert len(expected) > 0
    torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
