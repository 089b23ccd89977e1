"""Detections of one image, in NumPy arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from .calibration import ScoreCalibration
from .errors import UserError


@dataclass(frozen=True)
class DetectionArrays:
    """Detections of one image, best first."""

    boxes_xyxy: Float32[np.ndarray, "N 4"]  # pixels of the upright original
    scores: Float32[np.ndarray, " N"]
    labels: Int64[np.ndarray, " N"]
    names: tuple[str, ...]  # names of the classes, by label
    calibration: ScoreCalibration | None = None  # what a score means; None: nobody has found it

    def __len__(self) -> int:
        return len(self.scores)

    def filter(self, *, score: float | Sequence[float] = 0.0, names: Collection[str] | None = None) -> DetectionArrays:
        """The detections of these classes with a score above this one, or above that of their class, by label.

        Raises:
            ValueError: a name that no class has.
            UserError: a label without a score.
        """
        chosen = self.scores > np.asarray(score_thresholds(score, self.labels), dtype=self.scores.dtype)
        if names is not None:
            chosen &= np.array(wanted_labels(self.names, names))[self.labels]
        rows = self.boxes_xyxy[chosen], self.scores[chosen], self.labels[chosen]
        return DetectionArrays(*rows, self.names, self.calibration)

    @property
    def probabilities(self) -> Float[np.ndarray, " N"] | None:
        """How likely each detection is right; None where the model has no calibration."""
        return None if self.calibration is None else self.calibration.probabilities(self.scores, self.labels)

    def to_dict(self) -> list[dict[str, Any]]:
        """A dictionary for each detection: name, label, score, probability (if known), box_xyxy.

        Numbers have 4 digits, sides of boxes hundredths of a pixel.
        """
        return detection_dicts(self.boxes_xyxy, self.scores, self.labels, self.names, self.probabilities)


def score_thresholds(
    score: float | Sequence[float], labels: Int64[np.ndarray, " N"]
) -> float | Float64[np.ndarray, " N"]:
    """The threshold of each detection: that of all, or that of its class.

    Raises:
        UserError: a label without a score.
    """
    if isinstance(score, int | float):
        return score
    if len(labels) and labels.max() >= len(score):
        raise UserError(f"{len(score)} score thresholds for more classes; give one a class, by label")
    return np.array(score, dtype=np.float64)[labels]


def wanted_labels(names: Sequence[str], wanted: Collection[str]) -> list[bool]:
    """For each class, True where its name is wanted. A wanted name that no class has is a `ValueError`."""
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"{unknown[0]}: no class has this name; the classes are {', '.join(names)}")
    return [name in wanted for name in names]


def detection_dicts(
    boxes_xyxy: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, " N"],
    labels: Int64[np.ndarray, " N"],
    names: Sequence[str],
    probabilities: Float[np.ndarray, " N"] | None = None,
) -> list[dict[str, Any]]:
    """The rows of `detections.json`."""
    likely = [None] * len(scores) if probabilities is None else probabilities.tolist()
    return [
        {
            "name": name_of(label, names),
            "label": label,
            "score": round(score, 4),
            **({} if probability is None else {"probability": round(probability, 4)}),
            "box_xyxy": [round(side, 2) for side in box_xyxy],
        }
        for label, score, probability, box_xyxy in zip(
            labels.tolist(), scores.tolist(), likely, boxes_xyxy.tolist(), strict=True
        )
    ]


def name_of(label: int, names: Sequence[str]) -> str:
    """Name of a label's class; the number itself where it has none."""
    return names[label] if label < len(names) else str(label)
