"""Boxes: formats, frames, overlaps, and a box as deltas to an anchor.

SSD's words, ours: encoded offsets = deltas; variances = the numbers that deltas are divided by.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.ops import box_area

VARIANCES = (0.1, 0.2)  # for the centre, for the size, as in Liu 2016's release
MAX_LOG_SCALE = math.log(1000 / 16)  # as in Detectron: a box is at most 62.5 anchors wide, so exp can't overflow
SMALLEST_AREA = 1e-7  # square pixels; keeps an IoU finite for boxes without area
SMALLEST_SIDE = 1e-3  # pixels; keeps the logarithm finite for a box without width


def xyxy_to_cxcywh(boxes_xyxy: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Corners to centre and size, in the same frame."""
    top_left, bottom_right = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def cxcywh_to_xyxy(boxes_cxcywh: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Centre and size to corners, in the same frame."""
    centre, half_size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half_size, centre + half_size], dim=-1)


def encode_deltas(
    boxes_xyxy: Float[Tensor, "*N 4"], anchors_cxcywh: Float[Tensor, "*M 4"], variances: tuple[float, float] = VARIANCES
) -> Float[Tensor, "*N 4"]:
    """Deltas (dx, dy, dw, dh) from anchors to boxes, which are what the network predicts.

    dx and dy are the shift of the centre in anchor sizes, dw and dh the log of the ratio of the sizes, each divided by
    its variance (for the centre, for the size). They are finite for boxes without width or height too. Anchors, in the
    frame of the boxes, are broadcast against them.

    Source: Liu 2016, equation 2; the variances are those of its released code.
    """
    boxes_cxcywh = xyxy_to_cxcywh(boxes_xyxy)
    shift = (boxes_cxcywh[..., :2] - anchors_cxcywh[..., :2]) / anchors_cxcywh[..., 2:]
    log_scale = (boxes_cxcywh[..., 2:].clamp(min=SMALLEST_SIDE) / anchors_cxcywh[..., 2:]).log()
    return torch.cat([shift / variances[0], log_scale / variances[1]], dim=-1)


def decode_deltas(
    box_deltas: Float[Tensor, "*N 4"], anchors_cxcywh: Float[Tensor, "*M 4"], variances: tuple[float, float] = VARIANCES
) -> Float[Tensor, "*N 4"]:
    """Boxes xyxy in the anchors' frame from deltas (B, A, 4) and anchors (A, 4): the inverse of `encode_deltas`.

    A box is at most 62.5 times as wide and as high as its anchor (`MAX_LOG_SCALE`), and may reach outside the image.
    Deltas of lower precision (bfloat16) are decoded in the anchors' precision.
    """
    box_deltas = box_deltas.to(anchors_cxcywh.dtype)
    centre = anchors_cxcywh[..., :2] + box_deltas[..., :2] * variances[0] * anchors_cxcywh[..., 2:]
    log_scale = (box_deltas[..., 2:] * variances[1]).clamp(max=MAX_LOG_SCALE)
    half_size = log_scale.exp() * anchors_cxcywh[..., 2:] / 2
    return torch.cat([centre - half_size, centre + half_size], dim=-1)


def boxes_to_distances(boxes_xyxy: Float[Tensor, "*N 4"], points_xy: Float[Tensor, "*M 2"]) -> Float[Tensor, "*R 4"]:
    """Distances from points to the left, upper, right and lower side of boxes, broadcast; below 0 where outside."""
    return torch.cat([points_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_xy], dim=-1)


def distances_to_boxes(distances: Float[Tensor, "*N 4"], points_xy: Float[Tensor, "*M 2"]) -> Float[Tensor, "*R 4"]:
    """Boxes xyxy from distances of their sides: the inverse of `boxes_to_distances`."""
    return torch.cat([points_xy - distances[..., :2], points_xy + distances[..., 2:]], dim=-1)


def clip_boxes(boxes_xyxy: Float[Tensor, "*N 4"], size_hw: tuple[int, int]) -> Float[Tensor, "*N 4"]:
    """Boxes cut at the borders of an image of `size_hw` pixels; a box outside becomes a line on the border."""
    height, width = size_hw
    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    return torch.stack([x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height)], dim=-1)


def rescale_boxes(
    boxes_xyxy: Float[Tensor, "*N 4"], from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Float[Tensor, "*N 4"]:
    """Boxes of an image of `from_hw` pixels, in the frame of this image stretched to `to_hw` pixels."""
    scale_y, scale_x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    return boxes_xyxy * boxes_xyxy.new_tensor([scale_x, scale_y, scale_x, scale_y])


def pairwise_iou(
    boxes_xyxy: Float[Tensor, "N 4"], others_xyxy: Float[Tensor, "M 4"], crowd: Bool[Tensor, " N"] | None = None
) -> Float[Tensor, "N M"]:
    """Intersection over union of every pair; the other boxes must have an area.

    Of a box around a crowd, the share of the other box's own area that lies inside it, as COCO's protocol has it.

    Equal to `torchvision.ops.box_iou` (a test holds it). Matching runs in every training step, and torchvision's pairs
    of corners take 4 times as long on a CPU as one coordinate at a time.
    """
    x0, y0, x1, y1 = (side[:, None] for side in boxes_xyxy.unbind(-1))
    other_x0, other_y0, other_x1, other_y1 = others_xyxy.t().contiguous()
    width = (torch.minimum(x1, other_x1) - torch.maximum(x0, other_x0)).clamp_(min=0)
    height = (torch.minimum(y1, other_y1) - torch.maximum(y0, other_y0)).clamp_(min=0)
    overlap, areas = width.mul_(height), box_area(others_xyxy)
    union = (box_area(boxes_xyxy)[:, None] + areas).sub_(overlap)
    return overlap / (union if crowd is None else torch.where(crowd[:, None], areas, union))


def paired_iou(boxes_xyxy: Float[Tensor, "*N 4"], others_xyxy: Float[Tensor, "*M 4"]) -> Float[Tensor, "*R"]:
    """Intersection over union of boxes with others of the same place, broadcast; 0 where both have no area."""
    overlap, union = paired_overlap_and_union(boxes_xyxy, others_xyxy)
    return overlap / union.clamp(min=SMALLEST_AREA)


def paired_generalized_iou(
    boxes_xyxy: Float[Tensor, "*N 4"], others_xyxy: Float[Tensor, "*M 4"]
) -> Float[Tensor, "*R"]:
    """Generalized intersection over union of boxes with others of the same place, broadcast: -1 to 1.

    torchvision's `generalized_box_iou_loss` is 1 minus this, but picks out the pairs that overlap: a GPU's host would
    wait for their number.

    Source: Rezatofighi 2019, arXiv 1902.09630, algorithm 1.
    """
    overlap, union = paired_overlap_and_union(boxes_xyxy, others_xyxy)
    corners = torch.maximum(boxes_xyxy[..., 2:], others_xyxy[..., 2:])
    sides = corners - torch.minimum(boxes_xyxy[..., :2], others_xyxy[..., :2])
    around = (sides[..., 0] * sides[..., 1]).clamp(min=SMALLEST_AREA)
    return overlap / union.clamp(min=SMALLEST_AREA) - (around - union) / around


def paired_overlap_and_union(
    boxes_xyxy: Float[Tensor, "*N 4"], others_xyxy: Float[Tensor, "*M 4"]
) -> tuple[Float[Tensor, "*R"], Float[Tensor, "*R"]]:
    """Areas of what boxes and others of the same place share, and of what they cover together, broadcast."""
    (x0, y0, x1, y1), (other_x0, other_y0, other_x1, other_y1) = boxes_xyxy.unbind(-1), others_xyxy.unbind(-1)
    width = (torch.minimum(x1, other_x1) - torch.maximum(x0, other_x0)).clamp(min=0)
    overlap = width * (torch.minimum(y1, other_y1) - torch.maximum(y0, other_y0)).clamp(min=0)
    return overlap, (x1 - x0) * (y1 - y0) + (other_x1 - other_x0) * (other_y1 - other_y0) - overlap
