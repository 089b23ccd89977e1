"""Which images a report shows: the ones that a detector does best and worst on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from onestage.evaluation.voc import assign_detections
from onestage.structures import Detections, DetectionTable, GroundTruth


@dataclass(frozen=True)
class ReportExample:
    """One image of the report, in its own pixels."""

    name: str
    image: UInt8[np.ndarray, "H W 3"]  # RGB
    boxes_xyxy: Float32[np.ndarray, "N 4"]  # the annotated objects
    labels: Int64[np.ndarray, " N"]
    ignored: Bool[np.ndarray, " N"]
    found: Detections
    quality: float  # the image's F1, 0..1


@dataclass(frozen=True)
class Scores:
    """What was right and wrong, per image (I images), at one score and IoU threshold."""

    hits: Int64[np.ndarray, " I"]
    false_positives: Int64[np.ndarray, " I"]
    missed: Int64[np.ndarray, " I"]

    @property
    def f1(self) -> Float[np.ndarray, " I"]:
        """2 hits / (2 hits + mistakes); 1 for an empty image in which nothing was found."""
        mistakes = self.false_positives + self.missed
        return np.where(mistakes == 0, 1.0, 2 * self.hits / np.maximum(1, 2 * self.hits + mistakes))


def image_scores(
    truth: GroundTruth, found: DetectionTable, *, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> Scores:
    """Count hits and mistakes of every image as the VOC protocol does, with the detections above one score."""
    kept = found.scores >= score_threshold
    found = DetectionTable(**{f.name: getattr(found, f.name)[kept] for f in dataclasses.fields(found)})
    assigned = assign_detections(truth, found, iou_threshold)

    def per_image(image_index: np.ndarray) -> np.ndarray:
        return np.bincount(image_index, minlength=truth.num_images)

    hits = per_image(found.image_index[assigned.hit])
    objects = per_image(truth.image_index[~truth.ignored])
    return Scores(hits, per_image(found.image_index[assigned.false_positive]), objects - hits)


def choose_examples(
    truth: GroundTruth,
    found: DetectionTable,
    *,
    count: int = 6,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> tuple[list[int], list[int]]:
    """Indices of the best and of the worst images by F1, at most `count` of each and none in both.

    Among equally good images every class has its turn, so that the best are not all of the easiest class; among
    equally bad ones those with more mistakes come first.
    """
    scores = image_scores(truth, found, score_threshold=score_threshold, iou_threshold=iou_threshold)
    quality = scores.f1
    worst_first = np.lexsort((-(scores.false_positives + scores.missed), quality))
    worst = worst_first[: min(count, truth.num_images // 2)]
    best_first = np.lexsort((-scores.hits, -quality))
    turn = np.zeros(truth.num_images, dtype=np.int64)
    turn[best_first] = _turns(best_first, _first_labels(truth))
    best_first = np.lexsort((-scores.hits, turn, scores.hits == 0, -quality))
    best_first = best_first[~np.isin(best_first, worst)]
    return best_first[:count].tolist(), worst.tolist()


def _first_labels(truth: GroundTruth) -> Int64[np.ndarray, " I"]:
    """The label of each image's first object; -1 without objects."""
    labels = np.full(truth.num_images, -1, dtype=np.int64)
    images, first = np.unique(truth.image_index, return_index=True)
    labels[images] = truth.labels[first]
    return labels


def _turns(order: np.ndarray, labels: np.ndarray) -> list[int]:
    """For each image of an order, how many before it have the same label."""
    seen: dict[int, int] = {}
    turns = []
    for label in labels[order].tolist():
        turns.append(seen.get(label, 0))
        seen[label] = turns[-1] + 1
    return turns
