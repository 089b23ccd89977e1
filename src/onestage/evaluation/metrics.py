"""Both protocols over one data set, as numbers, as `metrics.json` and as the printed table."""

import math
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from onestage import html
from onestage.evaluation.coco import coco_metrics
from onestage.evaluation.voc import VocResult, voc_average_precision
from onestage.structures import Categories, DetectionTable, GroundTruth
from onestage.terminal import cell

COLUMNS = ("class", "ground truths", "detections", "recall", "precision", "AP area", "AP 11-point")
CLASS_FIELDS = ("ground_truths", "detections", "recall", "precision", "ap_11point", "ap_area")  # in metrics.json


@dataclass(frozen=True)
class Measurement:
    """How good a set of detections is, by both protocols."""

    voc: VocResult
    coco: dict[str, float]  # COCO's 12 numbers; -1 for one without any object behind it
    metrics: dict[str, Any]  # the content of metrics.json; None for a value that does not exist

    def _repr_html_(self) -> str:
        """What a notebook shows: the table, and COCO's AP."""
        categories = Categories.from_names(self.metrics["voc"]["per_class"])
        coco = f"COCO: AP {decimal(self.coco['AP'])}, AP75 {decimal(self.coco['AP75'])}"
        title = f"{self.metrics['images']:,} images, IoU >= {self.voc.iou_threshold:g} (VOC)"
        return html.table(title, COLUMNS, table_rows(self.voc, categories), [coco])


def measure(truth: GroundTruth, found: DetectionTable, categories: Categories) -> Measurement:
    """VOC's average precision (IoU 0.5) and COCO's 12 numbers; boxes are pixels of the original images.

    What `voc.check_tables` refuses is a `UserError`.
    """

    def number(value: float) -> float | None:  # JSON has no NaN
        return None if math.isnan(value) else value

    voc = voc_average_precision(truth, found, len(categories))
    coco = coco_metrics(truth, found, len(categories))
    per_class = {
        name: {field: number(getattr(one, field)) for field in CLASS_FIELDS}
        for name, one in zip(categories.names, voc.per_class, strict=True)
    }
    means = {"map_11point": number(voc.map_11point), "map_area": number(voc.map_area)}
    voc_json = {**means, "iou_threshold": voc.iou_threshold, "per_class": per_class}
    return Measurement(voc, coco, {"voc": voc_json, "coco": coco, "images": truth.num_images})


def print_table(result: VocResult, categories: Categories, console: Console) -> None:
    """Print a row for each class, the mean last; a dash is a class without objects."""
    title = f"PASCAL VOC protocol, IoU >= {result.iou_threshold:g}"
    table = Table(title=title, title_justify="left", box=box.MINIMAL, pad_edge=False)  # fits in 80 columns
    for column in COLUMNS:
        table.add_column(column.replace(" ", "\n"), justify="left" if column == "class" else "right", overflow="fold")
    *rows, mean = table_rows(result, categories)
    for row in rows:
        table.add_row(*(cell(text, console) for text in row))
    table.add_section()
    table.add_row(*mean, style="bold")
    console.print(table)


def table_rows(result: VocResult, categories: Categories) -> list[tuple[str, ...]]:
    """The cells of the table as text, a row for each class in label order, then the mean; columns as in `COLUMNS`."""
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
    """Three decimals, or a dash for a value that does not exist (None, NaN, COCO's -1)."""
    return "-" if value is None or math.isnan(value) or value < 0 else f"{value:.3f}"
