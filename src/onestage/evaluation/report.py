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
from onestage.evaluation.examples import SHOWN_SCORE, ReportExample
from onestage.evaluation.metrics import COLUMNS, Measurement, decimal, table_rows
from onestage.evaluation.voc import VocClassResult
from onestage.structures import Categories

MAX_SIDE, MIN_SIDE = 560, 320  # pixels of an example on the page
SMALL_CHART_WH = (250, 180)


def write_report(
    path: Path,
    *,
    title: str,
    measurement: Measurement,
    categories: Categories,
    training_log: Sequence[Mapping[str, Any]] = (),
    best: Sequence[ReportExample] = (),
    worst: Sequence[ReportExample] = (),
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the page: summary, table, precision-recall curves, training curves, images, settings.

    Args:
        path: the file, replaced if there is one.
        title: the heading.
        measurement: the results.
        categories: the classes, by label.
        training_log: rows of `log.csv` by column: step, epoch, images, lr, loss, NAME_loss for each of its parts,
            seconds, and map_area (None without an evaluation).
        best: images that the detector does well on, best first.
        worst: images that it does badly on, worst first.
        settings: what was evaluated or trained, and how; nested dictionaries are written with dotted names.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("onestage.evaluation").joinpath("report.html").read_text("utf-8"))
    metrics, voc = measurement.metrics, measurement.voc
    page = template.render(
        title=title,
        cards=_cards(metrics, training_log),
        columns=COLUMNS,
        rows=table_rows(voc, categories),
        iou_threshold=f"{voc.iou_threshold:g}",
        coco=[(name, decimal(value)) for name, value in metrics["coco"].items()],
        curves=[
            (name, decimal(one.ap_area), _precision_recall_chart(name, one))
            for name, one in zip(categories.names, voc.per_class, strict=True)
        ],
        training=_training_charts(training_log),
        examples={
            "Best images": [_example(one, categories) for one in best],
            "Worst images": [_example(one, categories) for one in worst],
        },
        score_threshold=f"{SHOWN_SCORE:g}",
        settings=_flat(settings or {}),
    )
    path.write_text(page, encoding="utf-8")


def _cards(metrics: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(name, value, explanation) of the numbers at the top."""
    voc, coco = metrics["voc"], metrics["coco"]
    cards = [
        ("mAP (area)", decimal(voc["map_area"]), "VOC protocol, area under the curve"),
        ("mAP (11-point)", decimal(voc["map_11point"]), "VOC 2007's interpolation"),
        ("COCO AP", decimal(coco["AP"]), "mean over IoU 0.50 to 0.95"),
        ("COCO AP75", decimal(coco["AP75"]), "at IoU 0.75"),
        ("images", f"{metrics['images']:,}", "evaluated"),
    ]
    if log:
        last = log[-1]
        cards.append(("images seen", f"{last['images']:,}", "in training"))
        cards.append(("training", f"{last['seconds'] / 60:.1f} min", f"{last['step']:,} steps"))
    return cards


def _training_charts(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, int]], Markup]]:
    """(heading, legend, chart) of the losses, the average precision and the learning rate."""
    if not log:
        return []

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name) for row in log], dtype=np.float64)  # None becomes NaN

    epoch = column("epoch")
    names = ["loss", *(name for name in log[-1] if name.endswith("_loss"))]
    losses = [Series(name.removesuffix("_loss"), epoch, column(name), color) for color, name in enumerate(names)]
    rate = Series("learning rate", epoch, column("lr"), 3)
    precision = Series("mAP (area)", epoch, column("map_area"), 4, dots=True)
    charts = []
    for heading, lines, y_range in (
        ("Losses", losses, _without_spikes(losses)),
        ("Average precision on the evaluation images", [precision], (0.0, 1.0)),
        ("Learning rate", [rate], None),
    ):
        lines = [line for line in lines if np.isfinite(line.y).any()]
        if lines:
            chart = line_chart(
                lines,
                description=f"{heading} by epoch",
                x_label="epoch",
                x_range=(0.0, max(float(epoch.max()), 1e-3)),
                y_range=y_range,
            )
            charts.append((heading, [(line.name, line.color) for line in lines], chart))
    return charts


def _without_spikes(losses: Sequence[Series]) -> tuple[float, float] | None:
    """From 0 to just above the 99th percentile, or the losses of the first steps would flatten all others."""
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in losses])
    high = float(np.quantile(values, 0.99)) if len(values) else 0.0
    return (0.0, 1.05 * high) if high > 0 else None


def _precision_recall_chart(name: str, one: VocClassResult) -> Markup | None:
    """The curve of a class; None without objects or detections."""
    if not one.ground_truths or not one.detections:
        return None
    # The area that AP measures: precision made non-increasing from the right, then steps.
    envelope = np.maximum.accumulate(one.curve_precision[::-1])[::-1]
    corners = np.unique(np.round(one.curve_recall, 3), return_index=True)[1]
    recall, best = one.curve_recall[corners], envelope[corners]
    area = Series("area", np.repeat(np.append(0.0, recall), 2)[1:], np.append(np.repeat(best, 2), 0.0), 0, filled=True)
    return line_chart(
        [area, Series(name, recall, one.curve_precision[corners], 1)],
        description=f"precision by recall of {name}, AP {one.ap_area:.3f}",
        x_label="recall",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
        size_wh=SMALL_CHART_WH,
    )


def _example(one: ReportExample, categories: Categories) -> dict[str, str]:
    """Both drawings of an image as data URLs, and what they show in words."""
    scale = min(1.0, MAX_SIDE / max(one.image.shape[:2]))
    image = cv2.resize(one.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else one.image
    found = one.found[one.found.scores > SHOWN_SCORE]
    found = dataclasses.replace(found, boxes_xyxy=found.boxes_xyxy * scale, names=categories.names)
    boxes_xyxy = (one.boxes_xyxy * scale).astype(np.float32)
    truth = draw_objects(image, boxes_xyxy, one.labels, one.ignored, categories.names, min_side=MIN_SIDE)
    return {
        "name": one.name,
        "f1": f"{one.f1:.2f}",
        "truth": _data_url(truth),
        "truth_text": _counted(one.labels.tolist(), categories),
        "found": _data_url(found.draw(image, min_side=MIN_SIDE)),
        "found_text": _counted(found.labels.tolist(), categories),
    }


def _counted(labels: Sequence[int], categories: Categories) -> str:
    return ", ".join(f"{n} {categories.names[label]}" for label, n in sorted(Counter(labels).items())) or "nothing"


def _data_url(image_rgb: np.ndarray) -> str:
    encoded = cv2.imencode(".jpg", image_rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in settings.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", str(value))]
    return rows
