"""Matching: the anchors that learn an object, those that learn background, and those that learn nothing.

SSD's words, ours: matched default boxes = positive anchors; jaccard overlap = IoU.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from onestage.boxes import cxcywh_to_xyxy, pairwise_iou
from onestage.structures import Matches, Targets

BestTies = Literal["one", "all", "all_nearest"]
"""Which anchors are an object's best, where several have the same IoU with it (as all around a small object have).

- "one": the first of them, for that object (SSD's releases).
- "all": all of them, for that object (mmdetection's `gt_max_assign_all`).
- "all_nearest": all of them, each for the object that it overlaps most (Detectron; torchvision's low quality matches).
"""
SAME_IOU = 1 - 1e-6  # of the best: the float32 IoUs of one shape at two places differ by rounding
MOST_PAIRS = 1 << 25  # of an object and an anchor at a time; each takes some 20 bytes


def match_anchors(
    anchors_cxcywh: Float32[Tensor, "A 4"],
    targets: Sequence[Targets],
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.5,
    keep_best: bool = True,
    best_iou: float = 0.0,
    best_ties: BestTies = "one",
) -> Matches:
    """Match anchors with the objects of each image of a batch, both in pixels of the network's input, on one device.

    An anchor is positive for the object with which it has the highest IoU, if that is at least `positive_iou`. With
    `keep_best`, an object's best anchor (or all of them: `best_ties`) is positive for it at any IoU above 0 that is at
    least `best_iou`; if two objects have the same best anchor, the later object gets it (as in the reference program).
    Anchors whose highest IoU is below `negative_iou` are negative; those between the two thresholds are ignored.

    Ignored objects (VOC difficult, COCO crowd) and objects without area match nothing. An anchor that is not positive
    is ignored if at least `negative_iou` of its own area lies inside an ignored object: small anchors inside a crowd
    have a low IoU with it.

    The objects of all images are rows of one table: a GPU gets as many operations for a large batch as for a small one,
    and the host need not wait for it.

    Source: Liu 2016, 2.2 "Matching strategy". Ignored objects are a departure: the release trains on VOC's difficult.
    """
    num_anchors, num_images = len(anchors_cxcywh), len(targets)
    if num_images > 1 and sum(len(target.labels) for target in targets) * num_anchors > MOST_PAIRS:
        of_half = partial(match_anchors, anchors_cxcywh, positive_iou=positive_iou, negative_iou=negative_iou)
        of_half = partial(of_half, keep_best=keep_best, best_iou=best_iou, best_ties=best_ties)
        halves = targets[: num_images // 2], targets[num_images // 2 :]
        return Matches(*map(torch.cat, zip(*map(of_half, halves), strict=True)))
    anchors_xyxy = cxcywh_to_xyxy(anchors_cxcywh)
    objects, image = Targets.rows_of(targets, anchors_cxcywh.device)
    ignored = objects.ignored[:-1]  # (N,)
    iou = pairwise_iou(objects.boxes_xyxy[:-1], anchors_xyxy, crowd=ignored)  # (N, A)

    group = image + num_images * ignored  # the objects of an image, and apart from them its ignored ones
    highest_iou, best_object = _best_of_groups(iou, group, 2 * num_images)
    highest_iou, inside_ignored = highest_iou[:num_images], highest_iou[num_images:]
    best_object = best_object[:num_images]
    positive = (highest_iou >= positive_iou) & (highest_iou > 0)
    if keep_best and iou.numel():
        owners = _best_anchor_owners if best_ties == "one" else _best_anchors_owners
        owner = owners(iou.masked_fill(ignored[:, None], 0.0), image, num_images, best_iou)
        positive |= owner >= 0
        if best_ties != "all_nearest":
            best_object = torch.where(owner >= 0, owner, best_object)
    unsure = ((highest_iou >= negative_iou) | (inside_ignored >= negative_iou)) & ~positive
    labels = objects.labels[best_object].masked_fill(~positive, 0)
    return Matches(labels, objects.boxes_xyxy[best_object], positive, ~(positive | unsure), unsure)


def _best_of_groups(
    iou: Float[Tensor, "N A"], group: Int64[Tensor, " N"], num_groups: int
) -> tuple[Float[Tensor, "G A"], Int64[Tensor, "G A"]]:
    """For each group of objects and each anchor, the highest IoU and the first object that has it.

    0 and N for a group without objects.
    """
    rows, shape = group[:, None].expand_as(iou), (num_groups, iou.shape[1])
    best = iou.new_zeros(shape).scatter_reduce(0, rows, iou, "amax")
    number = torch.arange(len(iou), dtype=torch.int32, device=iou.device)[:, None]
    candidates = torch.where(iou == best[group], number, len(iou))
    first = torch.full(shape, len(iou), dtype=torch.int32, device=iou.device)
    return best, first.scatter_reduce(0, rows, candidates, "amin").long()


def _best_anchor_owners(
    iou: Float[Tensor, "N A"], image: Int64[Tensor, " N"], num_images: int, least_iou: float
) -> Int64[Tensor, "B A"]:
    """For each anchor of each image, the last object that has it as its best anchor; -1 if there is none."""
    best_iou, best_anchor = iou.max(dim=1)  # (N,)
    kept = (best_iou > 0) & (best_iou >= least_iou)
    objects = torch.where(kept, torch.arange(len(iou), device=iou.device), -1)
    nobody = best_anchor.new_full((num_images * iou.shape[1],), -1)
    place = image * iou.shape[1] + best_anchor
    return nobody.scatter_reduce(0, place, objects, reduce="amax").view(num_images, -1)


def _best_anchors_owners(
    iou: Float[Tensor, "N A"], image: Int64[Tensor, " N"], num_images: int, least_iou: float
) -> Int64[Tensor, "B A"]:
    """For each anchor of each image, the last object that has none with a higher IoU; -1 if there is none."""
    best_iou = iou.amax(dim=1, keepdim=True)  # (N, 1)
    is_best = (iou >= SAME_IOU * best_iou) & (best_iou > 0) & (best_iou >= least_iou)
    objects = torch.where(is_best, torch.arange(len(iou), device=iou.device)[:, None], -1)
    nobody = objects.new_full((num_images, iou.shape[1]), -1)
    return nobody.scatter_reduce(0, image[:, None].expand_as(iou), objects, reduce="amax")
