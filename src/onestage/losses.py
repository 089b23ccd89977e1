"""Losses: undivided sums over a batch; the trainer divides by the positives of the whole global batch.

SSD's words, ours: confidence loss = classification, localization loss = box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from onestage.boxes import VARIANCES, encode_deltas
from onestage.structures import LossSums, Matches, Predictions


def multibox_loss(
    predictions: Predictions,
    matches: Matches,
    anchors_cxcywh: Float32[Tensor, "A 4"],
    variances: tuple[float, float] = VARIANCES,
    negatives_per_positive: float = 3,
    label_smoothing: float = 0.0,
    minimum_negatives: int = 3,
) -> LossSums:
    """SSD's loss: smooth L1 of the positives' deltas, cross entropy of the positives and the hardest negatives.

    Negatives are chosen per picture, those with the largest background loss first. Background is logit 0; an object
    of label l is logit l + 1. Computed in float32 whatever the predictions' precision.

    Args:
        predictions: raw outputs.
        matches: of the same anchors.
        anchors_cxcywh: in the frame of the matches' boxes.
        negatives_per_positive: hard negatives per positive, of each picture.
        label_smoothing: 0 as in the paper; as in `torch.nn.functional.cross_entropy`.
        minimum_negatives: hard negatives that a picture has at least. The paper's ratio gives a picture without
            objects none at all, so it would teach nothing; at 3 it trains as background with the weight of one
            positive anchor, and pictures with any positive are as in the paper. 0 is the paper.

    Returns:
        Sums and the number of positives; zeros, never NaN, for a batch without any picture or anchor.

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
    classification = F.cross_entropy(logits, classes, reduction="sum", label_smoothing=label_smoothing)
    return LossSums(classification, box, positive.sum())


@torch.no_grad()
def hardest_negatives(
    class_logits: Float[Tensor, "B A C"],
    matches: Matches,
    negatives_per_positive: float = 3,
    minimum_negatives: int = 3,
) -> Bool[Tensor, "B A"]:
    """The negatives with the largest background loss: of each picture, a number in proportion to its positives.

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
