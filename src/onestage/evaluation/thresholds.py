"""Which score to cut at, for each class: found on labelled images, with the interval that so few of them leave.

What scores mean (`calibration`) is found beside it.

Every detection is a hit or a false positive whatever the threshold (`voc.assign_detections`). So along the detections
of a class, best first, running sums give precision and recall at every threshold at once, and weights of the images
give them for a bootstrap sample (Efron 1979), without matching again.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt16

from onestage.evaluation.calibration import fit_calibration
from onestage.evaluation.voc import assign_detections
from onestage.structures import DetectionTable, GroundTruth
from onestage.thresholds import BEST_F1, Aim, ClassThreshold, Thresholds

SAMPLES = 100  # of the bootstrap
CELLS_AT_ONCE = 1 << 22  # samples x detections, which bounds the memory
ROOM = 2  # times the detections that can be kept at a wanted precision, or at half the best F1, go into the samples
NOTHING_FOUND = 0.5  # the threshold where no class has a detection


def find_thresholds(
    truth: GroundTruth, found: DetectionTable, num_classes: int, *, aim: Aim = BEST_F1, split: str, seed: int = 0
) -> Thresholds:
    """The score threshold of each class that reaches the aim on these images; hits are at IoU 0.5.

    A threshold lies halfway between the worst score that is kept and the best that is not. Ignored objects, and
    detections of them, do not count.
    """
    assigned = assign_detections(truth, found)
    counted, kept = ~truth.ignored, np.flatnonzero(~assigned.ignored)
    kept = kept[np.argsort(-found.scores[kept], kind="stable")]
    by_class = np.argsort(found.labels[kept], kind="stable")
    bounds = np.searchsorted(found.labels[kept][by_class], np.arange(num_classes + 1))
    weights = _bootstrap_weights(truth.num_images, seed)

    def threshold(rows: Int64[np.ndarray, " M"], objects: Int64[np.ndarray, " N"]) -> ClassThreshold:
        """Of the class with these detections, best first, and these images of objects."""
        ranked = Ranked(found.scores[rows], assigned.hit[rows], found.image_index[rows], objects)
        return _class_threshold(ranked, aim, weights)

    classes, of_all = list[ClassThreshold](), None
    for label in range(num_classes):
        rows, objects = kept[by_class[bounds[label] : bounds[label + 1]]], counted & (truth.labels == label)
        if objects.any() and len(rows):
            classes.append(threshold(rows, truth.image_index[objects]))
        else:
            of_all = of_all or threshold(kept, truth.image_index[counted])
            where = of_all.score, of_all.lowest, of_all.highest
            classes.append(ClassThreshold(*where, int(objects.sum()), None, None, None, reached=False))
    calibration = fit_calibration(found.scores[kept], found.labels[kept], assigned.hit[kept], num_classes)
    return Thresholds(tuple(classes), aim, truth.num_images, split, calibration)


class Ranked(NamedTuple):
    """The detections of a class, best first, and the images of its objects."""

    scores: Float[np.ndarray, " M"]
    hit: Bool[np.ndarray, " M"]
    image: Int64[np.ndarray, " M"]
    image_of_object: Int64[np.ndarray, " N"]

    def best(self, count: int) -> "Ranked":
        """The first of the detections."""
        return self._replace(scores=self.scores[:count], hit=self.hit[:count], image=self.image[:count])


class Cuts(NamedTuple):
    """What is reached by keeping the best detections down to each place where a threshold can lie (S samples)."""

    precision: Float[np.ndarray, "S C"]
    recall: Float[np.ndarray, "S C"]

    @property
    def f1(self) -> Float[np.ndarray, "S C"]:
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)

    def best(self, aim: Aim) -> tuple[Int64[np.ndarray, " S"], Bool[np.ndarray, " S"]]:
        """The cut that reaches the aim, of each sample, and whether it does.

        With a wanted precision, of the cuts that have it the one of most recall; with a wanted recall, of those the one
        of most precision. Of equals the one that keeps fewer.
        """
        if aim.precision is None and aim.recall is None:
            best = self.f1.argmax(axis=1)
            return best, np.ones(len(best), dtype=bool)
        given, other = self.precision, self.recall
        if aim.recall is not None:
            given, other = other, given
        reaching = given >= (aim.precision if aim.recall is None else aim.recall)
        reached = np.asarray(reaching.any(axis=1))
        return np.where(reached, np.where(reaching, other, -1.0).argmax(axis=1), given.argmax(axis=1)), reached


def _bootstrap_weights(num_images: int, seed: int) -> UInt16[np.ndarray, "S I"]:
    """How often each image is in each sample; the first row is all images once."""
    generator, images = np.random.default_rng(seed), np.arange(num_images)
    rows = [images]
    rows += [generator.choice(images, num_images) for _ in range(SAMPLES if num_images else 0)]
    return np.stack([np.bincount(row, minlength=num_images).astype(np.uint16) for row in rows])


def _class_threshold(ranked: Ranked, aim: Aim, weights: UInt16[np.ndarray, "S I"]) -> ClassThreshold:
    objects = len(ranked.image_of_object)
    if not len(ranked.scores) or not objects:
        return ClassThreshold(NOTHING_FOUND, 0.0, 1.0, objects, None, None, None, False)
    # A threshold can't part equal scores; `last` is the last detection of each score, and the cut is below it.
    last = np.flatnonzero(np.append(np.diff(ranked.scores) != 0, True))
    below = np.append(ranked.scores[last[1:]], 0.0)  # the best score that is not kept
    thresholds = ((ranked.scores[last] + below) / 2).clip(0.0, 1.0)
    cuts = _cuts(ranked, weights[:1], last)
    (best,), (reached,) = cuts.best(aim)
    score = float(thresholds[best])
    precision, recall, f1 = (float(one[0, best]) for one in (cuts.precision, cuts.recall, cuts.f1))
    if aim.recall is None:  # a sample's best cut isn't far below: the more are kept, the lower F1 and precision can be
        worth = f1 / 2 if aim.precision is None else aim.precision
        last = last[: 1 + np.searchsorted(last, ROOM * objects / max(worth, 1e-3))]
        ranked = ranked.best(int(last[-1]) + 1)
    rows = max(1, CELLS_AT_ONCE // len(ranked.scores))
    parts = (weights[start : start + rows] for start in range(1, len(weights), rows))
    sampled = np.concatenate([thresholds[_cuts(ranked, part, last).best(aim)[0]] for part in parts])
    low, high = np.quantile(sampled, (0.025, 0.975)).tolist()
    return ClassThreshold(score, min(low, score), max(high, score), objects, precision, recall, f1, bool(reached))


def _cuts(ranked: Ranked, weights: UInt16[np.ndarray, "S I"], last: Int64[np.ndarray, " C"]) -> Cuts:
    of_detection = weights[:, ranked.image]
    kept = of_detection.cumsum(axis=1)[:, last]
    hits = (of_detection * ranked.hit).cumsum(axis=1)[:, last]
    objects = weights[:, ranked.image_of_object].sum(axis=1, keepdims=True)
    return Cuts(hits / np.maximum(kept, 1), hits / np.maximum(objects, 1))
