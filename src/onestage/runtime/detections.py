"""Detections of one image, in NumPy arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(frozen=True)
class DetectionArrays:
    """Detections of one image, best first."""

    boxes_xyxy: Float32[np.ndarray, "N 4"]  # pixels of the upright original
    scores: Float32[np.ndarray, " N"]
    labels: Int64[np.ndarray, " N"]
    names: tuple[str, ...]  # names of the classes, by label

    def __len__(self) -> int:
        return len(self.scores)

    def filter(self, *, score: float = 0.0, names: Collection[str] | None = None) -> DetectionArrays:
        """The detections with a score above this one and of these classes.

        Raises:
            ValueError: a name that no class has.
        """
        chosen = self.scores > score
        if names is not None:
            chosen &= np.array(wanted_labels(self.names, names))[self.labels]
        return DetectionArrays(self.boxes_xyxy[chosen], self.scores[chosen], self.labels[chosen], self.names)

    def to_dict(self) -> list[dict[str, Any]]:
        """A dictionary for each detection: name, label, score (4 digits), box_xyxy (hundredths of a pixel)."""
        return detection_dicts(self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), self.names)


def wanted_labels(names: Sequence[str], wanted: Collection[str]) -> list[bool]:
    """For each class, True where its name is wanted. A wanted name that no class has is a `ValueError`."""
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"{unknown[0]}: no class has this name; the classes are {', '.join(names)}")
    return [name in wanted for name in names]


def detection_dicts(
    boxes_xyxy: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[int], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of `detections.json`."""
    return [
        {
            "name": name_of(label, names),
            "label": label,
            "score": round(score, 4),
            "box_xyxy": [round(side, 2) for side in box_xyxy],
        }
        for label, score, box_xyxy in zip(labels, scores, boxes_xyxy, strict=True)
    ]


def name_of(label: int, names: Sequence[str]) -> str:
    """Name of a label's class; the number itself where it has none."""
    return names[label] if label < len(names) else str(label)
