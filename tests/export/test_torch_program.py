"""Exported programs against the model: the same pixels, the same detections."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from shape_checks import unchecked

from onestage.data.augment import resize_image
from onestage.data.generated import draw_picture
from onestage.data.loader import stack_images
from onestage.detectors import build, detector_config
from onestage.errors import UserError
from onestage.export.check import compare
from onestage.export.torch_input import Prepared, in_original, prepare
from onestage.export.torch_program import export_torch_program
from onestage.export.torch_selection import select_in_batch
from onestage.inference.exported import ExportedPredictor, in_torch
from onestage.inference.predictor import Predictor
from onestage.input_size import KeepRatio, Resize, Stretch
from onestage.postprocess import Selection, select
from onestage.structures import Categories
from onestage.torch_archive.archive import PROGRAM, read_archive

SIDE = 200

STRANGER = """
import json, sys
sys.modules["onestage"] = None  # importing it fails
import numpy as np, torch, torchvision
header = {"onestage": ""}
program = torch.export.load(sys.argv[1], extra_files=header).module()
images = torch.from_numpy(np.load(sys.argv[2]))
boxes_xyxy, scores, labels, counts = program(images, torch.tensor([0.3]))
names = json.loads(header["onestage"])["categories"]["names"]
found = zip(boxes_xyxy, scores, labels, counts)
print(json.dumps([[b[:n].tolist(), s[:n].tolist(), [names[i] for i in l[:n]]] for b, s, l, n in found]))
"""


# ---------------------------------------------------------------------------------------------- pictures to the input


@pytest.mark.parametrize("resize", [Stretch(96), KeepRatio(64, 100)], ids=["stretch", "keep ratio"])
@pytest.mark.parametrize("size_hw", [(96, 96), (50, 70), (120, 110), (150, 191), (480, 640), (40, 400), (331, 97)])
def test_pictures_reach_the_network_as_the_predictors_do(resize: Resize, size_hw: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, *size_hw, 3), dtype=np.uint8)
    prepared = prepare(torch.from_numpy(images), resize)
    picture_hw = resize.picture_hw(size_hw)
    expected = stack_images([resize_image(image, picture_hw) for image in images], resize).transpose(0, 3, 1, 2)
    assert prepared.picture_hw.tolist() == list(picture_hw)
    assert prepared.original_hw.tolist() == list(size_hw)
    assert prepared.images.shape == expected.shape
    difference = np.abs(prepared.images.numpy() - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.003  # a fifth has no last binary digit, so some halves are rounded either way


def test_boxes_go_back_to_the_pixels_of_the_picture_and_end_at_its_border() -> None:
    sizes = (torch.tensor([50.0, 100.0]).double(), torch.tensor([100.0, 400.0]).double())  # 50 x 100 of 100 x 400
    boxes_xyxy = torch.tensor([[[10.0, 20, 30, 40], [0, 0, 128, 64]]])
    found = in_original(boxes_xyxy, Prepared(torch.zeros(1, 3, 64, 128), *sizes))
    assert found.tolist() == [[[40, 40, 120, 80], [0, 0, 400, 100]]]


# ---------------------------------------------------------------------------------------------- boxes to detections


def candidates(seed: int, batch: int = 3, anchors: int = 300, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Clusters of boxes, so that much is suppressed; some scores are equal."""
    random = np.random.default_rng(seed)
    centres = random.uniform(20, SIDE - 20, (batch, 12, 2))[:, random.integers(0, 12, anchors)]
    centres += random.normal(0, 3, centres.shape)
    halves = random.uniform(8, 20, (batch, anchors, 2))
    boxes = np.concatenate([centres - halves, centres + halves], axis=-1).clip(0, SIDE).astype(np.float32)
    scores = random.integers(0, 2000, (batch, anchors, classes)) / 2000
    return torch.from_numpy(boxes), torch.from_numpy(scores.astype(np.float32))


@pytest.mark.parametrize(
    "selection",
    [
        Selection(score_threshold=0.3),
        Selection(score_threshold=0.3, class_agnostic=True),
        Selection(score_threshold=0.2, candidates_per_class=20, max_detections=15),
        Selection(score_threshold=0.3, nms="soft-linear", candidates_per_class=60),
        Selection(score_threshold=0.3, nms="soft-gaussian", class_agnostic=True, candidates_per_class=30),
        Selection(score_threshold=0.9994),
        Selection(score_threshold=2.0),
        Selection(score_threshold=2.0, nms="soft-linear"),
    ],
    ids=["hard", "agnostic", "limits", "soft linear", "soft agnostic", "few found", "nothing found", "nothing, soft"],
)
def test_the_program_selects_what_select_selects(selection: Selection) -> None:
    boxes_xyxy, scores = candidates(seed=1)
    limit = selection.max_detections or 0
    program = _selecting(selection, limit)
    found = program(boxes_xyxy, scores, torch.tensor([selection.score_threshold]))
    for row, expected in enumerate(select(boxes_xyxy, scores, selection)):
        count = int(found[3][row])
        assert count == len(expected)
        assert torch.equal(found[0][row, :count], expected.boxes_xyxy)
        assert torch.equal(found[1][row, :count], expected.scores)
        assert torch.equal(found[2][row, :count], expected.labels)
        assert not found[1][row, count:].any()
        assert found[0].shape == (3, limit, 4)


