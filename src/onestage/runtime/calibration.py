"""How likely a detection is right, by its score: two numbers for each class, found on labelled images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from .errors import UserError

NEAREST = 1e-6  # scores are taken to be this far from 0 and 1, where the logit has no end


@dataclass(frozen=True)
class ScoreCalibration:
    """P(right) = sigmoid(slope * logit(score) + shift), by the slope and the shift of the detection's class.

    Slopes are above 0: what scores higher in a class is likelier right, so the ranking, and AP, stay as they are.
    Source: Platt 1999, on the logit.
    """

    slopes: tuple[float, ...]
    shifts: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in (*self.slopes, *self.shifts))
        if not finite or len(self.slopes) != len(self.shifts) or not min(self.slopes, default=0) > 0:
            raise UserError("a calibration of scores needs a slope above 0 and a shift for each class, all finite")

    def probabilities(
        self, scores: Float[np.ndarray, " N"], labels: Int64[np.ndarray, " N"]
    ) -> Float[np.ndarray, " N"]:
        """How likely each detection is right: that an object of its class is there, at IoU 0.5 or more."""
        slopes, shifts = np.array(self.slopes), np.array(self.shifts)
        return sigmoid(slopes[labels] * logit(scores) + shifts[labels])

    @classmethod
    def from_header(cls, value: Any, num_classes: int, where: str) -> ScoreCalibration | None:
        """That of an exported file's header; None where it has none, a UserError where it is damaged."""
        if value is None:
            return None
        try:
            calibration = cls(*(tuple(float(item) for item in value[name]) for name in ("slopes", "shifts")))
            if len(calibration.slopes) != num_classes:
                raise ValueError(f"{len(calibration.slopes)} slopes for {num_classes} classes")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{where}: the calibration in its header is damaged; export it again") from error
        return calibration


def logit(scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """log(score / (1 - score)), for scores of 0 and 1 too."""
    scores = np.asarray(scores, dtype=np.float64).clip(NEAREST, 1 - NEAREST)
    return np.log(scores) - np.log1p(-scores)


def sigmoid(logits: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """1 / (1 + exp(-logit)), for logits of any size."""
    return 0.5 + 0.5 * np.tanh(logits / 2)
