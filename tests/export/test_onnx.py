"""ONNX files against torch: the same pixels, the same detections."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import onnx_ir
import onnxruntime
import onnxscript
import pytest
import torch
from exported_files import HEADER
from numpy.testing import assert_allclose
from shape_checks import unchecked
from small_model import trace_each_model_once

import onestage
from onestage.data.generated import draw_image
from onestage.data.loader import stack_images
from onestage.detectors import build, detector_config
from onestage.detectors.m2det import M2DetConfig
from onestage.errors import UserError
from onestage.export.base import ModelToExport, selection_of
from onestage.export.check import compare
from onestage.export.graph_ends import by_image, choose_candidates, suppress, to_network_input
from onestage.export.onnx_graph import IR_VERSION, OPSET, write_onnx
from onestage.inference.predictor import ExportedPredictor, Predictor
from onestage.input_size import KeepRatio, Resize, Stretch, resize_image
from onestage.postprocess import select
from onestage.runtime.calibration import ScoreCalibration
from onestage.runtime.exported_file import ExportedFile
from onestage.runtime.session import load as load_session
from onestage.selection import Selection
from onestage.structures import Categories

BOX_SIDES = 200


def run(make: Callable[[Any, Any], dict[str, Any]], **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """A graph of the nodes that `make(op, values of the inputs)` gives, in ONNX Runtime."""
    graph = onnx_ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="g")
    builder = onnxscript.GraphBuilder(graph)
    values = {
        name: builder.input(name, onnx_ir.DataType.from_numpy(array.dtype), [None] * array.ndim)
        for name, array in inputs.items()
    }
    outputs = make(builder.op, values)
    for name, value in outputs.items():
        builder.add_output(value, name)
    proto = onnx_ir.to_proto(onnx_ir.Model(graph, ir_version=IR_VERSION))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return {name: np.asarray(array) for name, array in zip(outputs, session.run(list(outputs), inputs), strict=True)}


# ---------------------------------------------------------------------------------------------- images to the input


@pytest.mark.parametrize("resize", [Stretch(96), KeepRatio(64, 100)], ids=["stretch", "keep ratio"])
@pytest.mark.parametrize("size_hw", [(96, 96), (50, 70), (120, 110), (150, 191), (480, 640), (40, 400), (331, 97)])
def test_images_reach_the_network_as_the_predictors_do(resize: Resize, size_hw: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, *size_hw, 3), dtype=np.uint8)

    def graph(op: Any, values: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(("input", "image", "original"), to_network_input(op, values["images"], resize), strict=True))

    found = run(graph, images=images)
    image_hw = resize.image_hw(size_hw)
    expected = stack_images([resize_image(image, image_hw) for image in images], resize).transpose(0, 3, 1, 2)
    assert found["image"].tolist() == list(image_hw)
    assert found["original"].tolist() == list(size_hw)
    difference = np.abs(found["input"] - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.003  # a fifth has no last binary digit, so some halves are rounded either way


# ---------------------------------------------------------------------------------------------- boxes to detections


def candidates(seed: int, batch: int = 3, anchors: int = 300, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters of boxes, so that much is suppressed, with scores that are all different."""
    random = np.random.default_rng(seed)
    centres = random.uniform(20, BOX_SIDES - 20, (batch, 12, 2))[:, random.integers(0, 12, anchors)]
    centres += random.normal(0, 3, centres.shape)
    halves = random.uniform(8, 20, (batch, anchors, 2))
    boxes = np.concatenate([centres - halves, centres + halves], axis=-1).astype(np.float32)
    scores = random.permutation(batch * anchors * classes).reshape(batch, anchors, classes) / (
        batch * anchors * classes
    )
    return torch.from_numpy(boxes), torch.from_numpy(scores.astype(np.float32))


