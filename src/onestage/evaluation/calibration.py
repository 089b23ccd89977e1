"""What a score means: how likely a detection with it is right, found on labelled images, and how well that holds.

A detection is right where it hits an object at IoU 0.5 (`voc.assign_detections`); those of ignored objects don't count.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from onestage.evaluation.voc import assign_detections
from onestage.runtime.calibration import ScoreCalibration, logit, sigmoid
from onestage.structures import DetectionTable, GroundTruth

LEAST_HITS = 50  # of a class, to have two numbers of its own; of all together, to have any
STEPS = 50  # of Newton's method, which needs about ten
SMALLEST_STEP = 1e-10
BINS = 10  # of the reliability diagram, of equal width


def fit_calibration(
    scores: Float[np.ndarray, " M"], labels: Int64[np.ndarray, " M"], hit: Bool[np.ndarray, " M"], num_classes: int
) -> ScoreCalibration | None:
    """A slope and a shift for each class, by most likelihood; those of all together for one of few hits or misses.

    None where there are too few of all.
    """
    shared = _fit(scores, hit)
    if shared is None:
        return None
    own = [_fit(scores[of_class], hit[of_class]) for of_class in (labels == label for label in range(num_classes))]
    slopes, shifts = zip(*(one or shared for one in own), strict=True)
    return ScoreCalibration(slopes, shifts)


def _fit(scores: Float[np.ndarray, " M"], hit: Bool[np.ndarray, " M"]) -> tuple[float, float] | None:
    """Logistic regression on the logit of the score (Platt 1999), by Newton's method.

    None with fewer than `LEAST_HITS` hits or misses, or where higher scores are not likelier right.
    """
    hits, misses = int(hit.sum()), int((~hit).sum())
    if min(hits, misses) < LEAST_HITS:
        return None
    x = logit(scores)
    columns = np.stack([x, np.ones_like(x)], axis=1)
    # Platt's targets keep the slope finite where a score parts hits from misses.
    target = np.where(hit, (hits + 1) / (hits + 2), 1 / (misses + 2))
    weights, loss = np.zeros(2), len(x) * np.log(2)
    for _ in range(STEPS):
        likely = sigmoid(columns @ weights)
        curvature = (columns.T * (likely * (1 - likely))) @ columns + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, columns.T @ (target - likely))
        while np.abs(step).max() >= SMALLEST_STEP and (new := _loss(columns @ (weights + step), target)) > loss:
            step /= 2  # the loss is convex, so a shorter step makes it less
        if np.abs(step).max() < SMALLEST_STEP:
            break
        weights, loss = weights + step, new
    slope, shift = weights.tolist()
    return (slope, shift) if slope > 0 else None


def _loss(logits: Float[np.ndarray, " M"], target: Float[np.ndarray, " M"]) -> float:
    """The negative logarithm of how likely the targets are."""
    return float((np.logaddexp(0, logits) - target * logits).sum())


@dataclass(frozen=True)
class Reliability:
    """What detections claim and what is true, in each of `BINS` ranges of the claim, from 0 to 1.

    Source: the reliability diagram, as in Niculescu-Mizil and Caruana 2005.
    """

    count: Int64[np.ndarray, " R"]
    claimed: Float[np.ndarray, " R"]  # mean; NaN in a range without detections
    right: Float[np.ndarray, " R"]  # share of the detections; the same

    @property
    def error(self) -> float:
        """How far claims are off, the mean over all detections (ECE, Naeini 2015); NaN without any."""
        return self.off()

    def off(self, first: int = 0) -> float:
        """The same over the detections from a range on: most have scores near 0, and are right to."""
        off, count = np.nan_to_num(np.abs(self.claimed - self.right))[first:], self.count[first:]
        total = int(count.sum())
        return float((off * count).sum() / total) if total else float("nan")

    def as_json(self) -> dict[str, Any]:
        """The error, and the ranges that hold detections."""
        rows = [
            {"from": row / BINS, "to": (row + 1) / BINS, "detections": count, "claimed": claimed, "right": right}
            for row, (count, claimed, right) in enumerate(
                zip(self.count.tolist(), self.claimed.tolist(), self.right.tolist(), strict=True)
            )
            if count
        ]
        return {"error": self.error if rows else None, "ranges": rows}


def reliability(claims: Float[np.ndarray, " M"], hit: Bool[np.ndarray, " M"]) -> Reliability:
    """Claims of 0 to 1 beside what is true of them."""
    row = (claims * BINS).astype(np.int64).clip(0, BINS - 1)
    count = np.bincount(row, minlength=BINS)
    sums = (np.bincount(row, weights=values, minlength=BINS) for values in (claims, hit))
    claimed, right = (np.divide(one, count, out=np.full(BINS, np.nan), where=count > 0) for one in sums)
    return Reliability(count, claimed, right)


@dataclass(frozen=True)
class ScoresMean:
    """How reliable the scores of the detections are, and the probabilities that a calibration makes of them."""

    scores: Reliability
    probabilities: Reliability | None  # None: the model has no calibration

    def as_json(self) -> dict[str, Any]:
        """For `metrics.json`."""
        likely = None if self.probabilities is None else self.probabilities.as_json()
        return {"scores": self.scores.as_json(), "probabilities": likely}


def what_scores_mean(truth: GroundTruth, found: DetectionTable, calibration: ScoreCalibration | None) -> ScoresMean:
    """Compare all detections' scores, and their probabilities, with what hits."""
    assigned = assign_detections(truth, found)
    counts = ~assigned.ignored
    found, hit = found.rows(counts), assigned.hit[counts]
    likely = None if calibration is None else reliability(calibration.probabilities(found.scores, found.labels), hit)
    return ScoresMean(reliability(found.scores, hit), likely)
