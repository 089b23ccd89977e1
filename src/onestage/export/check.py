"""Compares the detections of an exported file with those of its model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from onestage.boxes import pairwise_iou
from onestage.structures import Detections

SAME_IOU, SAME_SCORE = 0.99, 0.002  # least IoU and largest score difference of a pair


@dataclass(frozen=True)
class Agreement:
    """The number of detections that a model and its file have in common, and how much these differ."""

    images: int  # number of images compared
    same: int  # number of pairs: one class, `SAME_IOU`, `SAME_SCORE`; a detection is in one pair at most
    of: int  # number of detections of the model or of the file, whichever has more; summed over the images
    largest_offset: float  # between box sides of a pair, pixels
    largest_score_difference: float  # between scores of a pair

    @property
    def share(self) -> float:
        """Pairs as a share of all detections; 1 where there are none."""
        return self.same / self.of if self.of else 1.0

    def __str__(self) -> str:
        if not self.of:
            return f"neither the model nor the file finds anything in {self.images} images, so nothing was compared"
        return (
            f"{self.same:,} of {self.of:,} detections in {self.images} images are the model's own; "
            f"largest difference {self.largest_offset:.3g} px, {self.largest_score_difference:.2g} of score"
        )


def compare(model: Sequence[Detections], exported: Sequence[Detections]) -> Agreement:
    """Pair the detections of the same images, given in the same order."""
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
    """Pairs of rows (n, 2) that hold the same detection, the best first."""
    same = pairwise_iou(ours.boxes_xyxy, theirs.boxes_xyxy).nan_to_num(1.0) > SAME_IOU
    same |= (ours.boxes_xyxy[:, None] - theirs.boxes_xyxy).abs().amax(dim=-1) < 1e-2  # boxes without an area too
    same &= (ours.scores[:, None] - theirs.scores).abs() <= SAME_SCORE
    same &= ours.labels[:, None] == theirs.labels
    pairs: list[tuple[int, int]] = []
    for row in range(len(ours)):
        columns = same[row].nonzero()[:, 0].tolist()
        if columns:
            pairs.append((row, columns[0]))
            same[:, columns[0]] = False  # taken
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
