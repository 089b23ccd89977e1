"""Anchors: the boxes that a detector's predictions start from, laid on the cells of its maps.

SSD's words, ours: default boxes, priors = anchors; min_size, max_size = an anchor size and the next one; step = stride.

Order: level, row, column, then within a cell: the size at ratio 1, the geometric mean of this and the next size at
ratio 1, then for each ratio r: r, 1/r (wide before tall). That is the order of ssd.pytorch, lufficc/SSD, torchvision
and of mmdetection 1.x's SSD too (held by tests), so none of their heads needs its channels permuted. mmdetection 1.x
rounds its anchors to whole inclusive pixels; in the frame used here its corners differ from ours by less than a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from onestage.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

ClipAnchors = Literal["all", "sizes", "none"]  # centres and sizes, sizes only, neither

AnchorStyle = Literal["centred", "cornered", "torchvision", "mmdetection-1"]
"""How RetinaNet's anchors lie about their cells, which differs from program to program.

- "centred": on the cell's centre, like SSD's. Ours.
- "cornered": on the cell's upper left corner (detectron2, mmdetection 2 and 3).
- "torchvision": on the corner too, sizes cut and corners rounded to whole pixels, and strides that divide the input
  by the map, rounded down.
- "mmdetection-1": on the cell's centre, rounded to whole pixels of which the last one belongs to the box.
"""


def cell_shapes(size: float, next_size: float, aspect_ratios: Sequence[float]) -> list[tuple[float, float]]:
    """The (width, height) of each anchor of a cell, in the unit of the sizes, in the order that the module states.

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
    """SSD's anchors as cxcywh in pixels of the network's input.

    Args:
        image_size: side of the square input, pixels.
        map_sizes: (height, width) of each level's map, cells.
        strides: of each level, pixels; the centre of cell i is (i + 0.5) * stride.
        sizes: of each level's smallest square and one more for the last level's in-between square, pixels.
        aspect_ratios: of each level, width / height, each also laid on its side; 1 is always there.
        clip: bound the values (centre, width, height; not the corners) at the input: "all" as the reference programs,
            "sizes" as torchvision, which leaves the centres. It matters where the last cell's centre lies outside the
            input (SSD300's 10 x 10 map: 304 pixels).
        whole_pixels: see `inclusive_pixels`.

    Raises:
        ValueError: the levels of the arguments differ in number.

    Source: Liu 2016, 2.2; strides ("steps") and clipping as in the released code.
    """
    levels = len(map_sizes)
    if not (len(strides) == len(aspect_ratios) == levels and len(sizes) == levels + 1):
        raise ValueError(
            f"anchors of {levels} maps: {len(strides)} strides, {len(aspect_ratios)} lists of aspect ratios and "
            f"{len(sizes)} sizes; give {levels}, {levels} and {levels + 1}"
        )
    parts = []
    for level, map_hw in enumerate(map_sizes):
        shapes_wh = torch.tensor(cell_shapes(sizes[level], sizes[level + 1], aspect_ratios[level]), dtype=torch.float64)
        centre = torch.full_like(shapes_wh, strides[level] / 2)
        cell_cxcywh = torch.cat([centre, shapes_wh], dim=-1)
        if whole_pixels:
            cell_cxcywh = xyxy_to_cxcywh(inclusive_pixels(cxcywh_to_xyxy(cell_cxcywh)))
        shifts = _cell_corners(map_hw, (strides[level], strides[level]))[:, :, None]  # (H, W, 1, 2)
        moved = cell_cxcywh + torch.cat([shifts, torch.zeros_like(shifts)], dim=-1)
        parts.append(moved.reshape(-1, 4))
    anchors_cxcywh = torch.cat(parts)
    if clip != "none":
        first = 0 if clip == "all" else 2
        anchors_cxcywh[:, first:] = anchors_cxcywh[:, first:].clamp(0, image_size)
    return anchors_cxcywh.float()


def _cell_corners(map_hw: tuple[int, int], strides_xy: tuple[float, float]) -> Float[Tensor, "H W 2"]:
    """The upper left corner (x, y) of each cell, pixels of the input."""
    ys, xs = (torch.arange(count, dtype=torch.float64) for count in map_hw)
    return torch.stack(torch.meshgrid(xs * strides_xy[0], ys * strides_xy[1], indexing="xy"), dim=-1)


def pyramid_shapes(size: float, scales: Sequence[float], aspect_ratios: Sequence[float]) -> list[tuple[float, float]]:
    """The (width, height) of each of RetinaNet's anchors of a cell, in the unit of the size: by ratio, then by scale.

    Source: Lin 2017, 4: sizes 2^0, 2^(1/3), 2^(2/3) times the level's, each of the same area at every ratio.
    """
    return [
        (size * scale * math.sqrt(ratio), size * scale / math.sqrt(ratio))
        for ratio in aspect_ratios
        for scale in scales
    ]


