"""Generalized focal losses (Li et al. 2020, arXiv 2006.04388): scores learn a box's quality, sides a distribution.

Undivided sums over a batch; the trainer divides them by what is counted over the whole global batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from onestage.boxes import boxes_to_distances, distances_to_boxes, paired_generalized_iou, paired_iou
from onestage.structures import Losses, Matches, Predictions

BELOW_LAST_BIN = 0.1  # a distance is at most so much below the last bin, as in the release


def gfl_loss(
    predictions: Predictions,
    matches: Matches,
    points_xy: Float32[Tensor, "A 2"],
    strides: Float32[Tensor, " A"],
    *,
    most_positives: int,
    quality: Float[Tensor, "B A"] | None = None,
    beta: float = 2.0,
) -> Losses:
    """GFL's losses: quality focal loss of all positions, GIoU and distribution focal loss of the positive ones.

    Computed in float32 whatever the predictions' precision.

    Args:
        points_xy, strides: positions and their levels' strides, pixels of the input. Distances are in strides.
        most_positives: positives that there may be; the box losses are computed for so many positions.
        quality: what the scores of the positives learn, which weighs them in all losses (TOOD). None: as the paper,
            the IoU of a position's box with its object; their largest scores weigh the positives in the box losses.
        beta: how fast the quality focal loss falls for what is known well.

    Returns:
        Sums and the number of positives, and for sums that are divided by the positives' weights, these. Zeros, never
        NaN, for a batch without any image or position.

    Source: Li 2020, equations 2, 5, 6 and 9; TOOD's weights: Feng 2021 (arXiv 2108.07755), equations 4 and 5.
    """
    logits, (batch, num_positions) = predictions.class_logits.float(), matches.positive.shape
    positive = matches.positive.flatten()
    rows = positive.float().topk(min(most_positives, len(positive))).indices  # the host need not know their number
    own, position = positive[rows], rows % max(num_positions, 1)
    points_xy, strides = points_xy[position], strides[position, None]
    distributions = predictions.box_deltas.float().flatten(0, 1)[rows].unflatten(-1, (4, -1))  # (M, 4, bins)
    boxes_xyxy = matches.boxes_xyxy.flatten(0, 1)[rows]
    found_xyxy = distances_to_boxes(expected_bin(distributions) * strides, points_xy)
    if quality is None:
        of_rows = paired_iou(found_xyxy.detach(), boxes_xyxy).masked_fill(~own, 0)
        quality = of_rows.new_zeros(batch * num_positions).scatter(0, rows, of_rows).view(batch, num_positions)
        weights = logits.detach().flatten(0, 1)[rows].amax(dim=1).sigmoid().masked_fill(~own, 0)
        weighted = ("box", "distribution")
    else:
        weights, weighted = quality.flatten()[rows], ("classification", "box", "distribution")
    distances = boxes_to_distances(boxes_xyxy, points_xy) / strides
    distances = distances.clamp(0, distributions.shape[-1] - 1 - BELOW_LAST_BIN)
    box = 1 - paired_generalized_iou(found_xyxy, boxes_xyxy)
    distribution = distribution_focal_loss(distributions, distances)
    sums = {
        "classification": quality_focal_loss(logits, matches.labels, quality, matches.ignored, beta),
        "box": (box.masked_fill(~own, 0) * weights).sum(),
        "distribution": (distribution.masked_fill(~own, 0) * weights).sum(),
    }
    return Losses(sums, positive.sum(), dict.fromkeys(weighted, weights.sum()))


def quality_focal_loss(
    logits: Float[Tensor, "B A K"],
    labels: Int64[Tensor, "B A"],
    quality: Float[Tensor, "B A"],
    ignored: Bool[Tensor, "B A"],
    beta: float = 2.0,
) -> Float[Tensor, ""]:
    """Cross entropy of every score with the quality, 0 but for a positive's own class, times |quality - score|^beta.

    Source: Li 2020, equation 2.
    """
    wanted = torch.zeros_like(logits).scatter(2, labels[..., None], quality[..., None])
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    of_scores = entropy * (wanted - logits.sigmoid()).abs().pow(beta)
    return of_scores.masked_fill(ignored[..., None], 0).sum()


def distribution_focal_loss(
    distributions: Float[Tensor, "M 4 bins"], distances: Float[Tensor, "M 4"]
) -> Float[Tensor, " M"]:
    """Cross entropy with the two bins around each distance by their nearness; the mean of the four sides.

    `distributions` are logits; `distances`, in bins, lie from 0 to below the last bin.

    Source: Li 2020, equation 6.
    """
    below = distances.floor()
    share_above = distances - below
    bins = torch.stack([below, below + 1], dim=-1).long()
    nearby = distributions.log_softmax(dim=-1).gather(-1, bins)  # (M, 4, 2)
    return -((1 - share_above) * nearby[..., 0] + share_above * nearby[..., 1]).mean(dim=1)


def expected_bin(distributions: Float[Tensor, "*N bins"]) -> Float[Tensor, "*N"]:
    """The mean bin of distributions given as logits (Li 2020, equation 5)."""
    bins = torch.arange(distributions.shape[-1], dtype=distributions.dtype, device=distributions.device)
    return (distributions.softmax(dim=-1) * bins).sum(dim=-1)
