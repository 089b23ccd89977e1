"""Matching: which anchor learns which object, and which anchors learn background or nothing.

SSD's words, ours: matched default boxes = positive anchors; jaccard overlap = IoU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from onestage.boxes import cxcywh_to_xyxy, pairwise_iou, pairwise_share
from onestage.structures import Matches, Targets

__all__ = ["Matches", "match_anchors"]


def match_anchors(
    anchors_cxcywh: Float32[Tensor, "A 4"],
    targets: Sequence[Targets],
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.5,
    keep_best: bool = True,
) -> Matches:
    """Match the objects of each image of a batch with the anchors.

    An anchor is positive for the object that it overlaps most, from `positive_iou` on. With `keep_best`, the anchor
    that overlaps an object most is positive for it at any IoU above 0; where two objects want the same anchor, the
    later one has it (as in the reference program). Anchors below `negative_iou` are negative, those between ignored.

    Ignored objects (VOC difficult, COCO crowd) match nothing. Anchors that are not positive and of whose own area
    `negative_iou` or more lies inside one of them are ignored: small anchors inside a crowd have a low IoU with it.
    Objects without area match nothing.

    Args:
        anchors_cxcywh: in pixels of the network's input.
        targets: one an image, in the same frame, on the anchors' device.

    Source: Liu 2016, 2.2 "Matching strategy". Ignored objects are a departure: the release trains on VOC's difficult.
    """
    anchors_xyxy = cxcywh_to_xyxy(anchors_cxcywh)
    images, anchors = len(targets), len(anchors_cxcywh)
    labels = torch.zeros((images, anchors), dtype=torch.int64, device=anchors_cxcywh.device)
    boxes_xyxy = anchors_cxcywh.new_zeros((images, anchors, 4))
    positive = torch.zeros_like(labels, dtype=torch.bool)
    ignored = torch.zeros_like(positive)
    for image, target in enumerate(targets):
        if len(target.labels) == 0:
            continue
        iou = pairwise_iou(target.boxes_xyxy, anchors_xyxy).masked_fill(target.ignored[:, None], 0.0)  # (N, A)
        best_iou, best_object = iou.max(dim=0)  # (A,)
        matched = (best_iou >= positive_iou) & (best_iou > 0)
        if keep_best:
            claimant = _best_anchor_claims(iou)
            matched |= claimant >= 0
            best_object = torch.where(claimant >= 0, claimant, best_object)
        passed_over = best_iou >= negative_iou
        if target.ignored.any():
            inside = pairwise_share(target.boxes_xyxy[target.ignored], anchors_xyxy).amax(dim=0)
            passed_over |= inside >= negative_iou
        positive[image], ignored[image] = matched, passed_over & ~matched
        boxes_xyxy[image] = target.boxes_xyxy[best_object]
        labels[image] = target.labels[best_object].masked_fill(~matched, 0)
    return Matches(labels, boxes_xyxy, positive, ~(positive | ignored), ignored)


def _best_anchor_claims(iou: Float[Tensor, "N A"]) -> Int64[Tensor, " A"]:
    """For each anchor the last object that overlaps it more than any other anchor; -1 where there is none."""
    best_iou, best_anchor = iou.max(dim=1)  # (N,)
    objects = torch.arange(len(iou), device=iou.device)
    claims = torch.where(best_iou > 0, objects, -1)
    nobody = best_anchor.new_full((iou.shape[1],), -1)
    return nobody.scatter_reduce(0, best_anchor, claims, reduce="amax")
