"""amdegroot/ssd.pytorch (SSD300) and lufficc/SSD, which follows it (SSD300 and SSD512), on VGG-16.

Head channels and anchors have our order (goldens `ssd_pytorch_*`, `lufficc_*`). ssd.pytorch's data path subtracts the
means (104, 117, 123) from BGR, then turns the image to RGB; lufficc's PIXEL_MEAN is (123, 117, 104), RGB.
"""

from typing import Any

from onestage.models.layouts.layout import CAFFE_MEANS, CONV4_3_SCALE, Layout, flat_extras_names, numbered, vgg16_names


def _lufficc_settings(config: Any, state_dict: Any) -> dict[str, Any]:
    """Its configuration of SSD512 on VOC has 537.65 where the paper's rule gives 537.6."""
    sizes = tuple(537.65 if size == 537.6 else size for size in config.anchor_sizes)
    return {"clip_anchors": "all", "whole_pixels": False, "anchor_sizes": sizes}


SSD = Layout(
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
    normalization=CAFFE_MEANS,
    settings=lambda config, state_dict: {"clip_anchors": "all", "whole_pixels": False},
)

LUFFICC_SSD = Layout(
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
    normalization=CAFFE_MEANS,
    settings=_lufficc_settings,
)