@pytest.mark.parametrize(
    "selection",
    [
        Selection(score_threshold=0.3),
        Selection(score_threshold=0.3, class_agnostic=True),
        Selection(score_threshold=0.2, candidates_per_class=20, max_detections=15),
        Selection(score_threshold=0.3, nms="soft-linear", candidates_per_class=60),
        Selection(score_threshold=0.3, nms="soft-gaussian", candidates_per_class=60),
        Selection(score_threshold=0.3, nms="soft-linear", class_agnostic=True, candidates_per_class=30),
        Selection(score_threshold=1.0),
    ],
    ids=["hard", "agnostic", "limits", "soft linear", "soft gaussian", "soft agnostic", "nothing found"],
)
def test_the_graph_selects_what_select_selects(selection: Selection) -> None:
    boxes_xyxy, scores = candidates(seed=1)
    limit = selection.max_detections or 0

    def graph(op: Any, values: dict[str, Any]) -> dict[str, Any]:
        chosen = choose_candidates(op, values["boxes"], values["scores"], scores.shape[2], selection)
        kept_scores, kept_indices = suppress(op, chosen, values["threshold"], selection)
        images = op.Slice(op.Shape(values["boxes"]), [0], [1])
        names = ("boxes_xyxy", "found_scores", "labels", "counts")
        return dict(zip(names, by_image(op, chosen, kept_scores, kept_indices, images, limit), strict=True))

    threshold = np.array([selection.score_threshold], dtype=np.float32)
    found = run(graph, boxes=boxes_xyxy.numpy(), scores=scores.numpy(), threshold=threshold)
    for row, expected in enumerate(select(boxes_xyxy, scores, selection)):
        count = len(expected)
        assert found["counts"][row] == count
        assert_allclose(found["boxes_xyxy"][row, :count], expected.boxes_xyxy.numpy(), atol=1e-4)
        assert_allclose(found["found_scores"][row, :count], expected.scores.numpy(), atol=1e-5)
        assert found["labels"][row, :count].tolist() == expected.labels.tolist()
        assert not found["found_scores"][row, count:].any()


# ---------------------------------------------------------------------------------------------- whole files

M2DET = cast(M2DetConfig, detector_config("m2det320-resnet50"))
TINY_M2DET = replace(M2DET, channels=16, num_levels=2, resnet_stages=(2, 3)).with_quick_start()
SMALL_RETINANET = replace(detector_config("retinanet-test_resnet"), channels=64, subnet_depth=1)
# its convolutions pad by formulas of the image's size, as tf_efficientnet_lite0's
SAME_PADDING = "gfl-tf_mobilenetv3_small_minimal_100"
SMALL_GFL = replace(detector_config(SAME_PADDING).adjusted({"edges": (120, 200)}), channels=32, prior=0.3)
CATEGORIES = Categories(("circle", "square", "star"), (1, 5, 90))
traced_once = pytest.fixture(scope="module", autouse=True)(trace_each_model_once)


