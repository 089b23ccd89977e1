"""Anchors: boxes laid on the cells of a detector's feature maps, from which its predictions start.

SSD's words, ours: default boxes, priors = anchors; min_size, max_size = an anchor size and the next one; step = stride.

SSD's anchors are ordered by level, row, column, then within a cell: the size at ratio 1, the geometric mean of this and
the next size at ratio 1, then for each ratio r: r, 1/r (wide before tall). ssd.pytorch, lufficc/SSD, torchvision and
mmdetection 1.x's SSD have the same order (tests hold it), so none of their heads needs its channels permuted.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from onestage.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

ClipAnchors = Literal["all", "sizes", "none"]  # centres and sizes, sizes only, neither

AnchorStyle = Literal["centred", "cornered", "torchvision", "mmdetection-1"]
"""Where RetinaNet's anchors lie on their cells, which differs from program to program.

- "centred": on the cell's centre, like SSD's. Ours.
- "cornered": on the cell's upper left corner (detectron2, mmdetection 2 and 3).
- "torchvision": on the corner too, with sizes cut and corners rounded to whole pixels. A stride is the input's side
  over the map's, rounded down.
- "mmdetection-1": on the cell's centre, rounded by `inclusive_pixels`.
"""

COVERAGE_GAIN = 0.02  # share of a data set's boxes that other anchors must cover in addition to replace the paper's


def cell_shapes(size: float, next_size: float, aspect_ratios: Sequence[float]) -> list[tuple[float, float]]:
    """The (width, height) of each of SSD's anchors of a cell, in the unit of the sizes and in this module's order.

    Source: Liu 2016, 2.2: s * sqrt(r) by s / sqrt(r), and an extra square of sqrt(s * s_next).
    """
    between = math.sqrt(size * next_size)
    shapes = [(size, size), (between, between)]
    for ratio in aspect_ratios:
        root = math.sqrt(ratio)
        shapes += [(size * root, size / root), (size / root, size * root)]
    return shapes


def ssd_anchors(
    image_size: int,
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[float],
    sizes: Sequence[float],
    aspect_ratios: Sequence[Sequence[float]],
    clip: ClipAnchors,
    whole_pixels: bool = False,
) -> Float32[Tensor, "A 4"]:
    """SSD's anchors as cxcywh in pixels of the network's square input.

    Args:
        map_sizes: (height, width) of each level's map, cells. The centre of cell i is (i + 0.5) * stride.
        sizes: side of each level's smallest square, and one more for the last level's square in between, pixels.
        aspect_ratios: ratios (width / height) of each level beside 1; 1 / ratio is added for each.
        clip: "all" bounds centre, width and height (not the corners) by the input, as the reference programs; "sizes"
            width and height, as torchvision. The last cell's centre may lie outside (SSD300's 10 x 10 map: 304 pixels).
        whole_pixels: round anchors by `inclusive_pixels`.

    Raises:
        ValueError: the arguments differ in their numbers of levels.

    Source: Liu 2016, 2.2; strides ("steps") and clipping as in the released code.
    """
    parts = []
    levels = zip(map_sizes, strides, aspect_ratios, pairwise(sizes), strict=True)
    for map_hw, stride, ratios, (size, next_size) in levels:
        shapes_wh = torch.tensor(cell_shapes(size, next_size, ratios), dtype=torch.float64)
        cell_cxcywh = torch.cat([torch.full_like(shapes_wh, stride / 2), shapes_wh], dim=-1)
        if whole_pixels:
            cell_cxcywh = xyxy_to_cxcywh(inclusive_pixels(cxcywh_to_xyxy(cell_cxcywh)))
        shifts = _cell_corners(map_hw, (stride, stride))[:, :, None]  # (H, W, 1, 2)
        parts.append((cell_cxcywh + torch.cat([shifts, torch.zeros_like(shifts)], dim=-1)).reshape(-1, 4))
    anchors_cxcywh = torch.cat(parts)
    first_clipped = {"all": 0, "sizes": 2, "none": 4}[clip]
    anchors_cxcywh[:, first_clipped:].clamp_(0, image_size)
    return anchors_cxcywh.float()


def _cell_corners(map_hw: tuple[int, int], strides_xy: tuple[float, float]) -> Float[Tensor, "H W 2"]:
    """Upper left corner (x, y) of each cell, pixels of the input."""
    ys, xs = (torch.arange(count, dtype=torch.float64) for count in map_hw)
    return torch.stack(torch.meshgrid(xs * strides_xy[0], ys * strides_xy[1], indexing="xy"), dim=-1)


def pyramid_shapes(size: float, scales: Sequence[float], aspect_ratios: Sequence[float]) -> list[tuple[float, float]]:
    """The (width, height) of each of RetinaNet's anchors of a cell, in the unit of the size; by ratio, then by scale.

    Source: Lin 2017, 4; the ratio does not change the area.
    """
    roots = [math.sqrt(ratio) for ratio in aspect_ratios]
    return [(size * scale * root, size * scale / root) for root in roots for scale in scales]


def pyramid_anchors(
    input_hw: tuple[int, int],
    map_sizes: Sequence[tuple[int, int]],
    sizes: Sequence[float],
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
    style: AnchorStyle = "centred",
) -> Float32[Tensor, "A 4"]:
    """RetinaNet's anchors as cxcywh in pixels of the network's input.

    Map sizes are (height, width) in cells, the first at stride 8. Each level's size, in pixels, is multiplied by each
    scale. Imported weights depend on the order of the ratios (width / height).

    Raises:
        ValueError: the arguments differ in their numbers of levels.
    """
    parts = []
    for level, ((rows, columns), size) in enumerate(zip(map_sizes, sizes, strict=True)):
        if style == "torchvision":
            strides_xy = (input_hw[1] // columns, input_hw[0] // rows)
            shapes = pyramid_shapes(1.0, [int(size * scale) for scale in scales], aspect_ratios)
        else:
            strides_xy = (8.0 * 2**level, 8.0 * 2**level)
            shapes = pyramid_shapes(size, scales, aspect_ratios)
        shapes_wh = torch.tensor(shapes, dtype=torch.float64)
        cell_xyxy = torch.cat([-shapes_wh, shapes_wh], dim=-1) / 2
        if style == "torchvision":
            cell_xyxy = cell_xyxy.round()
        elif style != "cornered":
            cell_xyxy = cell_xyxy + strides_xy[0] / 2
        if style == "mmdetection-1":
            cell_xyxy = inclusive_pixels(cell_xyxy)
        shifts = _cell_corners((rows, columns), strides_xy)[:, :, None]  # (H, W, 1, 2)
        parts.append((torch.cat([shifts, shifts], dim=-1) + cell_xyxy).reshape(-1, 4))
    return xyxy_to_cxcywh(torch.cat(parts)).float()


def inclusive_pixels(boxes_xyxy: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Boxes rounded to whole pixels as in mmdetection 1.x: the last pixel belongs to the box, ties go to even."""
    return torch.cat([boxes_xyxy[..., :2].round(), (boxes_xyxy[..., 2:] - 1).round() + 1], dim=-1)


