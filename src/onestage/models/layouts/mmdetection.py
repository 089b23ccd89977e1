"""mmdetection: the layouts of its SSD and RetinaNet checkpoints, of version 1 and of versions 2 and 3.

What is relied on, of all versions: VGG-16 is `backbone.features.N` with torchvision's places; ResNets are torchvision's
names below `backbone.`, in "pytorch" style (stride in the 3x3 convolution), input normalised by ImageNet's mean and
std. SSD's `img_norm_cfg` is mean (123.675, 116.28, 103.53), std 1, RGB. Both have the order of anchors within a cell
that we have. RetinaNet has no background class, P6 from C5 and no ReLU between P6 and P7 ("on_input",
`relu_before_extra_convs` False): `neck.lateral_convs.L.conv`, `neck.fpn_convs.L.conv` (3 is P6, 4 is P7),
`bbox_head.cls_convs.I.conv`, `reg_convs.I.conv`, `retina_cls`, `retina_reg`.

Version 1: SSD has `backbone.extra.N` in one flat list, `backbone.l2_norm.weight` and `bbox_head.cls_convs.L.weight`;
background is class 0. Anchors are rounded to whole pixels of which the last one belongs to the anchor, and boxes are
coded in that frame (width = x1 - x0 + 1); with `whole_pixels` and the anchor style "mmdetection-1" ours are the same
(goldens `anchors_xyxy_pixels_legacy`), in half-open pixels.

Versions 2 (from 2.14, which brought SSDNeck) and 3: SSD has `neck.extra_layers.I.0.conv` (1x1), `.1.conv` (3x3),
`neck.l2_norm.weight` and `bbox_head.cls_convs.L.0.weight`; background is the LAST class, which moves to the front here.
Anchors are exact: SSD's on the cell's centre with sizes cut to whole pixels, not clipped; RetinaNet's on the cell's
upper left corner (`center_offset` 0). Boxes are half-open.

RetinaNet's entries are the same in all versions, so the layout can't be found out and must be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from onestage.models.layouts.layout import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_EXTRAS,
    Layout,
    flat_extras,
    heads,
    vgg16_modules,
    whole_sizes,
)

SUBNET_DEPTH = 4
_L2_NORM_OF_VERSION_1 = {"backbone.l2_norm.weight": "backbone.conv4_3_norm.scale"}


def ssd_settings_of_version_1(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Rounded anchors."""
    return {"clip_anchors": "none", "whole_pixels": True, "anchor_sizes": whole_sizes(config.anchor_sizes)}


def _ssd_settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"clip_anchors": "none", "whole_pixels": False, "anchor_sizes": whole_sizes(config.anchor_sizes)}


def retinanet_settings_of_version_1(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Rounded anchors."""
    return {"p6_from": "c5", "p7_relu": False, "subnet_norm": "none", "anchor_style": "mmdetection-1"}


def _retinanet_settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    same = {"p6_from": "c5", "p7_relu": False, "subnet_norm": "none"}
    return {**same, "anchor_style": "cornered", "box_loss": "l1"}


def _background_first(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    """SSD's class scores with the last class, background, in front."""
    if not ours.startswith("head.class_convs.") or len(value) % (num_classes + 1):
        return None
    by_anchor = value.reshape(-1, num_classes + 1, *value.shape[1:])
    return torch.cat([by_anchor[:, -1:], by_anchor[:, :-1]], dim=1).flatten(0, 1), "background moved to the front"


def retinanet_modules(subnet_layer: str) -> dict[str, str]:
    """The names of a RetinaNet's modules -> ours; `subnet_layer` names a subnet's layer, as `{}.conv`."""
    return {
        "backbone": "backbone.body",
        **{f"neck.lateral_convs.{level}.conv": f"fpn.pyramid.inner_blocks.{level}.0" for level in range(3)},
        **{f"neck.fpn_convs.{level}.conv": f"fpn.pyramid.layer_blocks.{level}.0" for level in range(3)},
        "neck.fpn_convs.3.conv": "fpn.p6",
        "neck.fpn_convs.4.conv": "fpn.p7",
        **{
            f"bbox_head.{theirs}.{subnet_layer.format(layer)}": f"{ours}.layers.{layer}.0"
            for theirs, ours in (("cls_convs", "class_subnet"), ("reg_convs", "box_subnet"))
            for layer in range(SUBNET_DEPTH)
        },
        "bbox_head.retina_cls": "class_subnet.last",
        "bbox_head.retina_reg": "box_subnet.last",
    }


MMDETECTION_1_SSD = Layout(
    name="mmdetection-1",
    project="mmdetection 1.x",
    family="SSD",
    modules={
        **vgg16_modules("backbone.features.{}"),
        **flat_extras("backbone.extra.{}"),
        **heads("bbox_head.cls_convs.{}", "bbox_head.reg_convs.{}"),
    },
    entries=_L2_NORM_OF_VERSION_1,
    markers=("bbox_head.cls_convs.0.weight", "backbone.extra.0.weight"),
    mean=IMAGENET_MEAN,
    settings=ssd_settings_of_version_1,
)

MMDETECTION_SSD = Layout(
    name="mmdetection",
    project="mmdetection 2 and 3",
    family="SSD",
    modules={
        **vgg16_modules("backbone.features.{}"),
        **{
            f"neck.extra_layers.{i}.{k}.conv": f"extras.{i}.{kind}"
            for i in range(MAX_EXTRAS)
            for k, kind in enumerate(("reduce", "conv"))
        },
        **heads("bbox_head.cls_convs.{}.0", "bbox_head.reg_convs.{}.0"),
    },
    entries={"neck.l2_norm.weight": "backbone.conv4_3_norm.scale"},
    markers=("neck.l2_norm.weight", "bbox_head.cls_convs.0.0.weight"),
    mean=IMAGENET_MEAN,
    settings=_ssd_settings,
    changed=_background_first,
)

_RETINANET_MARKERS = ("bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.conv.weight")

MMDETECTION_1_RETINANET = Layout(
    name="mmdetection-1",
    project="mmdetection 1.x",
    family="RetinaNet",
    modules=retinanet_modules("{}.conv"),
    markers=_RETINANET_MARKERS,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    settings=retinanet_settings_of_version_1,
)

MMDETECTION_RETINANET = Layout(
    name="mmdetection",
    project="mmdetection 2 and 3",
    family="RetinaNet",
    modules=retinanet_modules("{}.conv"),
    markers=_RETINANET_MARKERS,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    settings=_retinanet_settings,
)
