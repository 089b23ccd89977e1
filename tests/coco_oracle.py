"""Random data sets, and what pycocotools, the protocol's own program, says of them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from onestage.evaluation.coco import COCO_METRICS
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
    """COCO's 12 numbers."""
    evaluator = pycocotools_evaluator(folder, truth, found, num_classes)
    return dict(zip(COCO_METRICS, map(float, evaluator.stats), strict=True))


def pycocotools_evaluator(folder: Path, truth: GroundTruth, found: DetectionTable, num_classes: int) -> COCOeval:
    """After `evaluate`, `accumulate` and `summarize`; ids are one more than labels and indices of images."""

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
    return evaluator
