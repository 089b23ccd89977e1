"""Both protocols over one data set, as numbers, as `metrics.json` and as the printed tables."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from onestage import html
from onestage.evaluation.at_thresholds import AtThresholds
from onestage.evaluation.coco import coco_metrics
from onestage.evaluation.report_tables import AT_COLUMNS, COLUMNS, at_rows, decimal, table_rows, what_is_shown
from onestage.evaluation.voc import VocResult, voc_average_precision
from onestage.structures import Categories, DetectionTable, GroundTruth
from onestage.terminal import cell

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
    """Print a row for each class (of many, the worst), the mean last; a dash is a class without objects."""
    title = f"Over all detections, whatever their score (PASCAL VOC protocol, IoU >= {result.iou_threshold:g})"
    _print(
        title, COLUMNS, table_rows(result, categories), what_is_shown(len(categories), "with the lowest AP"), console
    )


def print_at_thresholds(at: AtThresholds, categories: Categories, console: Console) -> None:
    """Print recall, precision and F1 of each class (of many, the worst) at its threshold, and those of all last."""
    title = "At the score thresholds: objects found (recall), detections that are right (precision)"
    _print(title, AT_COLUMNS, at_rows(at, categories), what_is_shown(len(categories), "with the lowest F1"), console)


def _print(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, ...]], left_out: str, console: Console
) -> None:
    table = Table(
        title=title, title_justify="left", caption=left_out or None, box=box.MINIMAL, pad_edge=False
    )  # 80 columns
    for column in columns:
        table.add_column(column.replace(" ", "\n"), justify="left" if column == "class" else "right", overflow="fold")
    for row in rows[:-1]:
        table.add_row(*(cell(text, console) for text in row))
    table.add_section()
    table.add_row(*rows[-1], style="bold")
    console.print(table)