@pytest.mark.no_cover  # torch's tracing would take two thirds longer
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ssd300-test_efficientnet", detector_config("ssd300-test_efficientnet")),
        ("retinanet-test_resnet", SMALL_RETINANET),
        ("retinanet-test_resnet", replace(SMALL_RETINANET.adjusted({"edges": (120, 200)}), anchor_style="torchvision")),
        ("m2det320-test_resnet", TINY_M2DET),
        (SAME_PADDING, SMALL_GFL),
    ],
    ids=["ssd", "retinanet", "torchvision's retinanet keeping ratios", "m2det", "gfl keeping ratios"],
)
def test_a_file_finds_what_its_model_finds(name: str, config: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = config.build(name, len(CATEGORIES), config.backbone_normalization("resnet50")).eval()
    _spread_scores(detector)
    papers = detector.evaluation_selection
    with unchecked():
        write_onnx(ModelToExport(detector, CATEGORIES, papers.changed(score_threshold=0.5), {}), tmp_path / "m.onnx")
    original = Predictor(detector, CATEGORIES, papers, device="cpu", precision="fp32")
    exported = ExportedPredictor(tmp_path / "m.onnx", selection=papers)
    assert exported.categories == CATEGORIES
    images = [draw_image(np.random.default_rng(seed), size).image for seed, size in enumerate((90, 300, 700))]
    images += [cv2.flip(images[1], 1)]  # a batch of one size
    expected = [original(image) for image in images]
    assert all(len(found) > 20 for found in expected)
    agreement = compare(expected, exported(images))
    assert agreement.share > 0.995, agreement


def _spread_scores(detector: torch.nn.Module) -> None:
    """Scores of an untrained network are all alike; larger weights in the last layer make them differ."""
    for parameter_name, parameter in detector.named_parameters():
        if parameter.ndim > 1 and any(
            last in parameter_name for last in ("class_convs", "class_subnet.last", "class_branch.last")
        ):
            parameter.data *= 8


@pytest.fixture(scope="module")
def ssd_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    detector = build("ssd300-test_efficientnet", len(CATEGORIES)).eval()
    _spread_scores(detector)
    path = tmp_path_factory.mktemp("export") / "ssd.onnx"
    selection = detector.evaluation_selection.changed(score_threshold=0.4)
    write_onnx(ModelToExport(detector, CATEGORIES, selection, {"a": "b"}), path)
    return path


def test_a_call_may_give_another_threshold_and_a_lower_limit(ssd_file: Path) -> None:
    image = draw_image(np.random.default_rng(0), 300).image
    predictor = ExportedPredictor(ssd_file)
    assert predictor.selection.score_threshold == 0.4  # the file's own
    predictor.selection = replace(predictor.selection, score_threshold=0.01, max_detections=7)
    few = predictor(image)
    assert len(few) == 7
    predictor.selection = replace(predictor.selection, score_threshold=float(few.scores[3]), max_detections=100)
    assert len(predictor(image)) == 3
    assert (predictor.session([image])[0].scores > 0.4).all()  # the file's own


def test_thresholds_and_probabilities_are_in_the_file_and_hold_in_every_engine_as_in_torch(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    detector = build("ssd300-test_efficientnet", len(CATEGORIES)).eval()
    _spread_scores(detector)
    image = draw_image(np.random.default_rng(0), 300).image
    everything = Predictor(detector, CATEGORIES, detector.evaluation_selection, device="cpu", precision="fp32")(image)
    of_each = [everything.scores[everything.labels == label] for label in range(len(CATEGORIES))]
    own = tuple(float((ones[2] + ones[3]) / 2) for ones in of_each)  # so that three of each class stay
    selection = detector.evaluation_selection.with_class_thresholds(own)
    calibration = ScoreCalibration(tuple(1.0 + label for label in range(len(CATEGORIES))), (-0.5,) * len(CATEGORIES))
    to_export = ModelToExport(detector, CATEGORIES, selection, {}, score_calibration=calibration)
    write_onnx(to_export, tmp_path / "m.onnx")

    exported, in_torch = onestage.load(tmp_path / "m.onnx"), Predictor(detector, CATEGORIES, selection, device="cpu")
    in_torch.calibration = calibration

    assert exported.selection.class_thresholds == own
    for found in (exported(image), in_torch(image), load_session(tmp_path / "m.onnx")(image)):
        assert np.bincount(found.labels, minlength=len(CATEGORIES)).tolist() == [3] * len(CATEGORIES)
        slopes, scores = 1.0 + np.asarray(found.labels), np.asarray(found.scores, dtype=np.float64)
        likely = 1 / (1 + np.exp(0.5) * ((1 - scores) / scores) ** slopes)  # the sigmoid of slope * logit - 0.5
        assert found.probabilities is not None
        np.testing.assert_allclose(found.probabilities, likely, atol=1e-6)
        assert [row["probability"] for row in found.to_dict()] == pytest.approx(likely, abs=6e-5)
    exported.selection = exported.selection.changed(score_threshold=min(own))  # a number takes their place
    assert len(exported(image)) > 3 * len(CATEGORIES)


def test_what_is_part_of_the_file_cannot_be_replaced(ssd_file: Path) -> None:
    predictor = ExportedPredictor(ssd_file)
    with pytest.raises(UserError, match="nms 'soft-gaussian', but 'hard' is part of this file"):
        predictor.selection = replace(predictor.selection, nms="soft-gaussian")


@pytest.mark.parametrize("asked", [201, None])
def test_exported_limit_more_detections_than_the_file_gives_are_refused(ssd_file: Path, asked: int | None) -> None:
    """SSD's own limit is 200 (Liu 2016, 3.1)."""
    predictor = ExportedPredictor(ssd_file)
    with pytest.raises(
        UserError, match=rf"ssd\.onnx: max_detections {asked}, but this file gives at most 200 an image"
    ):
        predictor.selection = replace(predictor.selection, max_detections=asked)
    assert predictor.selection.max_detections == 200


def test_a_pickled_file_and_threads_find_the_same(ssd_file: Path) -> None:
    predictor = ExportedPredictor(ssd_file)
    predictor.selection = replace(predictor.selection, score_threshold=0.2)
    images = [draw_image(np.random.default_rng(seed), 100 + 50 * seed).image for seed in range(4)]
    alone = [predictor(image) for image in images]
    for other in (predictor, pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(other, 2 * images))
        for one, expected in zip(found, 2 * alone, strict=True):
            assert len(expected) > 5
            assert_allclose(one.boxes_xyxy, expected.boxes_xyxy, atol=0.01)


def test_a_device_that_is_not_there_is_named(ssd_file: Path) -> None:
    with pytest.raises(UserError, match=r"tpu: this ONNX Runtime runs on .*CPUExecutionProvider"):
        ExportedPredictor(ssd_file, device="tpu")


def test_a_device_that_the_engine_has_but_can_not_use_is_named(ssd_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where CUDA's libraries are missing: the engine writes it in its log, and takes the processor."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *arguments, providers: session(*arguments))
    with pytest.raises(
        UserError, match=r"cuda: ONNX Runtime \S+ can't use it here and took CPUExecutionProvider; give"
    ):
        ExportedPredictor(ssd_file, device="cuda")


def test_a_selection_without_a_limit_is_refused(tmp_path: Path) -> None:
    detector = build("ssd300-test_efficientnet", 3).eval()
    with pytest.raises(UserError, match="max_detections is None"):
        write_onnx(ModelToExport(detector, CATEGORIES, Selection(max_detections=None), {}), tmp_path / "m.onnx")


def test_no_images_give_no_detections(ssd_file: Path) -> None:
    assert ExportedPredictor(ssd_file)([]) == []


def test_stretching_is_part_of_the_file(ssd_file: Path) -> None:
    """The box of an image that is twice as large is twice as large."""
    small = draw_image(np.random.default_rng(3), 300).image
    large = np.repeat(np.repeat(small, 2, axis=0), 2, axis=1)
    predictor = ExportedPredictor(ssd_file)
    predictor.selection = replace(predictor.selection, score_threshold=0.01, max_detections=1)
    one, two = predictor([small, large])
    assert_allclose(two.boxes_xyxy, 2 * one.boxes_xyxy, atol=4)


@pytest.mark.parametrize(
    "change",
    [{"nms": 5}, {"max_detections": None}, {"unknown": 1}, {"class_agnostic": "yes"}],
    ids=lambda c: next(iter(c)),
)
def test_a_selection_that_was_tampered_with_is_refused(change: dict[str, Any]) -> None:
    header = {**HEADER, "selection": {**asdict(Selection()), **change}}
    with pytest.raises(UserError, match="the selection in its header is damaged"):
        selection_of(ExportedFile("m.onnx", b"", header))
    assert selection_of(ExportedFile("m.onnx", b"", {**HEADER, "selection": asdict(Selection())})) == Selection()
