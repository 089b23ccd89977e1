"""What was found in one image, in NumPy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(frozen=True)
class DetectionArrays:
    """What was found in one image, best first; boxes in pixels of the upright original."""

    boxes_xyxy: Float32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"]
    labels: Int64[np.ndarray, " N"]
    names: tuple[str, ...]  # of every class, by label

    def __len__(self) -> int:
        return len(self.scores)

    def filter(self, *, score: float = 0.0, names: Collection[str] | None = None) -> DetectionArrays:
        """Those of at least this score and of these classes.

        Raises:
            ValueError: a name of no class.
        """
        chosen = self.scores >= score
        if names is not None:
            chosen &= np.array(wanted_labels(self.names, names))[self.labels]
        return DetectionArrays(self.boxes_xyxy[chosen], self.scores[chosen], self.labels[chosen], self.names)

    def to_dict(self) -> list[dict[str, Any]]:
        """One dictionary a detection: name, label, score (4 digits), box_xyxy (hundredths of a pixel)."""
        return detection_dicts(self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), self.names)


def wanted_labels(names: Sequence[str], wanted: Collection[str]) -> list[bool]:
    """Of each class, whether it is wanted.

    Raises:
        ValueError: a wanted name of no class.
    """
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"{unknown[0]}: no class is called so; the classes are {', '.join(names)}")
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
    """What a label is called; its number where there are no names."""
    return names[label] if label < len(names) else str(label)
