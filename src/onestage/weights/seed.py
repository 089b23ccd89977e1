"""mmdetection 1.x: the layout of its SSD300 and SSD512 checkpoints on VGG-16.

Its anchors within a cell come in our order (size, geometric mean, then each ratio and its inverse), so no head channel
moves. They are rounded to whole pixels and not clipped, and their corners are inclusive; ours are neither rounded nor
inclusive, so a box differs from mmdetection's by less than a pixel (golden `anchors_xyxy_pixels_legacy`).
Its `img_norm_cfg` for SSD is mean (123.675, 116.28, 103.53), std 1, RGB.
"""

from __future__ import annotations

import math

from onestage.weights.layout import Layout, flat_extras, heads, vgg16_modules


def anchor_sizes(paper_sizes: tuple[float, ...]) -> tuple[float, ...]:
    """It cuts sizes down to whole pixels: 35, 76, 153, ... for SSD512 on VOC."""
    return tuple(float(math.floor(size)) for size in paper_sizes)


SEED = Layout(
    name="seed",
    project="mmdetection 1.x",
    modules={
        **vgg16_modules("backbone.features.{}"),
        **flat_extras("backbone.extra.{}"),
        **heads("bbox_head.cls_convs.{}", "bbox_head.reg_convs.{}"),
    },
    entries={"backbone.l2_norm.weight": "backbone.conv4_3_norm.scale"},
    marker="bbox_head.cls_convs.0.weight",
    mean=(123.675, 116.28, 103.53),
    clip_anchors="none",
    anchor_sizes=anchor_sizes,
    notes=("anchors: mmdetection rounds its own to whole pixels, ours are exact; boxes differ by less than a pixel",),
)