def ssd_anchor_sizes(
    image_size: int, num_levels: int, smallest: float, second: float, largest: float
) -> tuple[float, ...]:
    """SSD's anchor sizes by the paper's linear rule: a small first level, then even steps from the second to the last.

    The sizes of the first, the second and the last of L >= 3 levels are given as fractions of the input. Of the L + 1
    sizes returned, in pixels, the last is a step beyond `largest`, for the last level's square in between.

    Source: Liu 2016, 2.2 and 3.1. Like the releases, it rounds the step to whole percents of the input.
    """
    step = math.floor(round(100 * (largest - second) / (num_levels - 2), 6)) / 100
    fractions = [smallest, *(second + step * level for level in range(num_levels))]
    return tuple(round(fraction * image_size, 6) for fraction in fractions)


def anchor_sizes_from_boxes(
    box_sizes_hw: Float[np.ndarray, "N 2"], image_size: int, num_levels: int
) -> tuple[float, ...]:
    """SSD's anchor sizes for the boxes of a data set, in even ratios from its small boxes to its large ones.

    Box sizes are in pixels of the network's square input; those that are not finite and positive are left out. Without
    boxes, the sizes are the paper's.

    Returns:
        L + 1 sizes in pixels, strictly increasing. The first is the 5th percentile of sqrt(height * width), but at
        least 3 % of the input and at most the paper's second size (20 or 15 %); level L reaches the 95th percentile.
        From the second level on, a size is at least twice the level's stride (taken as 8 * 2^level) or the paper's
        size for VOC, whichever is smaller: small anchors on a coarse map would leave gaps between cells.
    """
    fractions = (0.1, 0.2, 0.88) if num_levels <= 6 else (0.07, 0.15, 0.9)  # Liu 2016, VOC; SSD300 has 6, SSD512 7
    paper = ssd_anchor_sizes(image_size, num_levels, *fractions)
    box_sizes_hw = _usable(box_sizes_hw)
    if len(box_sizes_hw) == 0:
        return paper
    low, high = np.percentile(np.sqrt(box_sizes_hw.prod(axis=1)), [5, 95]).tolist()
    first = min(max(low, 0.03 * min(image_size, 320)), paper[1])
    last = min(max(high, first * 1.15 ** (num_levels - 1)), float(image_size))  # keeps the steps apart
    growth = (last / first) ** (1 / (num_levels - 1))
    floors = [0.0, *(min(16 * 2.0**level, paper[level]) for level in range(1, num_levels))]
    sizes = [max(first * growth**level, floor) for level, floor in enumerate(floors)]
    beyond = min(sizes[-1] * max(growth, 1.1), 1.05 * image_size)
    return tuple(round(size, 2) for size in [*sizes, max(beyond, 1.01 * sizes[-1])])


