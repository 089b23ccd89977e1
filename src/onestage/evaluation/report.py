"""The report of an evaluation or a training run: one HTML file that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from onestage.evaluation.at_thresholds import AtThresholds
from onestage.evaluation.calibration import ScoresMean
from onestage.evaluation.charts import Series, line_chart
from onestage.evaluation.explained import Explained
from onestage.evaluation.metrics import Measurement
from onestage.evaluation.mistakes import KIND_WORDS, KINDS
from onestage.evaluation.pages import page_template
from onestage.evaluation.report_images import DrawnImage, ImageSource, best_images, draw_image, worst_images
from onestage.evaluation.report_tables import (
    AT_COLUMNS,
    AT_MORE,
    COLUMNS,
    at_more,
    at_rows,
    confusion_table,
    decimal,
    kind_rows,
    part_rows,
    table_rows,
    what_is_shown,
    worst_labels,
)
from onestage.evaluation.voc import VocClassResult
from onestage.evaluation.words import TrainedOn, in_words, percent
from onestage.settings import flat
from onestage.structures import Categories
from onestage.whole_file import write_whole

ATTRIBUTES = {
    "size": "By size: sqrt(width x height) in the image",
    "aspect": "By shape",
    "crowding": "By how many objects touch it or lie near",
    "anchors": "By how well the best anchor fits (IoU)",
}


def write_report(
    path: Path,
    *,
    title: str,
    measurement: Measurement,
    explained: Explained,
    categories: Categories,
    trained_on: TrainedOn | None = None,
    training_log: Sequence[Mapping[str, Any]] = (),
    images: ImageSource | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the page: what it means in words, tables, mistakes with their images, curves, training, settings.

    `training_log` is the rows of `log.csv` by column: step, epoch, images, lr, loss, NAME_loss for each of its parts,
    seconds, and map_area (None without an evaluation). `images` is where images come from; None leaves them out.
    `settings` say what was evaluated or trained, and how; nested ones are written with dotted names.
    """
    metrics, voc, at = measurement.metrics, measurement.voc, explained.at
    number = len(categories)
    page = page_template("onestage.evaluation").render(
        title=title,
        sentences=in_words(at, categories, trained_on),
        cards=_cards(metrics, explained, training_log),
        at_columns=(*AT_COLUMNS, *AT_MORE[: None if trained_on else -1]),
        at_rows=[row + more for row, more in zip(at_rows(at, categories), at_more(at, trained_on), strict=True)],
        lowest_f1=what_is_shown(number, "with the lowest F1"),
        lowest_ap=what_is_shown(number, "with the lowest AP"),
        most_confused=what_is_shown(number, "that are confused most"),
        **_scores_mean(explained.scores_mean),
        kinds=kind_rows(at, explained.tide),
        ap50=decimal(explained.tide.ap50),
        confusion=confusion_table(at, categories),
        parts=[(ATTRIBUTES[name], name != "anchors", part_rows(parts)) for name, parts in explained.by.items()],
        **_images(at, images, categories),
        columns=COLUMNS,
        rows=table_rows(voc, categories),
        iou_threshold=f"{voc.iou_threshold:g}",
        coco=[(name, decimal(value)) for name, value in metrics["coco"].items()],
        curves=[
            (name, decimal(one.ap_area), _precision_recall_chart(name, one))
            for name, one in (
                (categories.names[label], voc.per_class[label])
                for label in worst_labels(np.array([one.ap_area for one in voc.per_class])).tolist()
            )
        ],
        training=_training_charts(training_log) if training_log else [],
        settings=flat(settings or {}).items(),
    )
    write_whole(path, page.encode())


def _images(at: AtThresholds, images: ImageSource | None, categories: Categories) -> dict[str, Any]:
    """The images of the worst mistakes, how many of them have each kind, and the best images."""
    worst: list[DrawnImage] = []
    best: list[DrawnImage] = []
    if images is not None:
        chosen = worst_images(at)
        worst = [draw_image(at, image, kind, images, categories) for image, kind in chosen]
        others = best_images(at, without=[image for image, _ in chosen])
        best = [draw_image(at, image, None, images, categories) for image in others]
    counts = [
        (kind, words, sum(kind in one.kinds for one in worst)) for kind, words in zip(KINDS, KIND_WORDS, strict=True)
    ]
    return {"worst": worst, "best": best, "images_of_kinds": counts}


def _cards(
    metrics: Mapping[str, Any], explained: Explained, log: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """(name, value, explanation) of the numbers at the top."""
    voc, coco = metrics["voc"], metrics["coco"]
    at = explained.at
    objects, hits, alarms = (int(column.sum()) for column in (at.objects, at.hits, at.false_alarms))
    cards = [
        ("found", percent(hits, objects), f"{hits:,} of {objects:,} objects"),
        ("right", percent(hits, hits + alarms), f"{hits:,} of {hits + alarms:,} detections"),
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


def _scores_mean(mean: ScoresMean) -> dict[str, Any]:
    """The reliability diagram, its legend, and how far scores and probabilities are off."""
    claims = {"score": mean.scores, "probability": mean.probabilities}
    lines = [Series("right as often as claimed", np.array([0.0, 1.0]), np.array([0.0, 1.0]), 6)]
    lines += [
        Series(name, one.claimed, one.right, color, dots=True)
        for color, (name, one) in enumerate(claims.items())
        if one is not None
    ]
    chart = line_chart(
        lines,
        description="share of the detections that are right, by score and by probability",
        x_label="score or probability",
        x_range=(0.0, 1.0),
        y_range=(0.0, 1.0),
    )
    off = [(name, decimal(one.off(first=1))) for name, one in claims.items() if one is not None]
    return {"reliability": ([(line.name, line.color) for line in lines], chart), "off": off}


def _training_charts(log: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, int]], Markup]]:
    """(heading, legend, chart) of the losses, the average precision and the learning rate."""

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name) for row in log], dtype=np.float64)  # None becomes NaN

    epoch = column("epoch")
    names = ["loss", *(name for name in log[-1] if name.endswith("_loss"))]
    losses = [Series(name.removesuffix("_loss"), epoch, column(name), color % 6) for color, name in enumerate(names)]
    precision = Series("mAP (area)", epoch, column("map_area"), 4, dots=True)
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in losses])
    # Up to the 99th percentile, or the losses of the first steps would flatten all others.
    high = float(np.quantile(values, 0.99)) if len(values) else 0.0
    x_range = (0.0, max(float(epoch.max()), 1e-3))
    charts = []
    for heading, lines, y_range in (
        ("Losses", losses, (0.0, 1.05 * high) if high > 0 else None),
        ("Average precision on the evaluation images", [precision], (0.0, 1.0)),
        ("Learning rate", [Series("learning rate", epoch, column("lr"), 3)], None),
    ):
        lines = [line for line in lines if np.isfinite(line.y).any()]
        if lines:
            text = f"{heading} by epoch"
            chart = line_chart(lines, description=text, x_label="epoch", x_range=x_range, y_range=y_range)
            charts.append((heading, [(line.name, line.color) for line in lines], chart))
    return charts


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
        size_wh=(250, 180),
    )
