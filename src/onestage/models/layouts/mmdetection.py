"""mmdetection's SSD and RetinaNet, of version 1 and of versions 2 and 3.

All versions: VGG-16 is `backbone.features.N` with torchvision's places; ResNets have torchvision's names below
`backbone.`, in "pytorch" style (stride in the 3x3 convolution), with input normalised by ImageNet's mean and std. SSD's
`img_norm_cfg` is mean (123.675, 116.28, 103.53), std 1, RGB. Anchors within a cell have our order. RetinaNet has no
background class, takes P6 from C5, and has no ReLU between P6 and P7 ("on_input", `relu_before_extra_convs` False);
its entries are `neck.lateral_convs.L.conv`, `neck.fpn_convs.L.conv` (3 is P6, 4 is P7), `bbox_head.cls_convs.I.conv`,
`reg_convs.I.conv`, `retina_cls` and `retina_reg`.

Version 1: SSD has `backbone.extra.N` in one flat list, `backbone.l2_norm.weight` and `bbox_head.cls_convs.L.weight`;
background is class 0. Anchors are rounded to whole pixels, the last of which belongs to the anchor, and boxes are coded
in that frame (width = x1 - x0 + 1). Our `whole_pixels` and the anchor style "mmdetection-1" give the same anchors in
half-open pixels (goldens `anchors_xyxy_pixels_legacy`).

Versions 2 (from 2.14, which brought SSDNeck) and 3: SSD has `neck.extra_layers.I.0.conv` (1x1), `.1.conv` (3x3),
`neck.l2_norm.weight` and `bbox_head.cls_convs.L.0.weight`; background is the LAST class and is moved to the front.
Anchors are exact: SSD's lie on the cell's centre, with sizes cut to whole pixels, not clipped; RetinaNet's lie on the
cell's upper left corner (`center_offset` 0). Boxes are half-open.

RetinaNet's entries are the same in all versions, so its layout has to be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from onestage.detectors import Normalization
from onestage.detectors.base import IMAGENET
from onestage.models.layouts.layout import CONV4_3_SCALE, Layout, flat_extras_names, numbered, vgg16_names

SSD_HEAD = numbered({"bbox_head.cls_convs.{}": "head.class_convs.{}", "bbox_head.reg_convs.{}": "head.box_convs.{}"})
MEAN_ONLY = Normalization(mean=IMAGENET.mean, std=(1.0, 1.0, 1.0))


def _ssd_settings_1(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**_ssd_settings(config, state_dict), "whole_pixels": True}


def _ssd_settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    # mmdetection cuts anchor sizes to whole pixels: 35, 76, 153, ... for SSD512 on VOC
    sizes = tuple(float(int(size)) for size in config.anchor_sizes)
    return {"clip_anchors": "none", "whole_pixels": False, "anchor_sizes": sizes}


def retinanet_settings_1(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of version 1, with rounded anchors."""
    return {"p6_from": "c5", "p7_relu": False, "subnet_norm": "none", "anchor_style": "mmdetection-1"}


def _retinanet_settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**retinanet_settings_1(config, state_dict), "anchor_style": "cornered", "box_loss": "l1"}


def _background_first(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    if not ours.startswith("head.class_convs.") or len(value) % (num_classes + 1):
        return None
    by_anchor = value.reshape(-1, num_classes + 1, *value.shape[1:])
    return torch.cat([by_anchor[:, -1:], by_anchor[:, :-1]], dim=1).flatten(0, 1), "background moved to the front"


def retinanet_names(subnet_layer: str) -> dict[str, str]:
    """Names of a RetinaNet's modules -> ours; `subnet_layer` is the name of a subnet's layer, as `{}.conv`."""
    return {
        "backbone": "backbone.body",
        **numbered({"neck.lateral_convs.{}.conv": "fpn.pyramid.inner_blocks.{}.0"}),
        **numbered({"neck.fpn_convs.{}.conv": "fpn.pyramid.layer_blocks.{}.0"}),
        "neck.fpn_convs.3.conv": "fpn.p6",
        "neck.fpn_convs.4.conv": "fpn.p7",
        **numbered({f"bbox_head.cls_convs.{subnet_layer}": "class_subnet.layers.{}.0"}),
        **numbered({f"bbox_head.reg_convs.{subnet_layer}": "box_subnet.layers.{}.0"}),
        "bbox_head.retina_cls": "class_subnet.last",
        "bbox_head.retina_reg": "box_subnet.last",
    }


MMDETECTION_1_SSD = Layout(
    name="mmdetection-1",
    project="mmdetection 1.x",
    family="SSD",
    names={
        **vgg16_names("backbone.features.{}"),
        **flat_extras_names("backbone.extra.{}"),
        **SSD_HEAD,
        "backbone.l2_norm.weight": CONV4_3_SCALE,
    },
    markers=("bbox_head.cls_convs.0.weight", "backbone.extra.0.weight"),
    normalization=MEAN_ONLY,
    settings=_ssd_settings_1,
)

MMDETECTION_SSD = Layout(
    name="mmdetection",
    project="mmdetection 2 and 3",
    family="SSD",
    names={
        **vgg16_names("backbone.features.{}"),
        **numbered({"neck.extra_layers.{}.0.conv": "extras.{}.reduce"}),
        **numbered({"neck.extra_layers.{}.1.conv": "extras.{}.conv"}),
        **{f"{theirs}.0": ours for theirs, ours in SSD_HEAD.items()},
        "neck.l2_norm.weight": CONV4_3_SCALE,
    },
    markers=("neck.l2_norm.weight", "bbox_head.cls_convs.0.0.weight"),
    normalization=MEAN_ONLY,
    settings=_ssd_settings,
    convert=_background_first,
)

MMDETECTION_1_RETINANET = Layout(
    name="mmdetection-1",
    project="mmdetection 1.x",
    family="RetinaNet",
    names=retinanet_names("{}.conv"),
    markers=("bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.conv.weight"),
    normalization=IMAGENET,
    settings=retinanet_settings_1,
)

MMDETECTION_RETINANET = replace(
    MMDETECTION_1_RETINANET, name="mmdetection", project="mmdetection 2 and 3", settings=_retinanet_settings
)
