"""Matching: the anchors that learn an object, those that learn background, and those that learn nothing.

SSD's words, ours: matched default boxes = positive anchors; jaccard overlap = IoU.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from onestage.boxes import cxcywh_to_xyxy, pairwise_iou, pairwise_share
from onestage.structures import Matches, Targets


def match_anchors(
    anchors_cxcywh: Float32[Tensor, "A 4"],
    targets: Sequence[Targets],
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.5,
    keep_best: bool = True,
) -> Matches:
    """Match anchors with the objects of each image of a batch, both in pixels of the network's input, on one device.

    An anchor is positive for the object with which it has the highest IoU, if that is at least `positive_iou`. With
    `keep_best`, an object's best anchor is positive for it at any IoU above 0; if two objects have the same best
    anchor, the later object gets it (as in the reference program). Anchors whose highest IoU is below `negative_iou`
    are negative; those between the two thresholds are ignored.

    Ignored objects (VOC difficult, COCO crowd) and objects without area match nothing. An anchor that is not positive
    is ignored if at least `negative_iou` of its own area lies inside an ignored object: small anchors inside a crowd
    have a low IoU with it.

    Source: Liu 2016, 2.2 "Matching strategy". Ignored objects are a departure: the release trains on VOC's difficult.
    """
    anchors_xyxy = cxcywh_to_xyxy(anchors_cxcywh)
    shape = (len(targets), len(anchors_cxcywh))
    labels = torch.zeros(shape, dtype=torch.int64, device=anchors_cxcywh.device)
    boxes_xyxy = anchors_cxcywh.new_zeros((*shape, 4))
    positive = torch.zeros_like(labels, dtype=torch.bool)
    ignored = torch.zeros_like(positive)
    for image, target in enumerate(targets):
        if len(target.labels) == 0:
            continue
        iou = pairwise_iou(target.boxes_xyxy, anchors_xyxy).masked_fill(target.ignored[:, None], 0.0)  # (N, A)
        best_iou, best_object = iou.max(dim=0)  # (A,)
        matched = (best_iou >= positive_iou) & (best_iou > 0)
        if keep_best:
            owner = _best_anchor_owners(iou)
            matched |= owner >= 0
            best_object = torch.where(owner >= 0, owner, best_object)
        unsure = best_iou >= negative_iou
        if target.ignored.any():
            inside = pairwise_share(target.boxes_xyxy[target.ignored], anchors_xyxy).amax(dim=0)
            unsure |= inside >= negative_iou
        positive[image], ignored[image] = matched, unsure & ~matched
        boxes_xyxy[image] = target.boxes_xyxy[best_object]
        labels[image] = target.labels[best_object].masked_fill(~matched, 0)
    return Matches(labels, boxes_xyxy, positive, ~(positive | ignored), ignored)


def _best_anchor_owners(iou: Float[Tensor, "N A"]) -> Int64[Tensor, " A"]:
    """For each anchor, the last object that has it as its best anchor; -1 if there is none."""
    best_iou, best_anchor = iou.max(dim=1)  # (N,)
    objects = torch.where(best_iou > 0, torch.arange(len(iou), device=iou.device), -1)
    nobody = best_anchor.new_full((iou.shape[1],), -1)
    return nobody.scatter_reduce(0, best_anchor, objects, reduce="amax")
