"""Post-processing: every anchor's box and scores -> the detections of each image, by a `Selection`."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchvision.ops import batched_nms, nms

from onestage.boxes import clip_boxes, paired_overlap_and_union, rescale_boxes
from onestage.input_size import Resize
from onestage.selection import Selection
from onestage.structures import Detections

FIRST_CANDIDATES = 4  # times the detections wanted go into NMS at first
MORE_CANDIDATES = 2  # times as many where too few of them stayed


@dataclass(frozen=True)
class LevelCut:
    """Top-k before `select`: only the best scores of each level count, of all its anchors and classes (Lin 2017, 4.1).

    Attributes:
        strides: stride of each level, in the order of the anchors; a map has ceil(side / stride) cells a side.
        anchors_per_cell: anchors of a cell, the same on every level.
        candidates: scores that are kept of each level.
    """

    strides: tuple[int, ...]
    anchors_per_cell: int
    candidates: int

    def __call__(self, scores: Float[Tensor, "B A K"], input_hw: tuple[int, int]) -> Float[Tensor, "B A K"]:
        """The scores, with zeros for all that do not count."""
        height, width = input_hw
        sizes = [(height + s - 1) // s * ((width + s - 1) // s) * self.anchors_per_cell for s in self.strides]
        kept = []
        for level in scores.split(sizes, dim=1):
            flat = level.flatten(1)
            count = torch.sym_min(flat.shape[1], self.candidates)  # min, of the symbols of a trace too
            least = flat.topk(count, dim=1).values[:, -1, None, None]
            kept.append(level.where(level >= least, 0.0))
        return torch.cat(kept, dim=1)


def select(
    boxes_xyxy: Float[Tensor, "B A 4"], scores: Float[Tensor, "B A K"], selection: Selection
) -> list[Detections]:
    """The detections of each image, best first; equal scores stay in the order of anchor, then class.

    Args:
        boxes_xyxy: one box an anchor, any frame; clipping is the caller's.
        scores: of every class but the background.

    Returns:
        One `Detections` an image in main memory, in the frame of the boxes, without names.
    """
    if scores.numel() == 0:
        nothing = torch.zeros(0)
        return [Detections(nothing.view(0, 4), nothing, nothing.long())] * len(scores)
    if scores.device.type == "mps":  # it has no float64
        boxes_xyxy, scores = boxes_xyxy.cpu(), scores.cpu()
    # All at once keep a GPU busy; on a CPU, NMS takes time by the square of what it gets.
    at_once = 1 if scores.device.type == "cpu" else len(scores)
    parts = zip(boxes_xyxy.float().split(at_once), scores.float().split(at_once), strict=True)
    return [one for part in parts for one in _select_at_once(*part, selection)]


def _select_at_once(
    boxes_xyxy: Float[Tensor, "B A 4"], scores: Float[Tensor, "B A K"], selection: Selection
) -> list[Detections]:
    nms, best = _hard_nms if selection.nms == "hard" else _soft_nms, slice(selection.max_detections)
    found = nms(boxes_xyxy, scores, selection)
    if len(scores) > 1:
        found = found[found.image.argsort(stable=True)]
    columns = (found.boxes(boxes_xyxy).cpu(), found.score.cpu(), found.label.cpu())
    counts = found.counts().tolist()
    images = zip(*(column.split(counts) for column in columns), strict=True)
    detections = [Detections(boxes[best], scores[best], labels[best]) for boxes, scores, labels in images]
    own = selection.class_thresholds
    return detections if own is None else [one.filter(score=own) for one in detections]


@dataclass(frozen=True)
class Candidates:
    """Anchors and classes that they may be, of all images; best first."""

    place: Int64[Tensor, " M"]  # among the flattened scores
    score: Float[Tensor, " M"]
    shape: tuple[int, int, int]  # of the scores: (B, A, K)

    def __getitem__(self, rows: Tensor) -> "Candidates":
        return Candidates(self.place[rows], self.score[rows], self.shape)

    @property
    def label(self) -> Int64[Tensor, " M"]:
        return self.place % self.shape[2]

    @property
    def image(self) -> Int64[Tensor, " M"]:
        return self.place // (self.shape[1] * self.shape[2]) if self.shape[0] > 1 else torch.zeros_like(self.place)

    def counts(self) -> Int64[Tensor, " B"]:
        """How many there are of each image."""
        return self.image.bincount(minlength=self.shape[0])

    def boxes(self, boxes_xyxy: Float[Tensor, "B A 4"]) -> Float[Tensor, "M 4"]:
        """Their own boxes."""
        return boxes_xyxy.flatten(0, 1)[self.place // self.shape[2]]


def _hard_nms(boxes_xyxy: Float[Tensor, "B A 4"], scores: Float[Tensor, "B A K"], selection: Selection) -> Candidates:
    """The detections, best first; the best `max_detections` of each image at least.

    Whether NMS keeps a candidate depends on better ones only. So the best go in first, and more only where it kept
    too few of them.
    """
    wanted = scores[0].numel() if selection.max_detections is None else selection.max_detections
    enough = FIRST_CANDIDATES * wanted
    while True:
        places, all_are_in = _best_candidates(scores, selection, enough)
        candidates, groups = _best_first(places, scores, selection)
        boxes = candidates.boxes(boxes_xyxy)
        kept = candidates[nms_by_group(boxes, candidates.score, groups, selection.iou_threshold)]
        if (all_are_in | (kept.counts() >= wanted)).all():
            return kept
        enough *= MORE_CANDIDATES


def _soft_nms(boxes_xyxy: Float[Tensor, "B A 4"], scores: Float[Tensor, "B A K"], selection: Selection) -> Candidates:
    """The detections with their decayed scores, best first."""
    places, _ = _best_candidates(scores, selection, scores[0].numel())
    candidates, groups = _best_first(places, scores, selection)
    boxes, threshold = candidates.boxes(boxes_xyxy), selection.score_threshold
    decay = "linear" if selection.nms == "soft-linear" else "gaussian"
    decayed = soft_nms(boxes, candidates.score, groups, decay, selection.iou_threshold, selection.sigma, threshold)
    order = decayed.argsort(descending=True, stable=True)
    return replace(candidates, score=decayed)[order[decayed[order] > threshold]]


def _best_candidates(
    scores: Float[Tensor, "B A K"], selection: Selection, enough: int
) -> tuple[Int64[Tensor, " M"], Bool[Tensor, " B"]]:
    """Places of the `enough` best candidates of each image or more, and whether these are all that it has.

    Candidates have scores above the threshold. Of a class with more than enough, they are the best and those equal to
    the last of them, or some more.
    """
    (num_images, num_anchors, num_classes), per_class = scores.shape, selection.candidates_per_class
    lowest = float(np.nextafter(np.float32(selection.score_threshold), np.float32(np.inf)))  # above the threshold
    of_anchor = scores.amax(dim=2)  # (B, A)
    least = of_anchor.new_full((num_images, 1), lowest)
    if 0 < enough < num_anchors:
        # So many anchors have a score of at least this; to look for it among the scores themselves takes longer.
        least = of_anchor.topk(enough, dim=1).values[:, -1:].clamp(min=lowest)
    all_are_in = least[:, 0] == lowest
    row = (of_anchor >= least).flatten().nonzero()[:, 0]
    image, few = row // num_anchors, scores.flatten(0, 1)[row]  # (R,), (R, K)
    above = few >= least[image]
    if 0 < per_class < num_anchors and all_are_in.any() and (above.sum(dim=0) > per_class).any():
        above &= few >= scores.topk(per_class, dim=1).values[:, -1][image]
    few_row, label = above.nonzero().unbind(1)
    return row[few_row] * num_classes + label, all_are_in


def _best_first(
    place: Int64[Tensor, " M"], scores: Float[Tensor, "B A K"], selection: Selection
) -> tuple[Candidates, Int64[Tensor, " N"]]:
    """The candidates at these places by falling score, the top-k of each class; and the group of each.

    NMS works within groups: within the classes of an image, or all of an image where it is class-agnostic.
    """
    found = Candidates(place, scores.flatten()[place], (scores.shape[0], scores.shape[1], scores.shape[2]))
    classes = found.image * scores.shape[2] + found.label
    order = found.score.argsort(descending=True, stable=True)
    order = order[rank_within_group(classes[order]) < selection.candidates_per_class]
    return found[order], (found.image if selection.class_agnostic else classes)[order]


def rank_within_group(groups: Int64[Tensor, " M"]) -> Int64[Tensor, " M"]:
    """How many earlier rows are of the same group."""
    order = groups.argsort(stable=True)
    in_order = groups[order]
    first = torch.searchsorted(in_order, in_order)  # of each row's group
    rank = torch.arange(groups.shape[0], device=groups.device) - first
    return torch.zeros_like(rank).index_put((order,), rank)


def nms_by_group(
    boxes_xyxy: Float[Tensor, "N 4"], scores: Float[Tensor, " N"], groups: Int64[Tensor, " N"], iou_threshold: float
) -> Int64[Tensor, " M"]:
    """Non-maximum suppression within each group: the kept rows in their own order. Boxes may be of any frame.

    One call for all groups. They may be done at once by moving each to a place of its own, counted from the origin, so
    boxes come as float64 (a float32 among 80 classes has 8 bits left for a pixel's fraction) and not below 0.
    """
    if len(boxes_xyxy) == 0:
        return groups
    boxes_xyxy, scores = boxes_xyxy.double() - boxes_xyxy.min(), scores.double()
    if boxes_xyxy.device.type == "cpu":
        return batched_nms(boxes_xyxy, scores, groups, iou_threshold).sort().values
    # torchvision's would go through the groups one by one, where there are many boxes
    apart = boxes_xyxy + (groups * (boxes_xyxy.max() + 1))[:, None]
    return nms(apart, scores, iou_threshold).sort().values


def soft_nms(
    boxes_xyxy: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    groups: Int64[Tensor, " N"],
    decay: Literal["linear", "gaussian"],
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.0,
) -> Float[Tensor, " N"]:
    """Soft-NMS within each group: each score decayed by the better boxes that it overlaps.

    Args:
        boxes_xyxy: any frame; the area is (x1 - x0) * (y1 - y0).
        groups: rows of one group decay each other.
        decay: "linear" multiplies by 1 - IoU above `iou_threshold`; "gaussian" by exp(-IoU^2 / sigma) at any IoU.
        score_threshold: stop where no remaining score is above it.

    Returns:
        The decayed scores, in the order of the rows; detections are those above the threshold.

    Source: Bodla 2017, figure 2 and equations 1, 3. All groups take their next best box in the same step.
    """
    if len(scores) == 0:
        return scores
    group, column = groups.unique(return_inverse=True)[1], rank_within_group(groups)
    shape = (int(group.max()) + 1, int(column.max()) + 1)  # (G, n): a row a group, filled up with closed places
    table = scores.new_zeros(shape).index_put((group, column), scores)
    boxes = boxes_xyxy.new_zeros((*shape, 4)).index_put((group, column), boxes_xyxy)
    is_open = torch.zeros_like(table, dtype=torch.bool)
    is_open[group, column] = True
    for _ in range(shape[1]):
        best_score, best = table.masked_fill(~is_open, -torch.inf).max(dim=1, keepdim=True)  # (G, 1)
        if not (best_score > score_threshold).any():
            break
        is_open = is_open.scatter(1, best, False)
        overlap, union = paired_overlap_and_union(boxes, boxes.gather(1, best[..., None].expand(-1, -1, 4)))
        iou = torch.where(union > 0, overlap / union, 0.0)  # (G, n)
        weight = torch.where(iou > iou_threshold, 1 - iou, 1.0) if decay == "linear" else (-(iou**2) / sigma).exp()
        table = torch.where(is_open, table * weight, table)
    return table[group, column]


def to_original(boxes_xyxy: Float[Tensor, "N 4"], resize: Resize, original_hw: tuple[int, int]) -> Float[Tensor, "N 4"]:
    """Boxes in pixels of the input as boxes in pixels of the image, clipped to it (the input may be padded)."""
    return clip_boxes(rescale_boxes(boxes_xyxy, resize.image_hw(original_hw), original_hw), original_hw)
