"""Which detections COCO's protocol takes for hits, for all images, classes and IoU thresholds at once.

Its program (cocoeval.py, evaluateImg) goes through an image's detections of a class, best first; each takes, of the
objects that are left and overlap it enough, the one with the largest IoU, and a crowd only where there is none. Here
all detections ask for their favourite, an object keeps the best that asks, and those turned away ask for their next
one: the same matches, in few rounds of arrays, because all objects agree on which detection is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from onestage.evaluation.voc import check_tables
from onestage.structures import DetectionTable, GroundTruth

MOST_DETECTIONS = 100  # of an image and class, the best
PAIRS_AT_ONCE = 1 << 20  # about so many of detection and object: bounds the memory in crowded data sets


@dataclass(frozen=True)
class CocoMatches:
    """The verdict on each of M detections at T IoU thresholds, for all sizes of objects.

    They come class by class, best first, equal ones in the order of their images, as COCO's program counts them. Those
    beyond an image's best 100 of a class are left out.
    """

    image_index: Int64[np.ndarray, " M"]
    labels: Int64[np.ndarray, " M"]
    hit: Bool[np.ndarray, "M T"]
    ignored: Bool[np.ndarray, "M T"]  # of a crowd: neither hit nor false positive


def coco_matches(
    truth: GroundTruth, found: DetectionTable, num_classes: int, iou_thresholds: Sequence[float]
) -> CocoMatches:
    """Match detections with objects; boxes are pixels of the original images, `ignored` objects are crowds.

    What `check_tables` refuses is a `UserError`.
    """
    check_tables(truth, found, num_classes)
    rows = _best_of_each_image(found)
    rows = rows[np.lexsort((rows, found.image_index[rows], -found.scores[rows], found.labels[rows]))]
    detection, of_object, iou = _overlapping(truth, found, rows, min(iou_thresholds))
    crowd = truth.ignored[of_object]
    wanted = np.lexsort((-of_object, -iou, crowd, detection))  # of equal ones, COCO's program takes the last
    detection, of_object, iou, crowd = (values[wanted] for values in (detection, of_object, iou, crowd))
    hit, ignored = np.zeros((2, len(rows), len(iou_thresholds)), dtype=bool)
    for column, threshold in enumerate(iou_thresholds):
        enough = iou >= min(threshold, 1 - 1e-10)  # as in COCO's program
        pairs = _matched(detection[enough], of_object[enough], crowd[enough])
        hit[detection[enough][pairs], column] = ~crowd[enough][pairs]
        ignored[detection[enough][pairs], column] = crowd[enough][pairs]
    return CocoMatches(found.image_index[rows], found.labels[rows], hit, ignored)


def _best_of_each_image(found: DetectionTable) -> Int64[np.ndarray, " M"]:
    """The rows of the best detections of each image and class, equal ones in the order given."""
    order = np.lexsort((-found.scores, found.image_index, found.labels))
    labels, images = found.labels[order], found.image_index[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(labels) != 0) | (np.diff(images) != 0)
    begins = np.flatnonzero(new)
    place = np.arange(len(order)) - begins[np.cumsum(new) - 1]
    return order[place < MOST_DETECTIONS]


def _overlapping(
    truth: GroundTruth, found: DetectionTable, rows: Int64[np.ndarray, " M"], least: float
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Pairs of one image and class whose IoU is `least` or more: place in `rows`, row of the object, IoU."""
    keys, found_keys = (table.labels * truth.num_images + table.image_index for table in (truth, found))
    by_key = np.argsort(keys, kind="stable")
    first, end = (np.searchsorted(keys[by_key], found_keys[rows], side=side) for side in ("left", "right"))
    counts = end - first
    parts: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    blocks = np.searchsorted(np.cumsum(counts), np.arange(PAIRS_AT_ONCE, counts.sum(), PAIRS_AT_ONCE))
    for block in np.split(np.arange(len(rows)), blocks):
        owner = np.repeat(block, counts[block])
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts[block]) - counts[block], counts[block])
        objects = by_key[first[owner] + within]
        iou = _iou(found.boxes_xyxy[rows[owner]], truth.boxes_xyxy[objects], truth.ignored[objects])
        enough = iou >= least
        parts.append((owner[enough], objects[enough], iou[enough]))
    detection, of_object, iou = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return detection, of_object, iou


def _iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray, b_is_crowd: np.ndarray) -> np.ndarray:
    """IoU of row i of `a` with row i of `b`; with a crowd, the part of `a` that lies in it."""
    a, b = a_xyxy.astype(np.float64), b_xyxy.astype(np.float64)
    overlap = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(min=0).prod(axis=1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    union = np.where(b_is_crowd, area_a, area_a + area_b - overlap)
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def _matched(
    detection: Int64[np.ndarray, " P"], of_object: Int64[np.ndarray, " P"], crowd: Bool[np.ndarray, " P"]
) -> Int64[np.ndarray, " M"]:
    """The pairs that are matched. Pairs come by detection, the better (smaller) first, then by how it likes them."""
    asked = np.flatnonzero(np.diff(detection, prepend=-1))  # of each detection, the pair that it asks for
    end = np.append(asked[1:], len(detection))
    best = np.empty(of_object.max(initial=-1) + 1, dtype=np.int64)
    while True:
        objects = of_object[asked]
        best[objects] = len(best) + detection.max(initial=0)
        np.minimum.at(best, objects, detection[asked])
        turned_away = ~crowd[asked] & (best[objects] != detection[asked])
        if not turned_away.any():
            return asked
        asked = asked + turned_away
        left = asked < end
        asked, end = asked[left], end[left]
