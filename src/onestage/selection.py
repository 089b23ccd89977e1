"""Post-processing as settings: which of a detector's raw detections are kept. `postprocess.select` applies them.

Without torch, since options of the command line are made from these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from onestage.errors import UserError
from onestage.settings import check_ranges, setting

MOST = 1_000_000_000  # candidates, detections; far more than any network has anchors
USUAL_THRESHOLD = 0.5  # score of a model whose thresholds nobody has found
Nms = Literal["hard", "soft-linear", "soft-gaussian"]


@dataclass(frozen=True)
class Selection:
    """Which detections are kept. The defaults are SSD's (Liu 2016, 3.1 and 3.7)."""

    score_threshold: float = setting(0.01, "Score above which a detection is kept")
    iou_threshold: float = setting(0.45, "IoU above which NMS takes two detections of a class for one object")
    candidates_per_class: int = setting(200, "Top-k before NMS, of each image and class")
    max_detections: int | None = setting(200, "Most detections of an image, after NMS")
    nms: Nms = setting(
        "hard", "hard drops overlapping detections; soft-linear and soft-gaussian lower their scores (Bodla 2017)"
    )
    sigma: float = setting(0.5, "Width of soft-gaussian's decay")
    class_agnostic: bool = setting(False, "Let detections of different classes suppress each other")
    class_thresholds: tuple[float, ...] | None = setting(
        None, "Scores above which detections of each class are kept, by label, the lowest of them the score_threshold"
    )

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("score_threshold", "iou_threshold", "class_thresholds"), (0, 1))
        check_ranges(self, {**shares, "candidates_per_class": (1, MOST), "max_detections": (1, MOST)})
        if self.class_thresholds is not None and self.score_threshold != min(self.class_thresholds, default=None):
            object.__setattr__(self, "class_thresholds", None)  # whoever gives another number means it for all classes
        if not self.sigma > 0:
            raise UserError(f"sigma {self.sigma}: expected more than 0")

    def changed(
        self,
        *,
        score_threshold: float | None = None,
        nms: Literal["hard", "soft"] | Nms | None = None,
        iou_threshold: float | None = None,
        class_agnostic: bool | None = None,
        max_detections: int | None = None,
    ) -> Selection:
        """With what a user asks for; None keeps a value. `nms="soft"` is soft-gaussian.

        A score threshold is that of all classes, and takes the place of their own, here and in `dataclasses.replace`.

        Raises:
            UserError: a value out of its range.
        """
        asked = {
            "score_threshold": None if score_threshold is None else float(score_threshold),
            "nms": "soft-gaussian" if nms == "soft" else nms,
            "iou_threshold": None if iou_threshold is None else float(iou_threshold),
            "class_agnostic": class_agnostic,
            "max_detections": max_detections,
        }
        changes = {name: value for name, value in asked.items() if value is not None}
        own = None if score_threshold is not None else self.class_thresholds
        return replace(self, **changes, class_thresholds=own)

    def check_classes(self, count: int) -> None:
        """Raises a UserError unless each of so many classes has a threshold, if any has."""
        if self.class_thresholds is not None and len(self.class_thresholds) != count:
            given = len(self.class_thresholds)
            raise UserError(f"class_thresholds has {given} numbers, the data {count} classes; give one a class")

    @property
    def score_thresholds(self) -> float | tuple[float, ...]:
        """Above which detections are kept: of each class, by label, or of all."""
        return self.class_thresholds or self.score_threshold

    @property
    def thresholds_in_words(self) -> str:
        """As "0.5", or "0.21 to 0.44 by class"."""
        if self.class_thresholds is None:
            return f"{self.score_threshold:g}"
        return f"{min(self.class_thresholds):.2f} to {max(self.class_thresholds):.2f} by class"

    def with_class_thresholds(self, scores: Sequence[float]) -> Selection:
        """With a score threshold for each class, by label."""
        return replace(self, score_threshold=min(scores), class_thresholds=tuple(scores))
