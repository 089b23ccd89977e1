"""Which images are most worth labelling: those in which most mistakes are to be expected, unlike one another.

Mistakes are expected wherever something was detected: the chance that the decision there is wrong, summed over the
places of an image. That is least confidence (Lewis and Gale 1994), summed as Brust et al. (2019, "Active Learning for
Deep Object Detection", 3.2) found better than the mean or the maximum over an image's detections. Decisions are made at
the score threshold, so that is where a score is least sure, whatever a detector's scores are like. Where two classes
share a place, the runner-up's part of both scores is the chance that the class is wrong (their 1-vs-2).

Which images are unlike is what greedy k-centre selection asks (Sener and Savarese 2018, "Active Learning for
Convolutional Neural Networks: A Core-Set Approach"): each next image has the largest product of the mistakes to expect
and the distance to the nearest image that was chosen before. So neighbouring frames of a video are not both chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float16, Int64, UInt8
from torchvision.ops import nms

from onestage.boxes import pairwise_iou
from onestage.runtime.detections import score_thresholds
from onestage.structures import Detections

SAME_PLACE_IOU = 0.5
LEAST_CHANCE = 0.1  # of an object, for a place to count: detectors find hundreds of faint ones in any image
NEAR = (0.25, 0.75)  # chances of an object that count as near the threshold
OFTEN_WRONG = 0.25  # chance that the class is wrong, from which it is told
GRID = 8  # cells a side, of the small copy of an image and of the layout of its detections
CLASS_BINS = 32  # classes share them where there are more
FLAT = 2.0  # gray levels of standard deviation: with less, an image has no pattern
LEAST_MISTAKES = 0.01  # so that an image without doubts is chosen last, not never
LEAST_DISTANCE = 0.2  # of two images that may both be chosen, of 0 to 1


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a model is unsure of in one image."""

    mistakes: float  # the sum of the chances; scores are no chances to rely on, so it tells images apart, no more
    near: int  # places with a score near the threshold
    classes: int  # places with two classes
    kept: int  # places above the threshold
    vector: Float16[np.ndarray, " D"]  # what the image looks like; the distance of two is 0 to 1

    @property
    def why(self) -> str:
        """The reason in words, for a person who asks what to look at."""
        reasons = [
            f"{count} {what}{'s' if count > 1 else ''}{rest}"
            for count, what, rest in (
                (self.near, "detection", " near the threshold"),
                (self.classes, "place", " with two classes"),
            )
            if count
        ]
        if not self.kept:
            reasons.append("nothing above the threshold")
        return ", ".join(reasons) or "unlike the others"


def doubt_of(found: Detections, image_rgb: UInt8[np.ndarray, "H W 3"], threshold: float | Sequence[float]) -> Doubt:
    """What is unsure in an image.

    Args:
        found: detections in pixels of the image, down to scores well below the threshold.
        threshold: the score above which a detection is kept, of all classes or of each, by label.
    """
    place = nms(found.boxes_xyxy, found.scores, SAME_PLACE_IOU)  # of all classes together
    overlap = pairwise_iou(found.boxes_xyxy[place], found.boxes_xyxy)  # (P, N)
    another = (overlap > SAME_PLACE_IOU) & (found.labels[place][:, None] != found.labels[None])
    rivals = (another * found.scores).amax(dim=1).numpy() if len(place) else np.zeros(0)
    scores, labels = found.scores[place].double().numpy(), found.labels[place].numpy()
    chances = chance_of_an_object(scores, score_thresholds(threshold, labels))
    wrong_class = rivals / np.maximum(scores + rivals, 1e-9)
    mistakes = np.where(chances > 0.5, 1 - chances + chances * wrong_class, chances)
    counts = chances >= LEAST_CHANCE
    near = (chances > NEAR[0]) & (chances < NEAR[1])
    two_classes = (wrong_class > OFTEN_WRONG) & (chances > NEAR[0])
    height, width = image_rgb.shape[:2]
    boxes = found.boxes_xyxy[place].double().numpy()[counts] / (width, height, width, height)
    vector = np.concatenate(
        [_pattern(image_rgb), _layout(boxes, chances[counts]), _classes(labels[counts], chances[counts])]
    )
    return Doubt(
        mistakes=float(mistakes[counts].sum()),
        near=int(near.sum()),
        classes=int(two_classes.sum()),
        kept=int((chances > 0.5).sum()),
        vector=(vector / np.sqrt(6)).astype(np.float16),  # no part is farther from another's than 2 ** 0.5
    )


def chance_of_an_object(
    scores: Float[np.ndarray, " N"], threshold: float | Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Scores as chances: the same odds, times what makes them even at the threshold."""
    odds_for, odds_against = scores * (1 - threshold), (1 - scores) * threshold
    return odds_for / np.maximum(odds_for + odds_against, 1e-9)


def lowest_score(threshold: float) -> float:
    """The score of the least chance that counts."""
    odds = LEAST_CHANCE / (1 - LEAST_CHANCE) * threshold
    return odds / (odds + 1 - threshold)


def choose(mistakes: Float[np.ndarray, " I"], vectors: Float16[np.ndarray, "I D"], count: int) -> Iterator[int]:
    """The most worth labelling of `I` images, best first; fewer than `count` where the others look like these."""
    nearest, vectors = np.ones(len(mistakes)), vectors.astype(np.float32)
    squares = np.square(vectors).sum(axis=1)
    for _ in range(min(count, len(mistakes))):
        best = int(np.argmax((mistakes + LEAST_MISTAKES) * nearest))
        if nearest[best] < LEAST_DISTANCE:
            return
        yield best
        apart = np.sqrt(np.maximum(squares + squares[best] - 2 * (vectors @ vectors[best]), 0))
        nearest = np.minimum(nearest, np.where(apart < LEAST_DISTANCE, 0, apart))


def _pattern(image_rgb: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " G"]:
    """The image as a few gray cells, without their mean and contrast."""
    small = cv2.resize(image_rgb, (GRID, GRID), interpolation=cv2.INTER_AREA).mean(axis=2).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), FLAT * GRID)


def _layout(boxes_xyxy: Float[np.ndarray, "N 4"], chances: Float[np.ndarray, " N"]) -> Float[np.ndarray, " G"]:
    """Where the detections are: how much of each cell they cover; boxes in fractions of the image."""
    edges = np.linspace(0, 1, GRID + 1)
    low, high = boxes_xyxy[:, None, :2], boxes_xyxy[:, None, 2:]
    covered = np.clip(np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None]), 0, None)  # (N, G, 2)
    return _unit(np.einsum("n,nx,ny->yx", chances, covered[..., 0], covered[..., 1]).ravel())


def _classes(labels: Int64[np.ndarray, " N"], chances: Float[np.ndarray, " N"]) -> Float[np.ndarray, " C"]:
    """How many detections there are of each class."""
    return _unit(np.bincount(labels % CLASS_BINS, weights=chances, minlength=CLASS_BINS).astype(np.float64))


def _unit(vector: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
