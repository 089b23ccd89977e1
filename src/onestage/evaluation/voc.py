"""Average precision by the PASCAL VOC protocol (Everingham et al. 2010; development kits of 2007 and 2010).

The protocol in five lines:

- A detection is compared with the object of its class and image that it overlaps most. Detections are ordered by score
  over the whole data set, ties in the order given.
- IoU >= threshold makes a hit (the kit's VOCevaldet.m; evaluators in Python mostly have >: only ties differ).
  An object is hit once: every later detection of it is a false positive.
- A detection of an ignored object (VOC difficult) is neither hit nor false positive, and the object is not missed.
- The kit measures in inclusive pixels (xmax - xmin + 1). Our boxes are half-open, so x1 - x0 is the same number.
- AP is the mean of the best precision at recall 0, 0.1, ... 1 (2007) or the area under the monotone curve (2010).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from onestage.errors import UserError
from onestage.structures import DetectionTable, GroundTruth

PAIRS_AT_ONCE = 1 << 20  # bounds the memory for pairs of detection and object in crowded data sets


@dataclass(frozen=True)
class VocClassResult:
    """The result of one class. Recall and AP are NaN for a class without objects (ignored ones aside)."""

    ground_truths: int  # without the ignored ones
    ignored: int
    detections: int  # hits, false positives and those of ignored objects
    recall: float  # of all detections, whatever their score
    precision: float  # of all detections; 0 if there are neither hits nor false positives
    ap_11point: float
    ap_area: float
    curve_recall: Float[np.ndarray, " M"]  # after each detection, best score first
    curve_precision: Float[np.ndarray, " M"]


@dataclass(frozen=True)
class VocResult:
    """The results of all classes, by label, at one IoU threshold; means are NaN where no class has objects."""

    iou_threshold: float
    per_class: tuple[VocClassResult, ...]
    map_11point: float  # mean over the classes with objects
    map_area: float


@dataclass(frozen=True)
class Assignments:
    """The verdict on each of M detections: a hit, ignored, or a false positive."""

    object_row: Int64[np.ndarray, " M"]  # the object of its class and image with the largest IoU; -1 without any
    iou: Float[np.ndarray, " M"]  # with that object; 0 without any
    hit: Bool[np.ndarray, " M"]
    ignored: Bool[np.ndarray, " M"]

    @property
    def false_positive(self) -> Bool[np.ndarray, " M"]:
        return ~(self.hit | self.ignored)


def voc_average_precision(
    truth: GroundTruth, found: DetectionTable, num_classes: int, iou_threshold: float = 0.5
) -> VocResult:
    """Average precision of every class at one IoU threshold (VOC development kit, section 3.4).

    Boxes are half-open pixels of the original images. Classes without objects are left out of the means. What
    `check_tables` refuses is a `UserError`.
    """
    check_tables(truth, found, num_classes)
    assigned = assign_detections(truth, found, iou_threshold)
    return results_by_class(truth, found, assigned.hit, assigned.false_positive, num_classes, iou_threshold)


def results_by_class(
    truth: GroundTruth,
    found: DetectionTable,
    hit: Bool[np.ndarray, " M"],
    false_positive: Bool[np.ndarray, " M"],
    num_classes: int,
    iou_threshold: float = 0.5,
) -> VocResult:
    """Average precision of every class where the verdicts on the detections are known; see `assign_detections`."""
    ground_truths = np.bincount(truth.labels[~truth.ignored], minlength=num_classes)
    ignored = np.bincount(truth.labels[truth.ignored], minlength=num_classes)
    order = np.argsort(-found.scores, kind="stable")  # best first; ties keep the order given
    labels = found.labels[order].astype(np.min_scalar_type(num_classes))  # numpy sorts small integers in linear time
    order = order[np.argsort(labels, kind="stable")]  # by class, each of them as before
    bounds = np.searchsorted(found.labels[order], np.arange(num_classes + 1))
    per_class = []
    for label in range(num_classes):
        rows = order[bounds[label] : bounds[label + 1]]
        objects = int(ground_truths[label])
        hits, misses = np.cumsum(hit[rows]), np.cumsum(false_positive[rows])
        precision = hits / np.maximum(hits + misses, np.finfo(np.float64).eps)
        recall = hits / objects if objects else np.full(len(hits), np.nan)
        empty = 0.0 if objects else float("nan")  # value without detections
        per_class.append(
            VocClassResult(
                ground_truths=objects,
                ignored=int(ignored[label]),
                detections=len(rows),
                recall=float(recall[-1]) if len(rows) else empty,
                precision=float(precision[-1]) if len(rows) else 0.0,
                ap_11point=_ap_11point(recall, precision) if objects else empty,
                ap_area=_ap_area(recall, precision) if objects else empty,
                curve_recall=recall,
                curve_precision=precision,
            )
        )
    map_11point, map_area = _mean([one.ap_11point for one in per_class]), _mean([one.ap_area for one in per_class])
    return VocResult(iou_threshold, tuple(per_class), map_11point, map_area)


def check_tables(truth: GroundTruth, found: DetectionTable, num_classes: int) -> None:
    """Refuse rows that no protocol has an answer for; the libraries behind the metrics take them and lower the AP.

    A score or box that is not finite, a label outside 0..num_classes-1, or an image outside 0..truth.num_images-1 is a
    `UserError` that names the table, the row and the value.
    """
    for table, rows in (("ground truth", truth), ("detections", found)):
        good_boxes = np.asarray(np.isfinite(rows.boxes_xyxy).all(axis=1))
        good_labels = (rows.labels >= 0) & (rows.labels < num_classes)
        good_images = (rows.image_index >= 0) & (rows.image_index < truth.num_images)
        images = f"0..{truth.num_images - 1}; evaluate one split at a time"
        _refuse(table, "box", rows.boxes_xyxy, good_boxes, "four finite numbers")
        _refuse(table, "label", rows.labels, good_labels, f"0..{num_classes - 1}; use the categories of the checkpoint")
        _refuse(table, "image", rows.image_index, good_images, images)
    _refuse("detections", "score", found.scores, np.isfinite(found.scores), "a finite number; the model diverged")


def _refuse(table: str, column: str, values: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise UserError(f"{table}, row {row}: {column} is {values[row].tolist()}, expected {expected}")


def assign_detections(truth: GroundTruth, found: DetectionTable, iou_threshold: float = 0.5) -> Assignments:
    """The verdict on every detection. Boxes are half-open pixels of the original images.

    A detection is compared with its best object even if that was hit before. So no detection depends on another: the
    first of an object's detections, by score, is its hit.
    """
    object_row, iou = best_objects(truth, found)
    overlaps = (iou >= iou_threshold) & (iou > 0)
    on_ignored = np.zeros(len(iou), dtype=bool)
    on_ignored[overlaps] = truth.ignored[object_row[overlaps]]
    by_score = np.argsort(-found.scores, kind="stable")
    claims = by_score[(overlaps & ~on_ignored)[by_score]]
    _, first = np.unique(object_row[claims], return_index=True)
    hit = np.zeros(len(iou), dtype=bool)
    hit[claims[first]] = True
    return Assignments(object_row, iou, hit, on_ignored)


def best_objects(
    truth: GroundTruth, found: DetectionTable, among: Literal["own class", "other classes"] = "own class"
) -> tuple[Int64[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """For each detection: the row of the object with the largest IoU (the first of equals) or -1, and that IoU."""
    best_row = np.full(len(found.scores), -1, dtype=np.int64)
    best_iou = np.zeros(len(found.scores))
    for detections, objects in pairs(truth, found, of_one_class=among == "own class"):
        iou = paired_iou(found.boxes_xyxy[detections], truth.boxes_xyxy[objects])
        if among == "other classes":
            iou[found.labels[detections] == truth.labels[objects]] = 0.0
        starts = np.flatnonzero(np.diff(detections, prepend=-1))
        owner = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(detections)))
        best = np.maximum.reduceat(iou, starts)
        is_best = np.flatnonzero(iou == best[owner])
        owners, position = np.unique(owner[is_best], return_index=True)
        best_iou[detections[starts]] = best
        best_row[detections[starts[owners]]] = objects[is_best[position]]
    return best_row, best_iou


def pairs(
    truth: GroundTruth, found: DetectionTable, *, of_one_class: bool
) -> Iterator[tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]]:
    """Rows of each detection with each object of its image (and class), in blocks. A detection's come together."""
    keys, found_keys = truth.image_index, found.image_index
    if of_one_class:
        keys, found_keys = truth.labels * truth.num_images + keys, found.labels * truth.num_images + found_keys
    rows_by_key = np.argsort(keys, kind="stable")
    keys = keys[rows_by_key]
    first = np.searchsorted(keys, found_keys, side="left")
    counts = np.searchsorted(keys, found_keys, side="right") - first
    comparable = np.flatnonzero(counts)  # detections with at least one object to compare with
    number_of_block = np.cumsum(counts[comparable]) // PAIRS_AT_ONCE
    for block in np.split(comparable, np.flatnonzero(np.diff(number_of_block)) + 1) if len(comparable) else ():
        lengths = counts[block]
        # Pair p belongs to detection `owner[p]` of the block and to the object in position `within[p]` of its group.
        owner = np.repeat(np.arange(len(block)), lengths)
        within = np.arange(lengths.sum()) - (np.cumsum(lengths) - lengths)[owner]
        yield block[owner], rows_by_key[first[block][owner] + within]


def paired_iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """IoU of row i of `a` with row i of `b`, in float64; 0 where both are empty."""
    a, b = a_xyxy.astype(np.float64, copy=False), b_xyxy.astype(np.float64, copy=False)
    overlap_wh = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    overlap = overlap_wh.clip(min=0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def _ap_11point(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC 2007: mean over the recalls 0, 0.1, ... 1 of the best precision at that recall or beyond."""
    # np.arange(0, 1.1, 0.1) as in the published evaluators: its fourth value is slightly above 0.3.
    best = [precision[recall >= level].max(initial=0.0) for level in np.arange(0.0, 1.1, 0.1)]
    return float(np.sum(best) / 11.0)


def _ap_area(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC 2010: area under the curve, with precision made non-increasing from the right."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
