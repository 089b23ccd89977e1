"""Predictors that cut images into tiles: a perfect detector, then ours in torch, in ONNX Runtime and in OpenVINO."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from folders import write_image
from red_box import CATEGORIES, RedBoxDetector, red_box
from small_detectors import FAMILIES, small
from small_detectors import NAMES as CLASSES
from small_model import NAMES, trace_each_model_once, write_small_model

import onestage
from onestage.compute.device import choose_compute
from onestage.data.table import Table, TableBuilder
from onestage.errors import UserError
from onestage.export.base import Calibration, ModelToExport
from onestage.export.onnx_graph import write_onnx
from onestage.export.openvino_graph import write_openvino
from onestage.inference.predictor import BasePredictor, Predictor, load
from onestage.models.model_file import load_model, save_model
from onestage.runtime.decode import ImageError, decode_image
from onestage.runtime.session import load as load_without_torch
from onestage.runtime.tiles import TileDetections, Tiling, merge_tiles
from onestage.structures import Categories, Detections
from onestage.tiled_detections import changed_tiling
from onestage.training.detect_all import detect_all

module_traced = pytest.fixture(scope="module", autouse=True)(trace_each_model_once)
TILING = Tiling(100, 40)


@pytest.fixture
def predictor() -> Predictor:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    predictor.tiling = TILING
    return predictor


@pytest.mark.parametrize("box", [(5, 7, 20, 30), (90, 40, 130, 75), (20, 50, 290, 70), (0, 0, 300, 200)])
def test_an_object_comes_out_once_in_pixels_of_the_image(predictor: Predictor, box: tuple[int, int, int, int]) -> None:
    found = predictor(red_box(300, 200, box))
    assert found.boxes_xyxy.tolist() == [list(map(float, box))]
    assert (found.labels.tolist(), found.names) == ([1], CATEGORIES.names)


def test_tiles_of_several_images_share_batches_and_images_keep_their_order(predictor: Predictor) -> None:
    boxes = [(10 * n, 20, 10 * n + 30, 60) for n in range(5)]
    images = [red_box(100 + 60 * n, 100, box) for n, box in enumerate(boxes)]  # of 1, 2, 3, 4 and 5 tiles
    found = predictor(images, batch_size=5)
    assert [one.boxes_xyxy.tolist() for one in found] == [[list(map(float, box))] for box in boxes]
    assert isinstance(predictor.detector, RedBoxDetector)
    assert predictor.detector.batch_sizes == [8, 7]


def test_few_images_that_are_cut_and_few_of_their_tiles_are_in_memory(predictor: Predictor) -> None:
    image, read = cv2.imencode(".png", red_box(700, 700, (1, 2, 30, 40)))[1].tobytes(), []
    files = predictor.predict_files((read.append(n) or image for n in range(30)), batch_size=8)  # of 121 tiles each
    next(files)
    assert len(read) <= 6  # else 16
    files.close()
    tiles = predictor.prepare(red_box(700, 700, (1, 2, 30, 40))).pixels
    assert len(tiles) == 121
    assert tiles[3] is not tiles[3]  # made when it is asked for


def test_a_file_that_can_not_be_read_keeps_its_place_between_tiled_images(predictor: Predictor) -> None:
    good = cv2.imencode(".png", red_box(300, 100, (1, 2, 30, 40))[..., ::-1])[1].tobytes()  # of 5 tiles
    found = list(predictor.predict_files([good, b"bad", good, b"bad"], batch_size=2))
    assert [isinstance(one.outcome, ImageError) for one in found] == [False, True, False, True]
    assert [one.path for one in found] == [good, b"bad", good, b"bad"]
    for one in found[::2]:
        assert isinstance(one.outcome, Detections)
        assert one.outcome.boxes_xyxy.tolist() == [[1, 2, 30, 40]]


def test_without_tiles_a_batch_is_as_large_as_asked(predictor: Predictor) -> None:
    predictor.tiling = None
    predictor([red_box(100, 100, (1, 2, 30, 40))] * 5, batch_size=3)
    assert isinstance(predictor.detector, RedBoxDetector)
    assert predictor.detector.batch_sizes == [3, 2]


@pytest.mark.parametrize(
    ("own", "tile", "overlap", "expected"),
    [
        (TILING, None, None, TILING),
        (TILING, "auto", None, TILING),
        (TILING, "none", None, None),
        (TILING, 200, None, Tiling(200, 40)),
        (TILING, 60, None, Tiling(60, 30)),
        (TILING, "auto", 10, Tiling(100, 10)),
        (None, None, None, None),
        (None, "auto", None, None),
        (None, 200, None, Tiling(200, 40)),
        (None, 200, 50, Tiling(200, 50)),
        (Tiling(100, 40, whole=True), 200, 50, Tiling(200, 50, whole=True)),
    ],
)
def test_what_a_user_asks_for(
    own: Tiling | None, tile: int | str | None, overlap: int | None, expected: Tiling | None
) -> None:
    assert changed_tiling(own, tile, overlap) == expected


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(UserError, match="tile overlap 20: there are no tiles; give their side, too"):
        changed_tiling(None, "auto", 20)
    with pytest.raises(UserError, match="tile large: expected auto, none, or a number of pixels"):
        changed_tiling(TILING, "large")


# --- our own detector

TILES = Tiling(250, 60, whole=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file that cuts images into tiles."""
    path = write_small_model(tmp_path_factory.mktemp("tiled") / "model.safetensors")
    loaded = load_model(path)
    loaded.detector.tiling = TILES
    save_model(path, loaded.detector, loaded.categories)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Table:
    root = tmp_path_factory.mktemp("large")
    builder = TableBuilder(root, "test", "voc")
    for index, size_hw in enumerate([(400, 600), (200, 240), (300, 500)]):
        write_image(root / f"{index}.png", size_hw, seed=index)
        nothing = np.zeros((0, 4), dtype=np.float32)
        builder.add(
            path=f"{index}.png", image_id=str(index), size_hw=size_hw, boxes_xyxy=nothing, labels=[], ignored=[]
        )
    return builder.build(Categories.from_names(NAMES))


