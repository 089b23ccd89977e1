"""What a user of the detections meets: how many objects are found, and how many marks are right, above a score."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from onestage.evaluation.mistakes import MISSED, Mistakes, greedy_matches, kinds_of_mistakes
from onestage.evaluation.voc import Assignments, assign_detections
from onestage.structures import DetectionTable, GroundTruth

Z_95 = 1.959963984540054  # standard deviations around the mean that hold 95 % of a normal distribution


@dataclass(frozen=True)
class AtThresholds:
    """Hits and mistakes of the detections above the score threshold of their class, by the VOC protocol at IoU 0.5.

    K classes, by label; N objects, M detections above the thresholds. Ignored objects and detections of them count
    nowhere.
    """

    score_thresholds: Float[np.ndarray, " K"]
    truth: GroundTruth
    found: DetectionTable  # above the thresholds
    assigned: Assignments
    mistakes: Mistakes
    objects: Int64[np.ndarray, " K"]
    hits: Int64[np.ndarray, " K"]
    false_alarms: Int64[np.ndarray, " K"]  # detections that are no hits
    kinds: Int64[np.ndarray, "K 6"]  # by `KINDS`: false alarms of five kinds, and objects that no mark is about
    confusion: Int64[np.ndarray, "K1 K1"]  # K1 = K + 1: object (row) by detection (column), background last

    @property
    def recall(self) -> Float[np.ndarray, " K"]:
        """Share of the objects that are found; NaN for a class without objects."""
        return share(self.hits, self.objects)

    @property
    def precision(self) -> Float[np.ndarray, " K"]:
        """Share of the detections that are hits; NaN for a class without detections."""
        return share(self.hits, self.hits + self.false_alarms)

    @property
    def f1(self) -> Float[np.ndarray, " K"]:
        """Harmonic mean of recall and precision: 2 hits / (objects + detections); NaN with neither."""
        return share(2 * self.hits, self.objects + self.hits + self.false_alarms)

    @property
    def is_found(self) -> Bool[np.ndarray, " N"]:
        """True for each object that a detection hits."""
        found = np.zeros(len(self.truth.labels), dtype=bool)
        found[self.assigned.object_row[self.assigned.hit]] = True
        return found

    def by_image(self) -> Int64[np.ndarray, "I 8"]:
        """In each image: its false alarms of five kinds, objects that no mark is about, hits, objects not found."""
        parts = [self.found.image_index[self.false_alarm_of(kind)] for kind in range(MISSED)]
        parts += [self.truth.image_index[self.mistakes.missed], self.found.image_index[self.assigned.hit]]
        parts += [self.truth.image_index[~self.truth.ignored & ~self.is_found]]
        return np.stack([np.bincount(images, minlength=self.truth.num_images) for images in parts], axis=1)

    def false_alarm_of(self, kind: int) -> Bool[np.ndarray, " M"]:
        """True for each false alarm of one of the first five `KINDS`."""
        return self.assigned.false_positive & (self.mistakes.kind == kind)


def count_at_thresholds(
    truth: GroundTruth, found: DetectionTable, score_thresholds: Float[np.ndarray, " K"]
) -> AtThresholds:
    """Judge the detections that score above the threshold of their class; boxes are pixels of the original images."""
    num_classes = len(score_thresholds)
    kept = found.scores > score_thresholds[found.labels]
    found = found.rows(kept)
    assigned = assign_detections(truth, found)
    mistakes = kinds_of_mistakes(truth, found, np.where(assigned.hit, assigned.object_row, -1))

    def by_class(labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels, minlength=num_classes)

    false_alarm = assigned.false_positive
    kinds = [by_class(found.labels[false_alarm & (mistakes.kind == kind)]) for kind in range(MISSED)]
    return AtThresholds(
        score_thresholds=score_thresholds,
        truth=truth,
        found=found,
        assigned=assigned,
        mistakes=mistakes,
        objects=by_class(truth.labels[~truth.ignored]),
        hits=by_class(found.labels[assigned.hit]),
        false_alarms=by_class(found.labels[false_alarm]),
        kinds=np.stack([*kinds, by_class(truth.labels[mistakes.missed])], axis=1),
        confusion=_confusion(truth, found, assigned, num_classes),
    )


def _confusion(
    truth: GroundTruth, found: DetectionTable, assigned: Assignments, num_classes: int
) -> Int64[np.ndarray, "K1 K1"]:
    """Each object and each detection once: hits, then the best scores with what is left at IoU >= 0.5, then background.

    So the sums of the rows are the objects, and those of the columns the detections.
    """
    partner = np.where(assigned.hit, assigned.object_row, -1)
    is_left = ~truth.ignored
    is_left[partner[partner >= 0]] = False
    left, others = np.flatnonzero(is_left), np.flatnonzero(assigned.false_positive)
    matched = greedy_matches(truth.rows(left), found.rows(others), of_one_class=False)
    partner[others[matched >= 0]] = left[matched[matched >= 0]]
    is_left[partner[partner >= 0]] = False
    partner, labels = partner[~assigned.ignored], found.labels[~assigned.ignored]
    rows = np.append(np.append(truth.labels, num_classes)[partner], truth.labels[is_left])  # -1 is the last: background
    columns = np.append(labels, np.full(int(is_left.sum()), num_classes))
    side = num_classes + 1
    return np.bincount(rows * side + columns, minlength=side * side).reshape(side, side)


def wilson_interval(hits: Int64[np.ndarray, " K"], of: Int64[np.ndarray, " K"]) -> Float[np.ndarray, "K 2"]:
    """The shares (0..1) that so many hits leave likely (95 %): lower and upper end; 0 and 1 of none.

    Source: Wilson 1927, equation 2. Objects of one image are taken to be independent; if they resemble each other, the
    true interval is somewhat wider.
    """
    count = np.maximum(of, 1)
    centre = (hits + Z_95**2 / 2) / (count + Z_95**2)
    half = Z_95 / (count + Z_95**2) * np.sqrt(hits * (count - hits) / count + Z_95**2 / 4)
    return np.where((of > 0)[:, None], np.stack([centre - half, centre + half], axis=1).clip(0, 1), (0.0, 1.0))


def share(part: Int64[np.ndarray, " K"], whole: Int64[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """part / whole, NaN of nothing."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