def _usable(box_sizes_hw: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "M 2"]:
    return box_sizes_hw[np.isfinite(box_sizes_hw).all(axis=1) & (box_sizes_hw > 0).all(axis=1)].astype(np.float64)


def level_shapes(sizes: Sequence[float], aspect_ratios: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The (width, height) of the anchors of all of SSD's levels, from their L + 1 sizes and L lists of ratios."""
    levels = zip(pairwise(sizes), aspect_ratios, strict=True)
    return [shape for (size, next_size), ratios in levels for shape in cell_shapes(size, next_size, ratios)]


def pyramid_sizes_from_boxes(
    box_sizes_hw: Float[np.ndarray, "N 2"],
    strides: Sequence[float],
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
) -> tuple[float, ...]:
    """RetinaNet's anchor sizes for the boxes of a data set: the multiple of the strides that covers most of them.

    The paper's multiple is 4 (Lin 2017, 4); another one, from 2 to 8, replaces it if it covers more boxes. Smaller ones
    would leave gaps between the cells. Boxes and strides are in pixels of the network's input.
    """

    def coverage(multiple: float) -> float:
        shapes = [shape for s in strides for shape in pyramid_shapes(multiple * s, scales, aspect_ratios)]
        return anchor_coverage(box_sizes_hw, shapes)

    best = max((4.0, 2.0, 2.5, 3.0, 5.0, 6.0, 8.0), key=coverage)
    return tuple(best * stride for stride in strides)


def anchor_coverage(
    box_sizes_hw: Float[np.ndarray, "N 2"], anchor_shapes_wh: Sequence[tuple[float, float]], iou_threshold: float = 0.5
) -> float:
    """Share of boxes (0..1) that some anchor overlaps by at least `iou_threshold` when both have the same centre.

    It is an upper bound of matching's recall: it judges sizes and ratios, not the spacing of the cells. Boxes and
    anchors are in the same pixels; boxes that are not finite and positive are left out. Without boxes it is 1.
    """
    box_sizes_hw = _usable(box_sizes_hw)
    if len(box_sizes_hw) == 0:
        return 1.0
    return float((best_anchor_iou(box_sizes_hw, anchor_shapes_wh) >= iou_threshold).mean())


def best_anchor_iou(
    box_sizes_hw: Float[np.ndarray, "N 2"], anchor_shapes_wh: Sequence[tuple[float, float]]
) -> Float[np.ndarray, " N"]:
    """IoU of each box with the anchor that fits it best, both with the same centre and in the same pixels."""
    shapes_wh = np.array(anchor_shapes_wh)
    heights, widths = box_sizes_hw[:, :1], box_sizes_hw[:, 1:]
    overlap = np.minimum(widths, shapes_wh[:, 0]) * np.minimum(heights, shapes_wh[:, 1])  # (N, shapes)
    union = widths * heights + shapes_wh.prod(axis=1) - overlap
    return (overlap / union).max(axis=1)
