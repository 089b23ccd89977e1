"""What kind of mistake each false positive and each missed object is, and what each kind costs in AP (TIDE).

Bolya et al., ECCV 2020, arXiv 2008.08115, section 2; the figures are those of their tool, tidecv 1.0.1, to the last
digit (a test holds it). hotcoco has TIDE too, but differs from it in two places: it tells the kind of a detection by
ignored objects of its class, too, and it reads precision at a recall of 0.35000000000000003, not of 0.35.

| kind | a detection that is no hit, with an object that is not ignored |
|---|---|
| class | IoU >= 0.5 with one of another class |
| place | IoU 0.1 to 0.5 with one of its class |
| both | IoU 0.1 to 0.5 with one of another class only |
| duplicate | IoU > 0.5 with one of its class that another detection has found |
| background | IoU <= 0.1 with every one |
| missed | an object that is neither found nor meant by a mistake of class or place |
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from onestage.evaluation.voc import best_objects, paired_iou, pairs
from onestage.structures import DetectionTable, GroundTruth

KINDS = ("class", "place", "both", "duplicate", "background", "missed")  # tidecv: Cls, Loc, Both, Dupe, Bkg, Miss
KIND_WORDS = ("wrong class", "badly placed", "class and place", "twice", "nothing there", "not found")  # for people
CLASS, PLACE, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1  # Bolya 2020, section 2.2
RECALL_LEVELS = np.arange(101) / 100


@dataclass(frozen=True)
class Mistakes:
    """What is wrong with each of M detections and N objects."""

    kind: Int64[np.ndarray, " M"]  # index in `KINDS`; -1 for a hit
    object_row: Int64[np.ndarray, " M"]  # the object that a mistake of class or place means; -1 for the other kinds
    missed: Bool[np.ndarray, " N"]  # neither found nor meant, and not ignored


@dataclass(frozen=True)
class Tide:
    """What AP at IoU 0.5 would gain without each kind of mistake, all others left as they are."""

    ap50: float  # 101 recalls, as COCO's
    gain: Float[np.ndarray, " 6"]  # of AP, 0..1, by `KINDS`


def kinds_of_mistakes(truth: GroundTruth, found: DetectionTable, hit_object: Int64[np.ndarray, " M"]) -> Mistakes:
    """The kind of mistake of every detection that is no hit, and the objects that nothing comes near.

    `hit_object` is the row of the object that a detection hits, -1 for all others. Detections of ignored objects get a
    kind like any others; it is for the caller to leave them out.
    """
    counted_rows = np.flatnonzero(~truth.ignored)
    counted = truth.rows(counted_rows)
    own_row, own_iou = best_objects(counted, found)
    other_row, other_iou = best_objects(counted, found, "other classes")
    kind = np.select(
        [
            hit_object >= 0,
            (own_iou >= BACKGROUND_IOU) & (own_iou <= FOREGROUND_IOU),
            other_iou >= FOREGROUND_IOU,
            own_iou > FOREGROUND_IOU,
            np.maximum(own_iou, other_iou) <= BACKGROUND_IOU,
        ],
        [-1, PLACE, CLASS, DUPLICATE, BACKGROUND],
        BOTH,
    ).astype(np.int64)
    meant = np.select([kind == PLACE, kind == CLASS], [own_row, other_row], -1)
    object_row = np.where(meant >= 0, counted_rows[meant] if len(counted_rows) else -1, -1)
    missed = ~truth.ignored
    missed[hit_object[hit_object >= 0]] = False
    missed[object_row[object_row >= 0]] = False
    return Mistakes(kind, object_row, missed)


def tide(truth: GroundTruth, found: DetectionTable, num_classes: int, max_detections: int = 100) -> Tide:
    """What each kind of mistake costs, over all detections whatever their score, the best 100 of an image.

    Ignored objects are regions, as tidecv and COCO have it: what lies in one by half of its own area is neither hit
    nor mistake. Classes without objects are left out (tidecv takes them for an AP of 0).
    """
    found = _best_of_each_image(found, max_detections)
    hit_object = greedy_matches(truth, found)
    mistakes = kinds_of_mistakes(truth, found, hit_object)
    hit, kind, meant = hit_object >= 0, mistakes.kind, mistakes.object_row
    counted = hit | ~_in_ignored_regions(truth, found)
    positives = np.bincount(truth.labels[~truth.ignored], minlength=num_classes)
    with_objects = positives > 0

    def average_precision(kept: np.ndarray, mended: np.ndarray, positives: np.ndarray) -> float:
        """AP of the kept detections and of the mended ones, which hit the object that they mean."""
        rows = np.concatenate([np.flatnonzero(mended), np.flatnonzero(kept)])
        correct = np.append(np.ones(int(mended.sum()), dtype=bool), hit[kept])
        labels = np.append(truth.labels[meant[mended]], found.labels[kept])
        order = np.lexsort((-found.scores[rows], labels))
        bounds = np.searchsorted(labels[order], np.arange(num_classes + 1))
        present = np.flatnonzero(with_objects & ((positives > 0) | (np.diff(bounds) > 0)))
        aps = [_ap_101(correct[order[bounds[label] : bounds[label + 1]]], int(positives[label])) for label in present]
        return float(np.mean(aps)) if aps else float("nan")

    # Of the detections that mean an object which none has found, the best would hit it if it were mended.
    taken = np.zeros(len(truth.labels), dtype=bool)
    taken[hit_object[hit]] = True
    by_score = np.argsort(-found.scores, kind="stable")
    claims = by_score[meant[by_score] >= 0]
    claims = claims[~taken[meant[claims]]]
    mending, nothing = np.zeros((2, len(kind)), dtype=bool)
    mending[claims[np.unique(meant[claims], return_index=True)[1]]] = True
    near = positives - np.bincount(truth.labels[mistakes.missed], minlength=num_classes)
    base = average_precision(counted, nothing, positives)
    without = [average_precision(counted & (kind != one), mending & (kind == one), positives) for one in range(MISSED)]
    without.append(average_precision(counted, nothing, near))
    return Tide(base, np.maximum(0.0, np.array(without) - base))


def greedy_matches(truth: GroundTruth, found: DetectionTable, *, of_one_class: bool = True) -> Int64[np.ndarray, " M"]:
    """The object of each detection, or -1: the best score first takes the free one that it overlaps most, IoU >= 0.5.

    Ignored objects take no part. COCO's protocol matches so.
    """
    place = np.empty(len(found.scores), dtype=np.int64)
    place[np.argsort(-found.scores, kind="stable")] = np.arange(len(place))
    parts = [np.zeros((3, 0))]  # detection, object, IoU of the pairs that overlap enough
    for detections, objects in pairs(truth, found, of_one_class=of_one_class):
        iou = paired_iou(found.boxes_xyxy[detections], truth.boxes_xyxy[objects])
        good = (iou >= FOREGROUND_IOU) & ~truth.ignored[objects]
        parts.append(np.stack([detections[good], objects[good], iou[good]]))
    detections, objects, iou = np.concatenate(parts, axis=1)
    wishes = np.lexsort((objects, -iou, place[detections.astype(np.int64)]))
    detections, objects = detections[wishes].astype(np.int64), objects[wishes].astype(np.int64)
    # Each detection asks for the object that it likes best, and an object accepts the best score. As all objects judge
    # alike, asking in rounds ends where taking turns would.
    while True:
        asking = np.flatnonzero(np.diff(detections, prepend=-1))
        accepted = np.unique(objects[asking], return_index=True)[1]
        if len(accepted) == len(asking):
            break
        refused = np.delete(asking, accepted)
        detections, objects = np.delete(detections, refused), np.delete(objects, refused)
    matched = np.full(len(found.scores), -1, dtype=np.int64)
    matched[detections[asking]] = objects[asking]
    return matched


def _best_of_each_image(found: DetectionTable, most: int) -> DetectionTable:
    """The detections without those beyond the best `most` of an image."""
    order = np.lexsort((-found.scores, found.image_index))
    images = found.image_index[order]
    place = np.arange(len(order)) - np.searchsorted(images, images)
    return found.rows(np.sort(order[place < most]))


def _in_ignored_regions(truth: GroundTruth, found: DetectionTable) -> Bool[np.ndarray, " M"]:
    """True for a detection of which more than half lies in an ignored object of its class."""
    regions = truth.rows(truth.ignored)
    ignored = np.zeros(len(found.scores), dtype=bool)
    for detections, objects in pairs(regions, found, of_one_class=True):
        boxes, others = found.boxes_xyxy[detections], regions.boxes_xyxy[objects]
        inside_wh = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        ignored[detections[inside_wh.clip(min=0).prod(axis=1) > FOREGROUND_IOU * areas]] = True
    return ignored


def _ap_101(correct: Bool[np.ndarray, " M"], positives: int) -> float:
    """Mean of the best precision at or beyond each of 101 recalls; detections come best first."""
    if not positives:
        return 0.0
    hits = np.cumsum(correct)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float(np.append(precision, 0.0)[np.searchsorted(hits / positives, RECALL_LEVELS)].mean())
