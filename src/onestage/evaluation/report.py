"""The report of an evaluation or a training run: one HTML file that needs nothing beside it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from markupsafe import Markup

from onestage.drawing import draw_objects
from onestage.evaluation.charts import Series, line_chart
from onestage.evaluation.metrics import COLUMNS, Measurement, decimal, table_rows
from onestage.evaluation.pages import jpeg_url, page_template
from onestage.evaluation.voc import VocClassResult, assign_detections
from onestage.settings import flat
from onestage.structures import Categories, Detections, DetectionTable, GroundTruth
from onestage.whole_file import write_whole

MAX_SIDE, MIN_SIDE = 560, 320  # pixels of an example on the page
MAX_TILED_SIDE = 1600  # the same with tiles, whose objects are small; the page shows it smaller, until it is opened
GRID_COLOUR = (255, 255, 255)
SHOWN_SCORE = 0.5  # detections above this score are drawn, and count for F1


@dataclass(frozen=True)
class ReportExample:
    """One image of the report, in its own pixels."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]  # RGB
    boxes_xyxy: Float32[np.ndarray, "N 4"]  # of the annotated objects
    labels: Int64[np.ndarray, " N"]
    ignored: Bool[np.ndarray, " N"]
    found: Detections
    f1: float
    windows_xyxy: Int64[np.ndarray, "T 4"]  # the tiles that went through the network, or the image


def write_report(
    path: Path,
    *,
    title: str,
    measurement: Measurement,
    categories: Categories,
    training_log: Sequence[Mapping[str, Any]] = (),
    examples: Mapping[str, Sequence[ReportExample]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the page: summary, table, precision-recall curves, training curves, images, settings.

    `training_log` is the rows of `log.csv` by column: step, epoch, images, lr, loss, NAME_loss for each of its parts,
    seconds, and map_area (None without an evaluation). `examples` are images by their heading. `settings` say what was
    evaluated or trained, and how; nested ones are written with dotted names.
    """
    metrics, voc = measurement.metrics, measurement.voc
    page = page_template("onestage.evaluation").render(
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
        training=_training_charts(training_log) if training_log else [],
        examples={heading: [_example(one, categories) for one in ones] for heading, ones in (examples or {}).items()},
        score_threshold=f"{SHOWN_SCORE:g}",
        settings=flat(settings or {}).items(),
    )
    write_whole(path, page.encode())


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

    def column(name: str) -> np.ndarray:
        return np.array([row.get(name) for row in log], dtype=np.float64)  # None becomes NaN

    epoch = column("epoch")
    names = ["loss", *(name for name in log[-1] if name.endswith("_loss"))]
    losses = [Series(name.removesuffix("_loss"), epoch, column(name), color) for color, name in enumerate(names)]
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


def _example(one: ReportExample, categories: Categories) -> dict[str, str]:
    """Both drawings of an image as data URLs, and what they show in words."""
    tiled = len(one.windows_xyxy) > 1
    scale = min(1.0, (MAX_TILED_SIDE if tiled else MAX_SIDE) / max(one.image.shape[:2]))
    image = cv2.resize(one.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else one.image
    found = one.found[one.found.scores > SHOWN_SCORE]
    found = replace(found, boxes_xyxy=found.boxes_xyxy * scale, names=categories.names)
    boxes_xyxy = (one.boxes_xyxy * scale).astype(np.float32)
    truth = draw_objects(image, boxes_xyxy, one.labels, one.ignored, categories.names, min_side=MIN_SIDE)
    looked_at = _with_grid(image, one.windows_xyxy * scale) if tiled else image
    return {
        "name": one.name,
        "f1": f"{one.f1:.2f}",
        "truth": jpeg_url(truth),
        "truth_text": _counted(one.labels.tolist(), categories),
        "found": jpeg_url(found.draw(looked_at, min_side=MIN_SIDE)),
        "found_text": _counted(found.labels.tolist(), categories),
    }


def _with_grid(image: UInt8[np.ndarray, "H W 3"], windows_xyxy: Float[np.ndarray, "T 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """A copy with the borders of all tiles, half transparent; between two lines lies what neighbours share."""
    lines = image.copy()
    for x0, y0, x1, y1 in windows_xyxy.round().astype(int).tolist():
        cv2.rectangle(lines, (x0, y0), (x1 - 1, y1 - 1), GRID_COLOUR, 1)
    return cv2.addWeighted(lines, 0.5, image, 0.5, 0)


def _counted(labels: Sequence[int], categories: Categories) -> str:
    return ", ".join(f"{n} {categories.names[label]}" for label, n in sorted(Counter(labels).items())) or "nothing"


@dataclass(frozen=True)
class ImageCounts:
    """Hits and mistakes in each image (I images) of the detections above `SHOWN_SCORE`, at IoU 0.5."""

    hits: Int64[np.ndarray, " I"]
    mistakes: Int64[np.ndarray, " I"]  # false positives and missed objects

    @property
    def f1(self) -> Float[np.ndarray, " I"]:
        """2 hits / (2 hits + mistakes); 1 for an empty image without detections."""
        return np.where(self.mistakes == 0, 1.0, 2 * self.hits / np.maximum(1, 2 * self.hits + self.mistakes))


def count_by_image(truth: GroundTruth, found: DetectionTable) -> ImageCounts:
    """Count hits and mistakes in every image by the VOC protocol."""
    kept = found.scores > SHOWN_SCORE
    found = DetectionTable(found.image_index[kept], found.labels[kept], found.scores[kept], found.boxes_xyxy[kept])
    assigned = assign_detections(truth, found)

    def by_image(image_index: np.ndarray) -> np.ndarray:
        return np.bincount(image_index, minlength=truth.num_images)

    hits = by_image(found.image_index[assigned.hit])
    missed = by_image(truth.image_index[~truth.ignored]) - hits
    return ImageCounts(hits, by_image(found.image_index[assigned.false_positive]) + missed)


def choose_examples(truth: GroundTruth, counts: ImageCounts, limit: int = 6) -> tuple[list[int], list[int]]:
    """Indices of the best and of the worst images by F1, at most `limit` of each and none in both.

    Among equally good images the classes take turns, so that the best are not all of the easiest class; among equally
    bad ones those with more mistakes come first.
    """
    f1, hits = counts.f1, counts.hits
    worst = np.lexsort((-counts.mistakes, f1))[: min(limit, truth.num_images // 2)]
    first_label = np.full(truth.num_images, -1)
    images, rows = np.unique(truth.image_index, return_index=True)
    first_label[images] = truth.labels[rows]
    turn = np.zeros(truth.num_images, dtype=np.int64)
    turns_of_class: Counter[int] = Counter()
    for image in np.lexsort((-hits, -f1)).tolist():
        label = int(first_label[image])
        turn[image] = turns_of_class[label]
        turns_of_class[label] += 1
    best = np.lexsort((-hits, turn, hits == 0, -f1))
    best = best[(f1[best] > 0) | (counts.mistakes[best] == 0)]
    return best[~np.isin(best, worst)][:limit].tolist(), worst.tolist()
