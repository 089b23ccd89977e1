"""COCO's 12 numbers against pycocotools, the protocol's own program."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onestage.errors import UserError
from onestage.evaluation.coco import COCO_METRICS, coco_metrics
from onestage.structures import DetectionTable, GroundTruth


def random_data_set(seed: int, *, num_images: int = 12, num_classes: int = 4) -> tuple[GroundTruth, DetectionTable]:
    """Objects of all three sizes, some crowds, segment areas smaller than the boxes, detections near them and not."""
    rng = np.random.default_rng(seed)
    count = 10 * num_images
    corner = rng.uniform(0, 300, (count, 2))
    size = np.exp(rng.uniform(np.log(8), np.log(250), (count, 2)))
    boxes_xyxy = np.concatenate([corner, corner + size], axis=1)
    truth = GroundTruth(
        num_images=num_images,
        image_index=rng.integers(0, num_images, count),
        labels=rng.integers(0, num_classes - 1, count),  # the last class has no objects
        boxes_xyxy=boxes_xyxy,
        ignored=rng.random(count) < 0.15,
        areas=size.prod(axis=1) * rng.uniform(0.4, 1.0, count),
    )
    rows = rng.integers(0, count, 20 * count)
    near = boxes_xyxy[rows] + rng.normal(0, 0.15, (len(rows), 4)) * np.tile(size[rows], 2)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    labels = np.where(rng.random(len(rows)) < 0.8, truth.labels[rows], rng.integers(0, num_classes, len(rows)))
    return truth, DetectionTable(truth.image_index[rows], labels, rng.random(len(rows)).round(3), near)


def by_pycocotools(folder: Path, truth: GroundTruth, found: DetectionTable, num_classes: int) -> dict[str, float]:
    def xywh(box: np.ndarray) -> list[float]:
        return [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]

    annotations = [
        {
            "id": 1 + row,
            "image_id": 1 + int(truth.image_index[row]),
            "category_id": 1 + int(truth.labels[row]),
            "bbox": xywh(truth.boxes_xyxy[row]),
            "area": float(truth.areas[row]),
            "iscrowd": int(truth.ignored[row]),
        }
        for row in range(len(truth.labels))
    ]
    results = [
        {
            "image_id": 1 + int(found.image_index[row]),
            "category_id": 1 + int(found.labels[row]),
            "bbox": xywh(found.boxes_xyxy[row]),
            "score": float(found.scores[row]),
        }
        for row in range(len(found.labels))
    ]
    data_set = {
        "info": {},
        "images": [{"id": 1 + i} for i in range(truth.num_images)],
        "categories": [{"id": 1 + label, "name": str(label)} for label in range(num_classes)],
        "annotations": annotations,
    }
    (folder / "objects.json").write_text(json.dumps(data_set))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "objects.json"))
        evaluator = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(COCO_METRICS, map(float, evaluator.stats), strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_all_twelve_numbers_equal_pycocotools_with_crowds_and_over_a_hundred_detections(
    tmp_path: Path, seed: int
) -> None:
    truth, found = random_data_set(seed)
    assert np.bincount(found.image_index * 4 + found.labels).max() > 100

    numbers = coco_metrics(truth, found, 4)

    assert list(numbers) == list(COCO_METRICS)
    assert numbers == pytest.approx(by_pycocotools(tmp_path, truth, found, 4), abs=1e-8)
    assert 0.05 < numbers["AP"] < 0.95


def test_a_single_object_found_is_one_whatever_its_row() -> None:
    """The case coco-odd of an annotation with id 0, which the protocol's program never matches."""
    box = np.array([[10.0, 10.0, 30.0, 30.0]])
    zero = np.zeros(1, dtype=np.int64)
    truth = GroundTruth(1, zero, zero, box, np.zeros(1, dtype=bool), np.array([400.0]))

    numbers = coco_metrics(truth, DetectionTable(zero, zero, np.array([0.9]), box), 1)

    assert numbers["AP"] == pytest.approx(1.0)
    assert (numbers["APm"], numbers["ARl"]) == (-1.0, -1.0)  # COCO's sign for: no such object


def test_without_detections_it_is_zero_and_without_objects_it_has_no_value() -> None:
    truth, found = random_data_set(0)
    no_rows = np.zeros(0, dtype=np.int64)
    nothing = DetectionTable(no_rows, no_rows, np.zeros(0), np.zeros((0, 4)))
    no_objects = GroundTruth(12, no_rows, no_rows, np.zeros((0, 4)), np.zeros(0, dtype=bool), np.zeros(0))

    assert coco_metrics(truth, nothing, 4)["AP"] == 0.0
    assert coco_metrics(no_objects, found, 4)["AP"] == -1.0


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    coco_metrics(*random_data_set(0), 4)

    assert capfd.readouterr() == ("", "")


def test_a_nan_score_is_refused_by_row() -> None:
    truth, found = random_data_set(0)
    scores = found.scores.copy()
    scores[5] = np.nan

    with pytest.raises(UserError, match="detections, row 5: score is nan"):
        coco_metrics(truth, DetectionTable(found.image_index, found.labels, scores, found.boxes_xyxy), 4)
