"""Both protocols over one data set, and the form in which they are written down (`metrics.json`, the printed table)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from onestage.evaluation.coco import coco_metrics
from onestage.evaluation.voc import VocClassResult, VocResult, voc_average_precision
from onestage.structures import Categories, DetectionTable, GroundTruth

COLUMNS = ("class", "ground truths", "detections", "recall", "precision", "AP area", "AP 11-point")


@dataclass(frozen=True)
class Measurement:
    """How good a set of detections is, by both protocols."""

    voc: VocResult
    coco: dict[str, float]  # COCO's 12 numbers; -1 where no object stands behind one
    metrics: dict[str, Any]  # the content of metrics.json


def measure(
    truth: GroundTruth, found: DetectionTable, categories: Categories, iou_threshold: float = 0.5
) -> Measurement:
    """VOC's average precision (at one IoU) and COCO's 12 numbers; boxes are pixels of the original images.

    Raises:
        UserError: scores or boxes that are not finite, labels or images out of range.
    """
    voc = voc_average_precision(truth, found, len(categories), iou_threshold)
    coco = coco_metrics(truth, found, len(categories))
    return Measurement(voc, coco, metrics_json(voc, coco, categories, truth.num_images))


def metrics_json(voc: VocResult, coco: dict[str, float], categories: Categories, num_images: int) -> dict[str, Any]:
    """The content of `metrics.json`. What has no value (a class without objects) is null, since JSON has no NaN."""
    per_class = {name: _class_json(one) for name, one in zip(categories.names, voc.per_class, strict=True)}
    means = {"map_11point": _or_none(voc.map_11point), "map_area": _or_none(voc.map_area)}
    return {
        "voc": means | {"iou_threshold": voc.iou_threshold, "per_class": per_class},
        "coco": coco,
        "images": num_images,
    }


def print_table(result: VocResult, categories: Categories, console: Console) -> None:
    """Print the table of classes that SSD users know, the mean last; a dash is a class without objects."""
    title = f"PASCAL VOC protocol, IoU > {result.iou_threshold:g}"
    table = Table(title=title, title_justify="left", box=box.MINIMAL, pad_edge=False)  # fits in 80 columns
    for column in COLUMNS:
        table.add_column(column.replace(" ", "\n"), justify="left" if column == "class" else "right", overflow="fold")
    rows = table_rows(result, categories)
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1], style="bold")
    console.print(table)


def table_rows(result: VocResult, categories: Categories) -> list[tuple[str, ...]]:
    """The cells of the table as text, a row a class in label order, then the mean; columns as in `COLUMNS`."""
    rows = [
        (name, f"{one.ground_truths:,}", f"{one.detections:,}",
         *map(decimal, (one.recall, one.precision, one.ap_area, one.ap_11point)))
        for name, one in zip(categories.names, result.per_class, strict=True)
    ]  # fmt: skip
    objects = sum(one.ground_truths for one in result.per_class)
    detections = sum(one.detections for one in result.per_class)
    means = (decimal(result.map_area), decimal(result.map_11point))
    return [*rows, ("mean", f"{objects:,}", f"{detections:,}", "", "", *means)]


def decimal(value: float | None) -> str:
    """Three decimals, or a dash for what has no value (None, NaN, COCO's -1)."""
    return "-" if value is None or math.isnan(value) or value < 0 else f"{value:.3f}"


def _class_json(one: VocClassResult) -> dict[str, int | float | None]:
    return {
        "ground_truths": one.ground_truths,
        "detections": one.detections,
        "recall": _or_none(one.recall),
        "precision": _or_none(one.precision),
        "ap_11point": _or_none(one.ap_11point),
        "ap_area": _or_none(one.ap_area),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
