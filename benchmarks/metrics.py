"""Seconds for the VOC and COCO metrics of a data set of COCO val2017's size, on random boxes.

python benchmarks/metrics.py [--images 5000] [--detections 400000] [--no-pycocotools] [--json metrics.json]
"""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from side_by_side import Result, show, time_in_turn, write_results

from onestage.evaluation import coco_metrics, voc_average_precision
from onestage.structures import DetectionTable, GroundTruth

OBJECTS_A_IMAGE = 7  # as in COCO
GOAL_SECONDS = 3.0  # VOC's and COCO's together


@dataclass(frozen=True)
class Options:
    """Time the metrics."""

    images: int = 5_000
    detections: int = 400_000
    classes: int = 80
    rounds: int = 5
    pycocotools: bool = True  # beside them, once, which takes most of a minute
    json: Path | None = None


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 500, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(5, 140, (count, 2))], axis=1)


def draw_tables(options: Options) -> tuple[GroundTruth, DetectionTable]:
    """Random objects, and detections of which half lie near an object."""
    rng = np.random.default_rng(0)
    objects = OBJECTS_A_IMAGE * options.images
    boxes_xyxy, labels = draw_boxes(rng, objects), rng.integers(0, options.classes, objects)
    image_index = rng.integers(0, options.images, objects)
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    truth = GroundTruth(
        options.images, image_index, labels, boxes_xyxy, np.zeros(objects, dtype=bool), sides.prod(axis=1)
    )
    near = rng.integers(0, objects, options.detections // 2)
    others = options.detections - len(near)
    found = DetectionTable(
        np.concatenate([image_index[near], rng.integers(0, options.images, others)]),
        np.concatenate([labels[near], rng.integers(0, options.classes, others)]),
        rng.uniform(0, 1, options.detections),
        np.concatenate([boxes_xyxy[near] + rng.normal(0, 6, (len(near), 4)).clip(-2, 2), draw_boxes(rng, others)]),
    )
    return truth, found


def pycocotools_metrics(truth: GroundTruth, found: DetectionTable, classes: int) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(table: GroundTruth | DetectionTable) -> list[dict]:
        xywh = np.concatenate([table.boxes_xyxy[:, :2], table.boxes_xyxy[:, 2:] - table.boxes_xyxy[:, :2]], axis=1)
        columns = zip(table.image_index.tolist(), table.labels.tolist(), xywh.tolist(), strict=True)
        return [
            {"id": row + 1, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for row, (image, label, box) in enumerate(columns)
        ]

    with contextlib.redirect_stdout(io.StringIO()):
        theirs: Any = COCO()
        theirs.dataset = {
            "images": [{"id": image} for image in range(truth.num_images)],
            "categories": [{"id": label} for label in range(classes)],
            "annotations": rows(truth),
        }
        theirs.createIndex()
        scored = [row | {"score": score} for row, score in zip(rows(found), found.scores.tolist(), strict=True)]
        evaluation = COCOeval(theirs, theirs.loadRes(scored), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()


def main(options: Options) -> None:
    truth, found = draw_tables(options)
    timings = time_in_turn(
        {
            "VOC": lambda: voc_average_precision(truth, found, options.classes),
            "COCO": lambda: coco_metrics(truth, found, options.classes),
        },
        rounds=options.rounds,
    )
    rows = [(name, f"{timing.median:.2f}") for name, timing in timings.items()]
    if options.pycocotools:
        began = time.perf_counter()
        pycocotools_metrics(truth, found, options.classes)
        rows.append(("COCO by pycocotools", f"{time.perf_counter() - began:.1f}"))
    both = sum(timing.median for timing in timings.values())
    result = Result(
        name="Metrics",
        command="python benchmarks/metrics.py" + ("" if options.pycocotools else " --no-pycocotools"),
        columns=("metrics", "s"),
        rows=tuple(rows),
        goals=(
            f"VOC and COCO together under {GOAL_SECONDS:g} s; measured {both:.2f}: "
            f"{'met' if both < GOAL_SECONDS else 'not met'}",
        ),
        notes=(
            f"{options.images:,} images, {len(truth.labels):,} objects, {len(found.labels):,} detections of "
            f"{options.classes} classes; medians of {options.rounds} rounds"
            + (", pycocotools once." if options.pycocotools else "."),
        ),
    )
    show(result)
    write_results(options.json, [result])


if __name__ == "__main__":
    main(tyro.cli(Options))
