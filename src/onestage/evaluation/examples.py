"""The images that a report shows: those that a detector does best and worst on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from onestage.evaluation.voc import assign_detections
from onestage.structures import Detections, DetectionTable, GroundTruth

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


@dataclass(frozen=True)
class ImageCounts:
    """Hits and mistakes in each image (I images) of the detections above `SHOWN_SCORE`, at IoU 0.5."""

    hits: Int64[np.ndarray, " I"]
    false_positives: Int64[np.ndarray, " I"]
    missed: Int64[np.ndarray, " I"]

    @property
    def f1(self) -> Float[np.ndarray, " I"]:
        """2 hits / (2 hits + mistakes); 1 for an empty image without detections."""
        mistakes = self.false_positives + self.missed
        return np.where(mistakes == 0, 1.0, 2 * self.hits / np.maximum(1, 2 * self.hits + mistakes))


def count_by_image(truth: GroundTruth, found: DetectionTable) -> ImageCounts:
    """Count hits and mistakes in every image by the VOC protocol."""
    kept = found.scores > SHOWN_SCORE
    found = DetectionTable(found.image_index[kept], found.labels[kept], found.scores[kept], found.boxes_xyxy[kept])
    assigned = assign_detections(truth, found)

    def by_image(image_index: np.ndarray) -> np.ndarray:
        return np.bincount(image_index, minlength=truth.num_images)

    hits = by_image(found.image_index[assigned.hit])
    objects = by_image(truth.image_index[~truth.ignored])
    return ImageCounts(hits, by_image(found.image_index[assigned.false_positive]), objects - hits)


def choose_examples(truth: GroundTruth, counts: ImageCounts, limit: int = 6) -> tuple[list[int], list[int]]:
    """Indices of the best and of the worst images by F1, at most `limit` of each and none in both.

    Among equally good images the classes take turns, so that the best are not all of the easiest class; among equally
    bad ones those with more mistakes come first.
    """
    f1, hits = counts.f1, counts.hits
    worst = np.lexsort((-(counts.false_positives + counts.missed), f1))[: min(limit, truth.num_images // 2)]
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
    return best[~np.isin(best, worst)][:limit].tolist(), worst.tolist()
