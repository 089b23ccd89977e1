"""The cells of the tables on the terminal and on the page. Of many classes only the worst are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from onestage.evaluation.at_thresholds import AtThresholds, share, wilson_interval
from onestage.evaluation.by_attribute import Part
from onestage.evaluation.mistakes import KIND_WORDS, Tide
from onestage.evaluation.voc import VocResult
from onestage.evaluation.words import TrainedOn, percent
from onestage.structures import Categories

MOST_CLASSES = 20  # in a table or in the matrix
SHORTEST_SCALE = 0.05  # of AP; the bars of kinds that cost nearly nothing stay short
COLUMNS = ("class", "ground truths", "detections", "recall", "precision", "AP area", "AP 11-point")
AT_COLUMNS = ("class", "objects", "score above", "recall", "precision", "F1")
AT_MORE = ("recall, 95 %", "false alarms", "not found", "in training")
MEANINGS = (
    "right place, wrong class",
    "right class, but the box overlaps too little (IoU 0.1 to 0.5)",
    "wrong class and a box that overlaps too little",
    "an object that another detection has found already",
    "nothing is there, or nothing that is labelled",
    "an object that is not marked at all",
)


@dataclass(frozen=True)
class ConfusionCell:
    """A count, and which part of its row it is (0..1); the right ones lie on the diagonal."""

    count: int
    part: float
    right: bool


def worst_labels(values: Float[np.ndarray, " K"], most: int = MOST_CLASSES) -> Int64[np.ndarray, " L"]:
    """All labels, in their order; of more than `most`, those with the lowest values, the worst first, NaN last."""
    return np.arange(len(values)) if len(values) <= most else np.argsort(values, kind="stable")[:most]


def what_is_shown(num_classes: int, which: str) -> str:
    """The line below a table that leaves classes out, with `which` it shows; "" if it has all."""
    if num_classes <= MOST_CLASSES:
        return ""
    return f"Shown are {MOST_CLASSES} of {num_classes:,} classes, those {which}; metrics.json has all."


def at_rows(at: AtThresholds, categories: Categories) -> list[tuple[str, ...]]:
    """The table at the thresholds, columns as in `AT_COLUMNS`; the last row is of all classes together."""
    labels = worst_labels(at.f1)
    rows = [
        (categories.names[label], f"{at.objects[label]:,}", f"{at.score_thresholds[label]:.2f}",
         *(decimal(float(column[label])) for column in (at.recall, at.precision, at.f1)))
        for label in labels.tolist()
    ]  # fmt: skip
    objects, hits, alarms = (column.sum(keepdims=True) for column in (at.objects, at.hits, at.false_alarms))
    parts = (share(hits, objects), share(hits, hits + alarms), share(2 * hits, objects + hits + alarms))
    return [*rows, ("all", f"{objects[0]:,}", "", *(decimal(float(part[0])) for part in parts))]


def at_more(at: AtThresholds, trained_on: TrainedOn | None) -> list[tuple[str, ...]]:
    """What the page adds to each of `at_rows`: the interval of the recall, mistakes, objects in training."""
    low_high = wilson_interval(at.hits, at.objects)
    totals = (
        at.false_alarms.sum(),
        (at.objects - at.hits).sum(),
        *([trained_on.objects.sum()] if trained_on is not None else []),
    )
    rows = [
        (
            f"{low_high[label, 0]:.2f} to {low_high[label, 1]:.2f}" if at.objects[label] else "-",
            f"{at.false_alarms[label]:,}",
            f"{at.objects[label] - at.hits[label]:,}",
            *([f"{trained_on.objects[label]:,}"] if trained_on is not None else []),
        )
        for label in worst_labels(at.f1).tolist()
    ]
    return [*rows, ("", *(f"{total:,}" for total in totals))]


def table_rows(result: VocResult, categories: Categories) -> list[tuple[str, ...]]:
    """The table over all detections, columns as in `COLUMNS`, a row a class; then the mean."""
    shown = worst_labels(np.array([one.ap_area for one in result.per_class]))
    rows = [
        (categories.names[label], f"{one.ground_truths:,}", f"{one.detections:,}",
         *map(decimal, (one.recall, one.precision, one.ap_area, one.ap_11point)))
        for label, one in ((label, result.per_class[label]) for label in shown.tolist())
    ]  # fmt: skip
    objects = sum(one.ground_truths for one in result.per_class)
    detections = sum(one.detections for one in result.per_class)
    means = (decimal(result.map_area), decimal(result.map_11point))
    return [*rows, ("mean", f"{objects:,}", f"{detections:,}", "", "", *means)]


def kind_rows(at: AtThresholds, tide: Tide) -> list[tuple[str, str, str, float, str]]:
    """(kind, meaning, how many at the thresholds, length of its bar 0..1, AP50 that it costs), a row a kind."""
    longest = max(float(np.nan_to_num(tide.gain).max()), SHORTEST_SCALE)
    counts = at.kinds.sum(axis=0).tolist()
    return [
        (kind, meaning, f"{count:,}", max(0.0, float(np.nan_to_num(gain))) / longest, decimal(float(gain)))
        for kind, meaning, count, gain in zip(KIND_WORDS, MEANINGS, counts, tide.gain, strict=True)
    ]


def confusion_table(
    at: AtThresholds, categories: Categories
) -> tuple[list[str], list[tuple[str, list[ConfusionCell]]]]:
    """The names of the columns, and of each row its name and cells; of many classes, those that are confused most."""
    matrix = at.confusion
    off_diagonal = matrix * ~np.eye(len(matrix), dtype=bool)
    confused = (off_diagonal.sum(axis=0) + off_diagonal.sum(axis=1))[:-1]
    shown = np.append(np.sort(worst_labels(-confused.astype(np.float64))), len(matrix) - 1)
    names = [*categories.names, "background"]
    totals = np.maximum(1, matrix.sum(axis=1))
    rows = [
        (
            names[row],
            [
                ConfusionCell(int(matrix[row, one]), float(matrix[row, one] / totals[row]), row == one)
                for one in shown.tolist()
            ],
        )
        for row in shown.tolist()
    ]
    return [*(names[label] for label in shown[:-1].tolist()), "not found"], rows


def part_rows(parts: Sequence[Part]) -> list[tuple[str, str, float, str, str]]:
    """(part, objects, recall 0..1, recall with its interval in percent, AP50) of each part of the objects."""
    rows = []
    for one in parts:
        low, high = (f"{100 * end:.0f}" for end in one.recall_95)
        text = f"{percent(one.hits, one.objects)} ({low} to {high})"
        rows.append((one.name, f"{one.objects:,}", one.hits / one.objects, text, decimal(one.ap50)))
    return rows


def decimal(value: float | None) -> str:
    """Three decimals, or a dash for a value that does not exist (None, NaN, COCO's -1)."""
    return "-" if value is None or np.isnan(value) or value < 0 else f"{value:.3f}"
