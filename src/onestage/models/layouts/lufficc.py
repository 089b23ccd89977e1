"""lufficc/SSD: the layout of its SSD300 and SSD512 checkpoints on VGG-16.

Head channels and anchors are ordered as ours (golden `lufficc_ssd300_vgg16`, `lufficc_ssd512_vgg16`). Its
configuration's PIXEL_MEAN is (123, 117, 104), RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from onestage.models.layouts.layout import Layout, flat_extras, heads, vgg16_modules


def _settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Its configuration for SSD512 on VOC says 537.65 where the paper's rule gives 537.6."""
    sizes = tuple(537.65 if size == 537.6 else size for size in config.anchor_sizes)
    return {"clip_anchors": "all", "whole_pixels": False, "anchor_sizes": sizes}


LUFFICC = Layout(
    name="lufficc",
    project="lufficc/SSD",
    family="SSD",
    modules={
        **vgg16_modules("backbone.vgg.{}"),
        **flat_extras("backbone.extras.{}"),
        **heads("box_head.predictor.cls_headers.{}", "box_head.predictor.reg_headers.{}"),
    },
    entries={"backbone.l2_norm.weight": "backbone.conv4_3_norm.scale"},
    markers=("box_head.predictor.cls_headers.0.weight",),
    mean=(123.0, 117.0, 104.0),
    settings=_settings,
)