def predicted(predictor: BasePredictor, images: Table) -> list[Detections]:
    predictor.selection = replace(predictor.selection, score_threshold=0.05)
    return predictor([images.image_path(row) for row in range(len(images))])


def assert_same(found: Detections, expected: Detections) -> None:
    """The same detections to a hundredth of a pixel and 1e-4; equal scores may stand in another order."""
    assert len(found) == len(expected) > 10
    assert torch.equal(found.labels.bincount(minlength=3), expected.labels.bincount(minlength=3))
    np.testing.assert_allclose(found.scores.numpy(), expected.scores.numpy(), atol=1e-4)
    one, other = (np.sort(boxes.boxes_xyxy.numpy(), axis=0) for boxes in (found, expected))
    np.testing.assert_allclose(one, other, atol=0.05)


def test_a_model_file_keeps_its_tiles_and_evaluation_detects_as_prediction_does(model: Path, images: Table) -> None:
    predictor = load(model, device="cpu", precision="fp32")
    assert predictor.tiling == TILES
    selection = replace(predictor.selection, score_threshold=0.05)
    advanced: list[int] = []
    evaluated = detect_all(
        load_model(model).detector,
        images,
        choose_compute("cpu", "fp32"),
        selection=selection,
        batch_size=3,
        advance=advanced.append,
    )
    for found, expected in zip(evaluated, predicted(predictor, images), strict=True):
        assert_same(found, expected)
    assert sum(advanced) == len(images)


def test_tiles_find_something_else_than_whole_images(model: Path, images: Table) -> None:
    tiled, whole = load(model, device="cpu"), load(model, device="cpu")
    whole.tiling = None
    counts = [[len(found) for found in predicted(one, images)] for one in (tiled, whole)]
    assert counts[0] != counts[1]


def assert_a_threshold_changes_no_box(predictor: BasePredictor, images: Table) -> None:
    image = decode_image(images.image_path(0))
    predictor.selection = replace(predictor.selection, score_threshold=0.05)
    everything = predictor(image)
    middle = everything.scores.median().item()
    predictor.selection = replace(predictor.selection, score_threshold=middle)
    found = predictor(image)
    assert 5 < len(found) < len(everything)
    assert torch.equal(found.boxes_xyxy, everything.filter(score=middle).boxes_xyxy)


