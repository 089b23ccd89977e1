"""mmdetection's SSD, RetinaNet, ATSS and GFL, of version 1 and of versions 2 and 3, and simple_ssd_pytorch ("seed").

All versions: ResNets have torchvision's names, in "pytorch" style (stride in the 3x3 convolution), with input
normalised by ImageNet's mean and std; SSD's `img_norm_cfg` has ImageNet's mean and std 1, RGB. Anchors within a cell
have our order. RetinaNet has no background class, takes P6 from C5, and has no ReLU between P6 and P7 ("on_input",
`relu_before_extra_convs` False). Its entries are the same in all versions, so its layout has to be named.

Version 1: background is class 0. Anchors are rounded to whole pixels, the last of which belongs to the anchor, and
boxes are coded in that frame (width = x1 - x0 + 1). Our `whole_pixels` and the anchor style "mmdetection-1" give the
same anchors in half-open pixels (goldens `anchors_xyxy_pixels_legacy`).

Versions 2 (from 2.14, which brought SSDNeck) and 3: SSD's background is the LAST class and is moved to the front.
Anchors are exact: SSD's lie on the cell's centre, with sizes cut to whole pixels, not clipped; RetinaNet's lie on the
cell's upper left corner (`center_offset` 0). Boxes are half-open.

ATSS and GFL (from versions 2.0 and 2.5 on): positions are the cells' upper left corners. ATSS is a RetinaNet here.

simple_ssd_pytorch (goldens `seed_*`): as version 1, and its SSDs are that. RetinaNet names the layers of its subnets
without `conv`. M2Det has the release's names below `neck`, and an L2Norm on conv4_3; the square between two sizes is
the last anchor of a cell (golden `anchors_xyxy_pixels_legacy`), so its head's channels are reordered.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from onestage.detectors import Normalization
from onestage.detectors.base import IMAGENET
from onestage.detectors.retinanet import ATSS_SETTINGS
from onestage.models.layouts.layout import CONV4_3_SCALE, Layout, flat_extras_names, numbered, vgg16_names
from onestage.models.layouts.m2det import mlfpn_names

SSD_HEAD = numbered({"bbox_head.cls_convs.{}": "head.class_convs.{}", "bbox_head.reg_convs.{}": "head.box_convs.{}"})
MEAN_ONLY = Normalization(mean=IMAGENET.mean, std=(1.0, 1.0, 1.0))
SEED_M2DET_ORDER = [0, 5, 1, 2, 3, 4]  # places of our anchors of a cell among theirs
RETINANET_SETTINGS = {"p6_from": "c5", "p7_relu": False, "subnet_norm": "none"}


def _ssd_settings(config: Any, state_dict: Any) -> dict[str, Any]:
    # mmdetection cuts anchor sizes to whole pixels: 35, 76, 153, ... for SSD512 on VOC
    sizes = tuple(float(int(size)) for size in config.anchor_sizes)
    return {"clip_anchors": "none", "whole_pixels": False, "anchor_sizes": sizes}


def _background_first(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    if not ours.startswith("head.class_convs.") or len(value) % (num_classes + 1):
        return None
    by_anchor = value.reshape(-1, num_classes + 1, *value.shape[1:])
    return torch.cat([by_anchor[:, -1:], by_anchor[:, :-1]], dim=1).flatten(0, 1), "background moved to the front"


def _seed_m2det_settings(config: Any, state_dict: dict[str, Tensor]) -> dict[str, Any]:
    sfam = "neck.sfam_module.fc1.0.weight" in state_dict
    norm = "backbone.l2_norm.weight" in state_dict
    return {"sfam": sfam, "conv4_3_norm": norm, "batch_norm": False, "clip_anchors": "none", "whole_pixels": True}


def _in_our_anchor_order(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    if not ours.startswith("head.") or len(value) % len(SEED_M2DET_ORDER):
        return None
    by_anchor = value.reshape(len(SEED_M2DET_ORDER), -1, *value.shape[1:])
    return by_anchor[SEED_M2DET_ORDER].flatten(0, 1), "anchors of a cell put in our order"


def _pyramid_names(ours: str) -> dict[str, str]:
    """Names of a ResNet's and a feature pyramid's modules -> ours, below `ours`."""
    return {
        "backbone": "backbone.body",
        **numbered({"neck.lateral_convs.{}.conv": f"{ours}.pyramid.inner_blocks.{{}}.0"}),
        **numbered({"neck.fpn_convs.{}.conv": f"{ours}.pyramid.layer_blocks.{{}}.0"}),
        "neck.fpn_convs.3.conv": f"{ours}.p6",
        "neck.fpn_convs.4.conv": f"{ours}.p7",
    }


def _retinanet_names(subnet_layer: str) -> dict[str, str]:
    """Names of a RetinaNet's modules -> ours; `subnet_layer` is the name of a subnet's layer, as `{}.conv`."""
    return {
        **_pyramid_names("fpn"),
        **numbered({f"bbox_head.cls_convs.{subnet_layer}": "class_subnet.layers.{}.0"}),
        **numbered({f"bbox_head.reg_convs.{subnet_layer}": "box_subnet.layers.{}.0"}),
        "bbox_head.retina_cls": "class_subnet.last",
        "bbox_head.retina_reg": "box_subnet.last",
    }


SSD_1 = Layout(
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
    settings=lambda config, state_dict: {**_ssd_settings(config, state_dict), "whole_pixels": True},
)

SSD = Layout(
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

RETINANET_1 = Layout(
    name="mmdetection-1",
    project="mmdetection 1.x",
    family="RetinaNet",
    names=_retinanet_names("{}.conv"),
    markers=("bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.conv.weight"),
    normalization=IMAGENET,
    settings=lambda config, state_dict: {**RETINANET_SETTINGS, "anchor_style": "mmdetection-1"},
)

RETINANET = replace(
    RETINANET_1,
    name="mmdetection",
    project="mmdetection 2 and 3",
    settings=lambda config, state_dict: {
        **RETINANET_SETTINGS,
        "anchor_style": "cornered",
        "box_loss": "l1",
        "keep_best": True,  # min_pos_iou 0
        "best_ties": "all",
    },
)

ATSS = Layout(
    name="mmdetection",
    project="mmdetection 2 and 3",
    family="RetinaNet",
    names={
        **_pyramid_names("fpn"),
        **numbered({"bbox_head.cls_convs.{}.conv": "class_subnet.layers.{}.0"}),
        **numbered({"bbox_head.cls_convs.{}.gn": "class_subnet.layers.{}.1"}),
        **numbered({"bbox_head.reg_convs.{}.conv": "box_subnet.layers.{}.0"}),
        **numbered({"bbox_head.reg_convs.{}.gn": "box_subnet.layers.{}.1"}),
        **numbered({"bbox_head.scales.{}.scale": "level_scales.{}"}),
        "bbox_head.atss_cls": "class_subnet.last",
        "bbox_head.atss_reg": "box_subnet.last",
        "bbox_head.atss_centerness": "centerness.last",
    },
    markers=("bbox_head.atss_cls.weight",),
    normalization=IMAGENET,
    settings=lambda config, state_dict: {**ATSS_SETTINGS, "anchor_style": "cornered"},
    notes=("mmdetection's threshold is for a class's score before it is multiplied by the centerness, ours after it",),
)

GFL = Layout(
    name="mmdetection",
    project="mmdetection 2 and 3",
    family="GFL",
    names={
        **_pyramid_names("neck"),
        **numbered({"bbox_head.cls_convs.{}.conv": "class_branch.tower.convs.{}"}),
        **numbered({"bbox_head.cls_convs.{}.gn": "class_branch.tower.norms.{}.of_level.0"}),
        **numbered({"bbox_head.reg_convs.{}.conv": "box_branch.tower.convs.{}"}),
        **numbered({"bbox_head.reg_convs.{}.gn": "box_branch.tower.norms.{}.of_level.0"}),
        **numbered({"bbox_head.scales.{}.scale": "scales.{}"}),
        "bbox_head.gfl_cls": "class_branch.last",
        "bbox_head.gfl_reg": "box_branch.last",
    },
    markers=("bbox_head.gfl_cls.weight",),
    normalization=IMAGENET,
    settings=lambda config, state_dict: {"position_style": "cornered"},
    left_out={"bbox_head.integral.project": "the bins' numbers, which are known"},
)

SEED_RETINANET = replace(
    RETINANET_1,
    name="seed",
    project="simple_ssd_pytorch",
    names=_retinanet_names("{}"),
    markers=("bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.weight"),
)

SEED_M2DET = Layout(
    name="seed",
    project="simple_ssd_pytorch",
    family="M2Det",
    names={
        **vgg16_names("backbone.features.{}"),
        **mlfpn_names("neck.tums.{}", prefix="neck."),
        **SSD_HEAD,
        "backbone.l2_norm.weight": CONV4_3_SCALE,
    },
    markers=("neck.tums.0.layers.0.conv.weight", "bbox_head.cls_convs.0.weight"),
    normalization=MEAN_ONLY,
    settings=_seed_m2det_settings,
    shared={"neck.leach": "shared_reduction"},
    convert=_in_our_anchor_order,
)
