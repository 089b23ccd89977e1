"""lufficc/SSD: its SSD300 and SSD512 on VGG-16.

Head channels and anchors have our order (golden `lufficc_ssd300_vgg16`, `lufficc_ssd512_vgg16`). Its configuration's
PIXEL_MEAN is (123, 117, 104), RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from onestage.detectors import Normalization
from onestage.models.layouts.layout import CONV4_3_SCALE, Layout, flat_extras_names, numbered, vgg16_names


def _settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Its configuration of SSD512 on VOC has 537.65 where the paper's rule gives 537.6."""
    sizes = tuple(537.65 if size == 537.6 else size for size in config.anchor_sizes)
    return {"clip_anchors": "all", "whole_pixels": False, "anchor_sizes": sizes}


LUFFICC = Layout(
    name="lufficc",
    project="lufficc/SSD",
    family="SSD",
    names={
        **vgg16_names("backbone.vgg.{}"),
        **flat_extras_names("backbone.extras.{}"),
        **numbered({"box_head.predictor.cls_headers.{}": "head.class_convs.{}"}),
        **numbered({"box_head.predictor.reg_headers.{}": "head.box_convs.{}"}),
        "backbone.l2_norm.weight": CONV4_3_SCALE,
    },
    markers=("box_head.predictor.cls_headers.0.weight",),
    normalization=Normalization(mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0)),
    settings=_settings,
)