def test_a_threshold_leaves_detections_out_but_tiles_merge_to_the_same_boxes(model: Path, images: Table) -> None:
    assert_a_threshold_changes_no_box(load(model, device="cpu", precision="fp32"), images)


def test_an_evaluation_above_a_threshold_has_the_same_boxes(model: Path, images: Table) -> None:
    detector, cpu = load_model(model).detector, choose_compute("cpu", "fp32")
    low, high = (replace(detector.evaluation_selection, score_threshold=score) for score in (0.05, 0.3))
    everything, found = (detect_all(detector, images, cpu, selection=selection) for selection in (low, high))
    assert 5 < sum(map(len, found)) < sum(map(len, everything))
    for one, every in zip(found, everything, strict=True):
        assert torch.equal(one.boxes_xyxy, every.filter(score=0.3).boxes_xyxy)


def tile_by_tile(predictor: BasePredictor, images: Table) -> list[Detections]:
    """What a predictor finds in each tile, given to it as an image of its own; merged."""
    whole, found = copy.copy(predictor), []
    whole.tiling, whole.selection = None, replace(predictor.selection, score_threshold=0.05)
    for row in range(len(images)):
        image = decode_image(images.image_path(row))
        windows = TILES.windows_xyxy(image.shape[:2])
        parts = [whole(np.ascontiguousarray(image[y0:y1, x0:x1])) for x0, y0, x1, y1 in windows.tolist()]
        arrays = [(one.boxes_xyxy.numpy(), one.scores.numpy(), one.labels.numpy()) for one in parts]
        merged = merge_tiles(TileDetections.of_tiles(windows, arrays), image.shape[:2], whole.selection.iou_threshold)
        found.append(Detections(*(torch.from_numpy(one) for one in (merged.boxes_xyxy, merged.scores, merged.labels))))
    return found


@pytest.fixture
def small_images(images: Table) -> Table:
    return images.subset(indices=[0, 1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino-int8"])
def test_tiles_are_detected_as_images_are(engine: str, family: str, small_images: Table, tmp_path: Path) -> None:
    detector = small(family).eval()
    detector.tiling, path = TILES, tmp_path / ("model.onnx" if engine == "onnx" else "model.xml")
    if engine == "torch":
        predictor: BasePredictor = Predictor(detector, CLASSES, device="cpu", precision="fp32")
    else:
        calibration = Calibration([lambda: small_images.pixels(0)])  # without a measure of what int8 loses
        precision, calibrated = ("int8", calibration) if engine == "openvino-int8" else ("fp32", None)
        selection = replace(detector.evaluation_selection, score_threshold=0.0)
        write = write_onnx if engine == "onnx" else write_openvino
        write(ModelToExport(detector, CLASSES, selection, {}, precision, calibrated), path)
        predictor = load(path)
    assert predictor.tiling == TILES
    expected = tile_by_tile(predictor, small_images)
    for found, one in zip(predicted(predictor, small_images), expected, strict=True):
        assert_same(found, one)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_an_exported_file_keeps_the_tiles_and_finds_the_same(
    model: Path, images: Table, form: str, tmp_path: Path
) -> None:
    suffix = {"onnx": ".onnx", "openvino": ".xml"}[form]
    path = onestage.export_model(model, format=form, out=tmp_path / f"model{suffix}").path
    exported = load(path)
    assert exported.tiling == TILES
    expected = predicted(load(model, device="cpu", precision="fp32"), images)
    for one, other in zip(predicted(exported, images), expected, strict=True):
        assert_same(one, other)
    assert_a_threshold_changes_no_box(exported, images)
    if form == "onnx":
        without_torch = load_without_torch(path, score_threshold=0.05)
        for row, other in enumerate(expected):
            one = without_torch(decode_image(images.image_path(row)))
            arrays = (torch.from_numpy(array) for array in (one.boxes_xyxy, one.scores, one.labels))
            assert_same(Detections(*arrays), other)
        image = decode_image(images.image_path(0))
        everything, half = without_torch(image), load_without_torch(path, score_threshold=0.3)(image)
        assert 5 < len(half) < len(everything)
        np.testing.assert_array_equal(half.boxes_xyxy, everything.filter(score=0.3).boxes_xyxy)
