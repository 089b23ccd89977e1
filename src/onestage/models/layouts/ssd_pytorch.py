"""amdegroot/ssd.pytorch: the layout of its SSD300 checkpoints.

Its head channels are ordered (anchor, class) and (anchor, coordinate), background first, and its anchors within a cell
as ours (golden `ssd_pytorch_ssd300_vgg16`). Its data path subtracts the means (104, 117, 123) from BGR and then turns
the image to RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from onestage.models.layouts.layout import Layout, flat_extras, heads, vgg16_modules


def _settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    return {"clip_anchors": "all", "whole_pixels": False}


SSD_PYTORCH = Layout(
    name="ssd.pytorch",
    project="amdegroot/ssd.pytorch",
    family="SSD",
    modules={**vgg16_modules("vgg.{}"), **flat_extras("extras.{}"), **heads("conf.{}", "loc.{}")},
    entries={"L2Norm.weight": "backbone.conv4_3_norm.scale"},
    markers=("L2Norm.weight",),
    mean=(123.0, 117.0, 104.0),
    settings=_settings,
)
