"""The report of an evaluation or a training run: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from onestage.drawing import draw_objects
from onestage.evaluation.charts import Series, line_chart
from onestage.evaluation.examples import ReportExample
from onestage.evaluation.metrics import COLUMNS, decimal, table_rows
from onestage.evaluation.voc import VocClassResult, VocResult
from onestage.structures import Categories

LOSS_NAMES = {"loss": "loss", "classification_loss": "classification", "box_loss": "box"}  # column of log.csv, legend
MAX_SIDE, MIN_SIDE = 560, 320  # pixels of an example on the page
SMALL_CHART_WH = (250, 180)


def write_report(
    path: Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    voc_result: VocResult,
    categories: Categories,
    training_log: Sequence[Mapping[str, Any]] | None = None,
    best: Sequence[ReportExample] = (),
    worst: Sequence[ReportExample] = (),
    settings: Mapping[str, Any] | None = None,
    score_threshold: float = 0.5,
) -> None:
    """Write the page: summary, table, precision-recall curves, training curves, images, settings.

    Args:
        path: the file, replaced if there.
        title: its heading.
        metrics: the content of `metrics.json`.
        voc_result: where the table and the curves come from.
        categories: the classes, by label.
        training_log: rows of `log.csv` (step, epoch, images, lr, losses, map_area where evaluated), or None.
        best: images that the detector does well on, best first.
        worst: images that it does badly on, worst first.
        settings: what the run was made with; nested dicts are written with dotted names.
        score_threshold: detections from this score on are drawn.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("onestage.evaluation").joinpath("report.html").read_text("utf-8"))
    sections = {
        "Best images": [_example(one, categories, score_threshold) for one in best],
        "Worst images": [_example(one, categories, score_threshold) for one in worst],
    }
    page = template.render(
        title=title,
        cards=_cards(metrics, training_log or []),
        columns=COLUMNS,
        rows=table_rows(voc_result, categories),
        iou_threshold=f"{voc_result.iou_threshold:g}",
        coco=[(name, decimal(value)) for name, value in metrics["coco"].items()],
        curves=[_curve(name, one) for name, one in zip(categories.names, voc_result.per_class, strict=True)],
        training=_training_charts(training_log or []),
        examples=sections,
        score_threshold=f"{score_threshold:g}",
        settings=_flat(settings or {}),
    )
    path.write_text(page, encoding="utf-8")


def _cards(metrics: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(what, value, explanation) of the numbers that stand at the top."""
    voc, coco = metrics["voc"], metrics["coco"]
    cards = [
        ("mAP (area)", decimal(voc["map_area"]), "VOC protocol, area under the curve"),
        ("mAP (11-point)", decimal(voc["map_11point"]), "VOC 2007's interpolation"),
        ("COCO AP", decimal(coco["AP"]), "mean over IoU 0.50 to 0.95"),
        ("COCO AP75", decimal(coco["AP75"]), "at IoU 0.75"),
        ("images", f"{metrics['images']:,}", "evaluated"),
    ]
    if log:
        seconds = _number(log[-1].get("seconds"))
        cards.append(("images seen", f"{_number(log[-1].get('images')):,.0f}", "in training"))
        if np.isfinite(seconds):
            cards.append(("training", f"{seconds / 60:.1f} min", f"{_number(log[-1].get('step')):,.0f} steps"))
    return cards


def _training_charts(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, int]], Markup]]:
    """(heading, legend, chart) of the losses, the learning rate and the average precision, as far as logged."""
    epoch = _column(log, "epoch")
    losses = [
        Series(legend, epoch, _column(log, name), color)
        for color, (name, legend) in enumerate(LOSS_NAMES.items())
        if any(name in row for row in log)
    ]
    rate = Series("learning rate", epoch, _column(log, "lr"), 3)
    measured = np.isfinite(_column(log, "map_area"))
    precision = Series("mAP (area)", epoch[measured], _column(log, "map_area")[measured], 4, dots=True)
    charts = []
    for heading, series, y_range in (
        ("Losses", losses, _without_spikes(losses)),
        ("Average precision on the evaluation images", [precision], (0.0, 1.0)),
        ("Learning rate", [rate], None),
    ):
        series = [one for one in series if np.isfinite(one.y).any()]
        if series:
            chart = line_chart(
                series,
                description=f"{heading} by epoch",
                x_label="epoch",
                x_range=(0.0, max(float(epoch.max()), 1e-3)),
                y_range=y_range,
            )
            charts.append((heading, [(one.name, one.color) for one in series], chart))
    return charts


def _without_spikes(losses: Sequence[Series]) -> tuple[float, float] | None:
    """From 0 to what all but the highest hundredth stay below: the first steps would flatten all the rest."""
    values = np.concatenate([np.zeros(0), *(one.y[np.isfinite(one.y)] for one in losses)])
    high = float(np.quantile(values, 0.99)) if len(values) else 0.0
    return (0.0, 1.05 * high) if high > 0 else None


def _curve(name: str, one: VocClassResult) -> tuple[str, str, Markup | None]:
    """(class, AP, its precision-recall chart; None where there is nothing to draw)."""
    if not one.ground_truths or not one.detections:
        return name, decimal(one.ap_area), None
    # The area that AP measures: precision made non-increasing from the right, then steps.
    envelope = np.maximum.accumulate(one.curve_precision[::-1])[::-1]
    corners = np.unique(np.round(one.curve_recall, 3), return_index=True)[1]
    recall, best = one.curve_recall[corners], envelope[corners]
    area = Series("area", np.repeat(np.append(0.0, recall), 2)[1:], np.append(np.repeat(best, 2), 0.0), 0, filled=True)
    line = Series(name, one.curve_recall[corners], one.curve_precision[corners], 1)
    chart = line_chart(
        [area, line],
        description=f"precision by recall of {name}, AP {one.ap_area:.3f}",
        x_label="recall",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        size_wh=SMALL_CHART_WH,
    )
    return name, decimal(one.ap_area), chart


def _example(one: ReportExample, categories: Categories, score_threshold: float) -> dict[str, str]:
    """Both drawings of an image as data URLs, and what they show in words."""
    scale = min(1.0, MAX_SIDE / max(one.image.shape[:2]))
    image = cv2.resize(one.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else one.image
    found = dataclasses.replace(one.found, boxes_xyxy=one.found.boxes_xyxy * scale, names=categories.names)
    boxes_xyxy = (one.boxes_xyxy * scale).astype(np.float32)
    truth_drawn = draw_objects(image, boxes_xyxy, one.labels, one.ignored, categories.names, min_side=MIN_SIDE)
    found_drawn = found.filter(score=score_threshold).draw(image, min_side=MIN_SIDE)
    shown = one.found.labels[one.found.scores >= score_threshold].tolist()
    return {
        "name": one.name,
        "quality": f"{one.quality:.2f}",
        "truth": _data_url(truth_drawn),
        "truth_text": _counted(one.labels.tolist(), categories),
        "found": _data_url(found_drawn),
        "found_text": _counted(shown, categories),
    }


def _counted(labels: Sequence[int], categories: Categories) -> str:
    return ", ".join(f"{n} {categories.names[label]}" for label, n in sorted(Counter(labels).items())) or "nothing"


def _data_url(image_rgb: np.ndarray) -> str:
    encoded = cv2.imencode(".jpg", image_rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _column(log: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([_number(row.get(name)) for row in log], dtype=np.float64)


def _number(value: Any) -> float:
    """A number of `log.csv` as it comes: text, a number, or nothing (NaN)."""
    return float("nan") if value is None or value == "" else float(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in settings.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", str(value))]
    return rows
