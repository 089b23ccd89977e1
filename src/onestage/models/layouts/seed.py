"""simple_ssd_pytorch, in the style of mmdetection 1.x: golden cases `seed_*`.

SSD300 and SSD512 have mmdetection 1.x's entries. RetinaNet names the layers of its subnets otherwise
(`bbox_head.cls_convs.0.weight`, without `conv`). M2Det has the release's names below `neck`, and an L2Norm on conv4_3.
Anchors are rounded to whole inclusive pixels; images are RGB, normalised as in mmdetection 1.x. M2Det has the square
between two sizes as the last anchor of a cell (golden `anchors_xyxy_pixels_legacy`), so its head's channels are
reordered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from onestage.detectors.base import IMAGENET
from onestage.models.layouts.layout import CONV4_3_SCALE, Layout, vgg16_names
from onestage.models.layouts.m2det import mlfpn_names
from onestage.models.layouts.mmdetection import MEAN_ONLY, SSD_HEAD, retinanet_names, retinanet_settings_1

M2DET_ORDER = (0, 5, 1, 2, 3, 4)  # places of our anchors of a cell among theirs


def _m2det_settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    sfam = "neck.sfam_module.fc1.0.weight" in state_dict
    norm = "backbone.l2_norm.weight" in state_dict
    return {"sfam": sfam, "conv4_3_norm": norm, "batch_norm": False, "clip_anchors": "none", "whole_pixels": True}


def _in_our_anchor_order(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    if not ours.startswith("head.") or len(value) % len(M2DET_ORDER):
        return None
    by_anchor = value.reshape(len(M2DET_ORDER), -1, *value.shape[1:])
    return by_anchor[list(M2DET_ORDER)].flatten(0, 1), "anchors of a cell put in our order"


SEED_RETINANET = Layout(
    name="seed",
    project="simple_ssd_pytorch",
    family="RetinaNet",
    names=retinanet_names("{}"),
    markers=("bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.weight"),
    normalization=IMAGENET,
    settings=retinanet_settings_1,
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
    settings=_m2det_settings,
    shared={"neck.leach": "shared_reduction"},
    convert=_in_our_anchor_order,
)
