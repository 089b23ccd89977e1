"""amdegroot/ssd.pytorch: its SSD300 on VGG-16.

Head channels and anchors have our order (golden `ssd_pytorch_ssd300_vgg16`). Its data path subtracts the means
(104, 117, 123) from BGR, then turns the image to RGB.
"""

from __future__ import annotations

from onestage.detectors import Normalization
from onestage.models.layouts.layout import CONV4_3_SCALE, Layout, flat_extras_names, numbered, vgg16_names

SSD_PYTORCH = Layout(
    name="ssd.pytorch",
    project="amdegroot/ssd.pytorch",
    family="SSD",
    names={
        **vgg16_names("vgg.{}"),
        **flat_extras_names("extras.{}"),
        **numbered({"conf.{}": "head.class_convs.{}", "loc.{}": "head.box_convs.{}"}),
        "L2Norm.weight": CONV4_3_SCALE,
    },
    markers=("L2Norm.weight",),
    normalization=Normalization(mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0)),
    settings=lambda config, state_dict: {"clip_anchors": "all", "whole_pixels": False},
)
