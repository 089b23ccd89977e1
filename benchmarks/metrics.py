"""Seconds for the VOC and COCO metrics of a data set of COCO val2017's size, on random boxes.

python benchmarks/metrics.py [--pictures 5000] [--detections 400000] [--pycocotools]
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from onestage.evaluation import coco_metrics, voc_average_precision
from onestage.structures import DetectionTable, GroundTruth

OBJECTS_A_PICTURE = 7  # as in COCO


@dataclass(frozen=True)
class Options:
    """Time the metrics."""

    pictures: int = 5_000
    detections: int = 400_000
    classes: int = 80
    rounds: int = 5
    pycocotools: bool = False  # beside them, which takes most of a minute


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 500, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(5, 140, (count, 2))], axis=1)


def draw_tables(options: Options) -> tuple[GroundTruth, DetectionTable]:
    """Random objects, and detections of which half lie near an object."""
    rng = np.random.default_rng(0)
    objects = OBJECTS_A_PICTURE * options.pictures
    boxes_xyxy, labels = draw_boxes(rng, objects), rng.integers(0, options.classes, objects)
    image_index = rng.integers(0, options.pictures, objects)
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    truth = GroundTruth(
        options.pictures, image_index, labels, boxes_xyxy, np.zeros(objects, dtype=bool), sides.prod(axis=1)
    )
    near = rng.integers(0, objects, options.detections // 2)
    others = options.detections - len(near)
    found = DetectionTable(
        np.concatenate([image_index[near], rng.integers(0, options.pictures, others)]),
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

    def seconds(what: Callable[[], object], rounds: int) -> float:
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            what()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    say = Console().print
    say(f"{options.pictures:,} pictures, {len(truth.labels):,} objects, {len(found.labels):,} detections")
    say(f"VOC  {seconds(lambda: voc_average_precision(truth, found, options.classes), options.rounds):.2f} s")
    say(f"COCO {seconds(lambda: coco_metrics(truth, found, options.classes), options.rounds):.2f} s")
    if options.pycocotools:
        say(f"pycocotools {seconds(lambda: pycocotools_metrics(truth, found, options.classes), 1):.1f} s")


if __name__ == "__main__":
    main(tyro.cli(Options))
