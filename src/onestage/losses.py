"""Losses: undivided sums over a batch; the trainer divides by the positives of the whole global batch.

SSD's and M2Det's is `multibox_loss` (their words, ours: confidence loss = classification, localization loss = box),
RetinaNet's `focal_loss`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from onestage.boxes import VARIANCES, decode_deltas, encode_deltas
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
    anchors = anchors_cxcywh.expand_as(matches.boxes_xyxy)
    deltas = encode_deltas(matches.boxes_xyxy[positive], anchors[positive], variances)
    box = F.smooth_l1_loss(predictions.box_deltas[positive].float(), deltas, reduction="sum")

    negative = hardest_negatives(predictions.class_logits, matches, negatives_per_positive, minimum_negatives)
    chosen = positive | negative
    classes = (matches.labels + 1).masked_fill(~positive, 0)[chosen]
    logits = predictions.class_logits[chosen].float()
    classification = F.cross_entropy(logits, classes, reduction="sum")
    return Losses({"classification": classification, "box": box}, positive.sum())


@torch.no_grad()
def hardest_negatives(
    class_logits: Float[Tensor, "B A C"],
    matches: Matches,
    negatives_per_positive: float = 3,
    minimum_negatives: int = 3,
) -> Bool[Tensor, "B A"]:
    """The negatives with the largest background loss: of each image, a number in proportion to its positives.

    Exactly as many as asked for, or all there are: never a positive, never an ignored anchor.
    """
    logits = class_logits.float()
    background_loss = (logits.logsumexp(dim=-1) - logits[..., 0]).masked_fill(~matches.negative, -torch.inf)
    wanted = (matches.positive.sum(dim=1) * negatives_per_positive).long().clamp(min=minimum_negatives)
    wanted = torch.minimum(wanted, matches.negative.sum(dim=1))  # (B,)
    most = max(wanted.tolist(), default=0)
    hardest = background_loss.topk(most, dim=1).indices  # (B, most)
    within = torch.arange(most, device=wanted.device) < wanted[:, None]
    return torch.zeros_like(matches.negative).scatter(1, hardest, within)


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

    Returns:
        Sums and the number of positives; zeros, never NaN, for a batch without any image or anchor.

    Source: Lin 2017, equation 5 and 4.1.
    """
    positive, learned = matches.positive, ~matches.ignored
    wanted = torch.zeros_like(predictions.class_logits, dtype=torch.float32)
    wanted[positive, matches.labels[positive]] = 1.0
    logits = predictions.class_logits[learned].float()
    classification = sigmoid_focal_loss(logits, wanted[learned], alpha=alpha, gamma=gamma, reduction="sum")

    anchors = anchors_cxcywh.expand_as(matches.boxes_xyxy)[positive]
    boxes_xyxy, deltas = matches.boxes_xyxy[positive], predictions.box_deltas[positive].float()
    if box_loss == "giou":
        box = generalized_box_iou_loss(decode_deltas(deltas, anchors, variances), boxes_xyxy, reduction="sum")
    elif box_loss == "l1":
        box = F.l1_loss(deltas, encode_deltas(boxes_xyxy, anchors, variances), reduction="sum")
    else:
        targets = encode_deltas(boxes_xyxy, anchors, variances)
        box = F.smooth_l1_loss(deltas, targets, beta=smooth_l1_beta, reduction="sum")
    return Losses({"classification": classification, "box": box}, positive.sum())