def _selecting(selection: Selection, limit: int) -> torch.nn.Module:
    """As exported from a batch of another size."""

    class Selecting(torch.nn.Module):
        def forward(self, boxes_xyxy: Any, scores: Any, score_threshold: Any) -> Any:
            return select_in_batch(boxes_xyxy, scores, score_threshold, (SIDE, SIDE), selection, limit)

    batch = {0: torch.export.Dim("batch")}
    with unchecked(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (*candidates(seed=0, batch=2), torch.tensor([0.5]))
        return torch.export.export(Selecting(), example, dynamic_shapes=(batch, batch, None)).module()


# ---------------------------------------------------------------------------------------------- whole files

TINY_M2DET = replace(detector_config("m2det320-vgg16"), channels=16, num_levels=2).with_quick_start()
SMALL_RETINANET = detector_config("retinanet-test_resnet")
CATEGORIES = Categories(("circle", "square", "star"), (1, 5, 90))


@pytest.mark.no_cover  # torch's tracing would take two thirds longer
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ssd300-test_efficientnet", None),
        ("retinanet-test_resnet", SMALL_RETINANET.adjusted({"edges": (200, 330)})),
        ("m2det320-vgg16", TINY_M2DET),
    ],
    ids=["ssd", "retinanet keeping ratios", "m2det"],
)
def test_a_file_finds_what_its_model_finds(name: str, config: Any, tmp_path: Path) -> None:
    detector = _talkative(name, config)
    papers = detector.evaluation_selection
    with unchecked():
        export_torch_program(detector, CATEGORIES, papers, tmp_path / "m.pt2", {})
    original = Predictor(detector, CATEGORIES, papers, device="cpu", precision="fp32")
    exported = ExportedPredictor(tmp_path / "m.pt2", selection=papers, device="cpu")
    assert exported.categories == CATEGORIES
    pictures = [draw_picture(np.random.default_rng(seed), size).image for seed, size in enumerate((150, 700))]
    pictures.append(cv2.flip(pictures[0], 1))  # a batch of one size
    expected = [original(picture) for picture in pictures]
    assert all(len(found) > 20 for found in expected)
    whole = [in_torch(found) for found in exported.session(pictures, papers.score_threshold)]  # resized by the file
    agreement = compare(expected, whole)
    assert agreement.share > 0.995, agreement
    assert len(exported.session(pictures[:1], 2.0)[0]) == 0


def _talkative(name: str, config: Any) -> Any:
    """Scores of an untrained network are all alike; larger weights in the last layer part them."""
    torch.manual_seed(0)
    detector = build(name, len(CATEGORIES), config=config).eval()
    for parameter_name, parameter in detector.named_parameters():
        if parameter.ndim > 1 and ("class_convs" in parameter_name or "class_subnet.last" in parameter_name):
            parameter.data *= 8
    return detector


@pytest.fixture(scope="module")
def ssd_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "ssd.pt2"
    detector = _talkative("ssd300-test_efficientnet", None)
    with unchecked():
        export_torch_program(detector, CATEGORIES, detector.evaluation_selection, path, {"a": "b"})
    assert all(parameter.requires_grad for parameter in detector.parameters())  # left as it was
    return path


def test_a_stranger_runs_the_file_with_torch_alone(ssd_file: Path, tmp_path: Path) -> None:
    images = np.stack([draw_picture(np.random.default_rng(seed), 300).image[:200, :230] for seed in range(2)])
    np.save(tmp_path / "images.npy", images)
    run = [sys.executable, "-W", "error", "-c", STRANGER, str(ssd_file), str(tmp_path / "images.npy")]
    said = subprocess.run(run, check=True, capture_output=True, text=True)
    expected = ExportedPredictor(ssd_file, device="cpu").session(list(images), 0.3)
    for (boxes_xyxy, scores, names), one in zip(json.loads(said.stdout), expected, strict=True):
        assert_allclose(boxes_xyxy, one.boxes_xyxy, atol=1e-3)
        assert_allclose(scores, one.scores, atol=1e-5)
        assert names == [one.names[label] for label in one.labels]
        assert len(scores) > 20


def test_nothing_of_the_exporting_machine_is_in_the_file(ssd_file: Path) -> None:
    program = read_archive(ssd_file)[PROGRAM].decode()
    assert "site-packages" not in program
    assert ".py" not in program
    assert str(Path(__file__).parents[2]) not in program


def test_a_call_may_give_another_threshold_and_a_lower_limit(ssd_file: Path) -> None:
    picture = draw_picture(np.random.default_rng(0), 300).image
    predictor = ExportedPredictor(ssd_file, device="cpu")
    predictor.selection = replace(predictor.selection, score_threshold=0.01, max_detections=7)
    few = predictor(picture)
    assert len(few) == 7
    predictor.selection = replace(predictor.selection, score_threshold=float(few.scores[3]), max_detections=100)
    assert len(predictor(picture)) == 3


def test_a_selection_without_a_limit_is_refused(tmp_path: Path) -> None:
    detector = build("ssd300-test_efficientnet", 3).eval()
    with pytest.raises(UserError, match="max_detections is None"):
        export_torch_program(detector, CATEGORIES, Selection(max_detections=None), tmp_path / "m.pt2", {})
