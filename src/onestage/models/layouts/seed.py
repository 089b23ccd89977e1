"""The layouts of simple_ssd_pytorch, which is in the style of mmdetection 1.x: golden cases `seed_*`.

SSD300 and SSD512 are mmdetection 1.x's to the entry. RetinaNet differs from it in the names of the subnets' layers
(`bbox_head.cls_convs.0.weight`, without `conv`), M2Det has the release's names below `neck`, and an L2Norm on conv4_3.
Anchors are rounded to whole inclusive pixels. Images are RGB, normalised as in mmdetection 1.x. M2Det's anchors come
in another order within a cell, the square between two sizes last (golden `anchors_xyxy_pixels_legacy`), so its heads'
channels change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from onestage.models.layouts.layout import IMAGENET_MEAN, IMAGENET_STD, Layout, SharedLayers, heads, vgg16_modules
from onestage.models.layouts.m2det import mlfpn_modules
from onestage.models.layouts.mmdetection import retinanet_modules, retinanet_settings_of_version_1

M2DET_ORDER = (0, 5, 1, 2, 3, 4)  # the places of our anchors of a cell among theirs


def _m2det_settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    sfam = "neck.sfam_module.fc1.0.weight" in state_dict
    norm = "backbone.l2_norm.weight" in state_dict
    return {"sfam": sfam, "conv4_3_norm": norm, "batch_norm": False, "clip_anchors": "none", "whole_pixels": True}


def _square_between_second(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    """M2Det's head with its anchors of a cell in our order."""
    if not ours.startswith("head.") or len(value) % len(M2DET_ORDER):
        return None
    by_anchor = value.reshape(len(M2DET_ORDER), -1, *value.shape[1:])
    return by_anchor[list(M2DET_ORDER)].flatten(0, 1), "anchors of a cell put in our order"


SEED_RETINANET = Layout(
    name="seed",
    project="simple_ssd_pytorch",
    family="RetinaNet",
    modules=retinanet_modules("{}"),
    markers=("bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.weight"),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    settings=retinanet_settings_of_version_1,
)

SEED_M2DET = Layout(
    name="seed",
    project="simple_ssd_pytorch",
    family="M2Det",
    modules={
        **vgg16_modules("backbone.features.{}"),
        **mlfpn_modules("neck.tums.{}", prefix="neck."),
        **heads("bbox_head.cls_convs.{}", "bbox_head.reg_convs.{}"),
    },
    entries={"backbone.l2_norm.weight": "backbone.conv4_3_norm.scale"},
    markers=("neck.tums.0.layers.0.conv.weight", "bbox_head.cls_convs.0.weight"),
    shared=(SharedLayers("neck.leach.{}", "shared_reduction"),),
    mean=IMAGENET_MEAN,
    settings=_m2det_settings,
    changed=_square_between_second,
)
