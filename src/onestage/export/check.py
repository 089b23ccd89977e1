"""Whether an exported file finds what its model finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from onestage.boxes import pairwise_iou
from onestage.structures import Detections

SAME_IOU, SAME_SCORE = 0.99, 0.002  # of one detection in both


@dataclass(frozen=True)
class Agreement:
    """How many detections of the model and of its file are the same, and how far those are apart.

    Attributes:
        same: pairs of one class, an IoU above 0.99 and scores within 0.002, each detection in one pair at most.
        of: the larger number of detections.
        largest_offset: of a pair's box sides, pixels.
        largest_score_difference: of a pair.
    """

    images: int
    same: int
    of: int
    largest_offset: float
    largest_score_difference: float

    @property
    def share(self) -> float:
        return self.same / self.of if self.of else 1.0

    def __str__(self) -> str:
        return (
            f"{self.same:,} of {self.of:,} detections in {self.images} images are the model's own; "
            f"largest difference {self.largest_offset:.3g} px, {self.largest_score_difference:.2g} of score"
        )


def compare(model: Sequence[Detections], exported: Sequence[Detections]) -> Agreement:
    """Match the detections of the same images."""
    same, of, offset, score = 0, 0, 0.0, 0.0
    for ours, theirs in zip(model, exported, strict=True):
        pairs = _pairs(ours, theirs)
        same, of = same + len(pairs), of + max(len(ours), len(theirs))
        if len(pairs):
            first, second = ours[pairs[:, 0]], theirs[pairs[:, 1]]
            offset = max(offset, float((first.boxes_xyxy - second.boxes_xyxy).abs().max()))
            score = max(score, float((first.scores - second.scores).abs().max()))
    return Agreement(len(model), same, of, offset, score)


def _pairs(ours: Detections, theirs: Detections) -> torch.Tensor:
    """(n, 2): rows of detections that are the same, the best first."""
    if not len(ours) or not len(theirs):
        return torch.zeros((0, 2), dtype=torch.int64)
    same = pairwise_iou(ours.boxes_xyxy, theirs.boxes_xyxy).nan_to_num(1.0) > SAME_IOU
    same |= (ours.boxes_xyxy[:, None] - theirs.boxes_xyxy).abs().amax(dim=-1) < 1e-2  # boxes without an area too
    same &= (ours.scores[:, None] - theirs.scores).abs() <= SAME_SCORE
    same &= ours.labels[:, None] == theirs.labels
    taken, pairs = torch.zeros(len(theirs), dtype=torch.bool), []
    for row in range(len(ours)):
        column = int((same[row] & ~taken).int().argmax())
        if same[row, column] and not taken[column]:
            taken[column] = True
            pairs.append((row, column))
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