def pyramid_anchors(
    input_hw: tuple[int, int],
    map_sizes: Sequence[tuple[int, int]],
    sizes: Sequence[float],
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
    style: AnchorStyle = "centred",
) -> Float32[Tensor, "A 4"]:
    """RetinaNet's anchors as cxcywh in pixels of the network's input.

    Args:
        input_hw: height and width of the input, pixels.
        map_sizes: (height, width) of each level's map, cells; the first at stride 8.
        sizes: of each level, pixels.
        scales: of the anchors of a cell, of the level's size.
        aspect_ratios: width / height; the order matters to imported weights.
        style: see `AnchorStyle`.

    Raises:
        ValueError: the levels of the arguments differ in number.
    """
    if len(sizes) != len(map_sizes):
        raise ValueError(f"anchors of {len(map_sizes)} maps: {len(sizes)} sizes; give one a map")
    parts = []
    for level, ((rows, columns), size) in enumerate(zip(map_sizes, sizes, strict=True)):
        strides_xy = (8.0 * 2**level, 8.0 * 2**level)
        shapes = pyramid_shapes(size, scales, aspect_ratios)
        if style == "torchvision":
            strides_xy = (input_hw[1] // columns, input_hw[0] // rows)
            shapes = pyramid_shapes(1.0, [int(size * scale) for scale in scales], aspect_ratios)
        cell_xyxy = _cell_anchors(torch.tensor(shapes, dtype=torch.float64), strides_xy[0], style)
        shifts = _cell_corners((rows, columns), strides_xy)[:, :, None]  # (H, W, 1, 2)
        parts.append((torch.cat([shifts, shifts], dim=-1) + cell_xyxy).reshape(-1, 4))
    return xyxy_to_cxcywh(torch.cat(parts)).float()


def _cell_anchors(shapes_wh: Float[Tensor, "S 2"], stride: float, style: AnchorStyle) -> Float[Tensor, "S 4"]:
    """The anchors of the first cell as xyxy."""
    half = shapes_wh / 2
    if style == "torchvision":
        return torch.cat([-half, half], dim=-1).round()
    if style == "cornered":
        return torch.cat([-half, half], dim=-1)
    if style == "mmdetection-1":
        return inclusive_pixels(torch.cat([stride / 2 - half, stride / 2 + half], dim=-1))
    return torch.cat([stride / 2 - half, stride / 2 + half], dim=-1)


def inclusive_pixels(boxes_xyxy: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Boxes rounded to whole pixels as mmdetection 1.x does: the last pixel belongs to the box, ties go to even."""
    return torch.cat([boxes_xyxy[..., :2].round(), (boxes_xyxy[..., 2:] - 1).round() + 1], dim=-1)


def ssd_anchor_sizes(
    image_size: int, num_levels: int, smallest: float, second: float, largest: float
) -> tuple[float, ...]:
    """The paper's linear rule: a small first level, then even steps from the second to the last; L + 1 sizes.

    Args:
        image_size: side of the square input, pixels.
        num_levels: L, at least 3.
        smallest, second, largest: sizes of the first, the second and the last level, as fractions of the input.

    Returns:
        L + 1 sizes in pixels; the last one is a step beyond `largest`, for the last level's in-between square.

    Source: Liu 2016, 2.2 and 3.1 (VOC, 300: 0.1, 0.2, 0.88). The releases round the step to whole percents of the
    input (0.17 for 300, 0.15 for 512), which this does too.
    """
    if num_levels < 3 or not 0 < smallest < second < largest:
        raise ValueError(
            f"anchor sizes {smallest}, {second}, {largest} of {num_levels} levels: expected 3 levels or more and "
            "0 < smallest < second < largest"
        )
    step = math.floor(round(100 * (largest - second) / (num_levels - 2), 6)) / 100
    fractions = [smallest, *(second + step * level for level in range(num_levels))]
    return tuple(round(fraction * image_size, 6) for fraction in fractions)


def anchor_sizes_from_boxes(
    box_sizes_hw: Float[np.ndarray, "N 2"], image_size: int, num_levels: int
) -> tuple[float, ...]:
    """Anchor sizes that follow the boxes of a data set: even ratios from its small boxes to its large ones.

    Args:
        box_sizes_hw: height and width of each box in pixels of the network's input; any number, none included.
            Rows that are not finite and positive are left out.
        image_size: side of the square input, pixels.
        num_levels: L, at least 3.

    Returns:
        L + 1 sizes in pixels, strictly increasing. The first is the 5th percentile of sqrt(height * width), at least
        3 % of the input and at most the paper's second size (20 or 15 %); level L reaches the 95th percentile. From
        the second level on none falls below twice its stride (taken as 8 * 2^level) or the paper's size for VOC,
        whichever is smaller: small anchors on a coarse map would leave gaps between cells. Without boxes: the
        paper's linear rule.
    """
    # Liu 2016 for VOC: SSD300 has 6 levels, SSD512 7
    fractions = (0.1, 0.2, 0.88) if num_levels <= 6 else (0.07, 0.15, 0.9)
    paper = ssd_anchor_sizes(image_size, num_levels, *fractions)
    box_sizes_hw = _usable(box_sizes_hw)
    if len(box_sizes_hw) == 0:
        return paper
    low, high = np.percentile(np.sqrt(box_sizes_hw.prod(axis=1)), [5, 95]).tolist()
    first = min(max(low, 0.03 * image_size), paper[1])
    last = min(max(high, first * 1.15 ** (num_levels - 1)), float(image_size))  # keeps the steps apart
    growth = (last / first) ** (1 / (num_levels - 1))
    floors = [0.0, *(min(16 * 2.0**level, paper[level]) for level in range(1, num_levels))]
    sizes = [max(first * growth**level, floor) for level, floor in enumerate(floors)]
    beyond = min(sizes[-1] * max(growth, 1.1), 1.05 * image_size)
    return tuple(round(size, 2) for size in [*sizes, max(beyond, 1.01 * sizes[-1])])


def _usable(box_sizes_hw: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "M 2"]:
    """The rows that are finite and positive, as float64."""
    return box_sizes_hw[np.isfinite(box_sizes_hw).all(axis=1) & (box_sizes_hw > 0).all(axis=1)].astype(np.float64)


def level_shapes(sizes: Sequence[float], aspect_ratios: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The (width, height) of every anchor that SSD's levels have, from their L + 1 sizes and L lists of ratios."""
    return [
        shape
        for level, ratios in enumerate(aspect_ratios)
        for shape in cell_shapes(sizes[level], sizes[level + 1], ratios)
    ]


def pyramid_sizes_from_boxes(
    box_sizes_hw: Float[np.ndarray, "N 2"],
    strides: Sequence[float],
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
) -> tuple[float, ...]:
    """RetinaNet's anchor sizes for the boxes of a data set: the multiple of the strides that meets most of the boxes.

    The paper's multiple is 4 (Lin 2017, 4); it stays unless another one, of 2 to 8, meets more. Smaller ones would
    leave gaps between the cells.

    Args:
        box_sizes_hw: height and width of each box in pixels of the network's input.
        strides: of each level, pixels.
        scales, aspect_ratios: as `pyramid_shapes` takes them.
    """

    def coverage(multiple: float) -> float:
        shapes = [shape for s in strides for shape in pyramid_shapes(multiple * s, scales, aspect_ratios)]
        return anchor_coverage(box_sizes_hw, shapes)

    best = max((4.0, 2.0, 2.5, 3.0, 5.0, 6.0, 8.0), key=coverage)
    return tuple(best * stride for stride in strides)


COVERAGE_GAIN = 0.02  # anchors made for a data set must meet so many more of its boxes to be worth a departure


def anchor_coverage(
    box_sizes_hw: Float[np.ndarray, "N 2"], anchor_shapes_wh: Sequence[tuple[float, float]], iou_threshold: float = 0.5
) -> float:
    """The share of boxes whose shape some anchor meets at `iou_threshold` when both are laid on one centre.

    An upper bound of the recall of matching: it judges sizes and ratios, not the spacing of the cells.

    Args:
        box_sizes_hw: height and width of each box in pixels of the network's input. Rows that are not finite and
            positive are left out.
        anchor_shapes_wh: width and height of every anchor that some level has, pixels.

    Returns:
        0..1; 1.0 without boxes.
    """
    box_sizes_hw = _usable(box_sizes_hw)
    if len(box_sizes_hw) == 0:
        return 1.0
    shapes_wh = np.array(anchor_shapes_wh)
    heights, widths = box_sizes_hw[:, :1], box_sizes_hw[:, 1:]
    overlap = np.minimum(widths, shapes_wh[:, 0]) * np.minimum(heights, shapes_wh[:, 1])  # (N, shapes)
    union = widths * heights + shapes_wh.prod(axis=1) - overlap
    return float(((overlap / union).max(axis=1) >= iou_threshold).mean())
