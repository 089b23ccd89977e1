"""Losses: undivided sums over a batch; the trainer divides by the positives of the whole global batch.

SSD's and M2Det's is `multibox_loss` (their words, ours: confidence loss = classification, localization loss = box),
RetinaNet's `focal_loss`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from onestage.boxes import (
    VARIANCES,
    boxes_to_distances,
    cxcywh_to_xyxy,
    decode_deltas,
    encode_deltas,
    paired_generalized_iou,
)
from onestage.structures import Losses, Matches, Predictions

BoxLoss = Literal["smooth_l1", "l1", "giou"]


def multibox_loss(
    predictions: Predictions,
    matches: Matches,
    anchors_cxcywh: Float32[Tensor, "A 4"],
    variances: tuple[float, float] = VARIANCES,
    negatives_per_positive: float = 3,
    minimum_negatives: int = 3,
) -> Losses:
    """SSD's loss: smooth L1 of the positives' deltas, cross entropy of the positives and the hardest negatives.

    Negatives are chosen per image, those with the largest background loss first. Background is logit 0; an object
    of label l is logit l + 1. Computed in float32 whatever the predictions' precision.

    Args:
        anchors_cxcywh: in the frame of the matches' boxes.
        negatives_per_positive: hard negatives per positive, of each image.
        minimum_negatives: hard negatives that an image has at least. The paper's ratio gives an image without
            objects none at all, so it would teach nothing; at 3 it trains as background with the weight of one
            positive anchor, and images with any positive are as in the paper. 0 is the paper.

    Returns:
        Sums and the number of positives; zeros, never NaN, for a batch without any image or anchor.

    Source: Liu 2016, 2.2 "Training objective" and "Hard negative mining".
    """
    positive = matches.positive
    deltas = encode_deltas(matches.boxes_xyxy, anchors_cxcywh, variances)
    box = F.smooth_l1_loss(_at(positive, predictions.box_deltas.float()), _at(positive, deltas), reduction="sum")

    classes = (matches.labels + 1).masked_fill(~positive, 0)  # (B, A)
    logits = predictions.class_logits.float().flatten(0, 1)
    of_anchors = F.cross_entropy(logits, classes.flatten(), reduction="none").view_as(classes)
    negative = hardest_negatives(of_anchors, matches, negatives_per_positive, minimum_negatives)
    classification = of_anchors.masked_fill(~(positive | negative), 0).sum()
    return Losses({"classification": classification, "box": box}, positive.sum())


def _at(mask: Bool[Tensor, "B A"], values: Float[Tensor, "B A 4"]) -> Float[Tensor, "B A 4"]:
    """The values, with zeros elsewhere. To take out those of the mask, the host would have to wait for their number."""
    return values.masked_fill(~mask[..., None], 0)


@torch.no_grad()
def hardest_negatives(
    background_losses: Float[Tensor, "B A"],
    matches: Matches,
    negatives_per_positive: float = 3,
    minimum_negatives: int = 3,
) -> Bool[Tensor, "B A"]:
    """The negatives with the largest background loss: of each image, a number in proportion to its positives.

    Exactly as many as asked for, or all there are: never a positive, never an ignored anchor.
    """
    wanted = (matches.positive.sum(dim=1) * negatives_per_positive).long().clamp(min=minimum_negatives)
    wanted = torch.minimum(wanted, matches.negative.sum(dim=1))  # (B,)
    hardest_first = background_losses.masked_fill(~matches.negative, -torch.inf).argsort(dim=1, descending=True)
    within = torch.arange(hardest_first.shape[1], device=wanted.device) < wanted[:, None]
    return torch.zeros_like(matches.negative).scatter(1, hardest_first, within)


def focal_loss(
    predictions: Predictions,
    matches: Matches,
    anchors_cxcywh: Float32[Tensor, "A 4"],
    variances: tuple[float, float],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    box_loss: BoxLoss = "smooth_l1",
    smooth_l1_beta: float = 1 / 9,
    box_weights: Float[Tensor, "B A"] | None = None,
) -> Losses:
    """RetinaNet's loss: focal loss of every anchor that is not ignored, and the box loss of the positives.

    There is no background logit: an object of label l is logit l, and a negative anchor wants all of them low.
    Computed in float32 whatever the predictions' precision.

    Args:
        anchors_cxcywh: in the frame of the matches' boxes.
        variances: divisors of the deltas.
        alpha: weight of the positive class; negatives have 1 - alpha.
        gamma: how fast the loss of what is known well falls.
        box_loss: smooth L1 or L1 of the deltas, or GIoU of the boxes.
        smooth_l1_beta: below it smooth L1 is quadratic; the paper's release has 1/9.
        box_weights: of the positives' GIoU losses, which are divided by their sum; None: all alike.

    Returns:
        Sums and the number of positives; zeros, never NaN, for a batch without any image or anchor.

    Source: Lin 2017, equation 5 and 4.1.
    """
    positive, boxes_xyxy = matches.positive, matches.boxes_xyxy
    logits = predictions.class_logits.float()
    wanted = torch.zeros_like(logits).scatter(2, matches.labels[..., None], positive[..., None].float())
    of_scores = sigmoid_focal_loss(logits, wanted, alpha=alpha, gamma=gamma)  # (B, A, K)
    classification = of_scores.masked_fill(matches.ignored[..., None], 0).sum()

    deltas = _at(positive, predictions.box_deltas.float())
    if box_loss == "giou":
        # elsewhere an anchor's loss with itself, whose gradient is finite
        boxes_xyxy = torch.where(positive[..., None], boxes_xyxy, cxcywh_to_xyxy(anchors_cxcywh))
        of_boxes = 1 - paired_generalized_iou(decode_deltas(deltas, anchors_cxcywh, variances), boxes_xyxy)
        if box_weights is not None:
            of_boxes = of_boxes * box_weights
        box = of_boxes.masked_fill(~positive, 0).sum()
    else:
        targets = _at(positive, encode_deltas(boxes_xyxy, anchors_cxcywh, variances))
        if box_loss == "l1":
            box = F.l1_loss(deltas, targets, reduction="sum")
        else:
            box = F.smooth_l1_loss(deltas, targets, beta=smooth_l1_beta, reduction="sum")
    own_divisors = {} if box_weights is None else {"box": box_weights.masked_fill(~positive, 0).sum()}
    return Losses({"classification": classification, "box": box}, positive.sum(), own_divisors)


def centerness(points_xy: Float32[Tensor, "A 2"], matches: Matches) -> Float[Tensor, "B A"]:
    """How near a positive anchor's centre lies to that of its object: 1 in the middle, 0 at a side; 0 elsewhere.

    Source: Tian 2019 (FCOS, arXiv 1904.01355), equation 3.
    """
    left, upper, right, lower = boxes_to_distances(matches.boxes_xyxy, points_xy).clamp(min=0).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-6)
    down = torch.minimum(upper, lower) / torch.maximum(upper, lower).clamp(min=1e-6)
    return (across * down).sqrt().masked_fill(~matches.positive, 0)
