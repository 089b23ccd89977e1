"""M2Det's release (github.com/qijiezhao/M2Det).

A TUM is `unetL` with `layers` (down), `toplayer`, `latlayer` and `smooth` (up, coarsest first; ours are finest first).
`leach` (the reductions of the base feature) and SFAM's `fc1` and `fc2` are lists that repeat one layer. Anchors are
SSD's, clipped. The data path leaves images in OpenCV's order, BGR, and subtracts (104, 117, 123); ours are RGB, so the
first convolution's input channels are reversed.
"""

from typing import Any

from torch import Tensor

from onestage.models.layouts.layout import CAFFE_MEANS, IMAGENET_CLASSIFIER, Layout, numbered, vgg16_names

LEVELS = 8
STEPS = 5  # down, and up, of a TUM


def mlfpn_names(tum: str, prefix: str = "") -> dict[str, str]:
    """Names of a pyramid's modules -> ours. `tum` has its number from 0 at `{}`, or from 1 at `{next}`."""
    layers = {f"{prefix}reduce": "base.shallow", f"{prefix}up_reduce": "base.deep"}
    for level in range(LEVELS):
        theirs, ours = tum.format(level, next=level + 1), f"tums.{level}"
        layers[f"{prefix}leach.{level}"] = f"reductions.{level}"
        layers[f"{theirs}.toplayer.0"] = f"{ours}.top"
        for step in range(STEPS):
            layers[f"{theirs}.layers.{step}"] = f"{ours}.down.{step}"
            layers[f"{theirs}.latlayer.{step}"] = f"{ours}.laterals.{STEPS - 1 - step}"
            layers[f"{theirs}.smooth.{step}"] = f"{ours}.smooths.{STEPS - 1 - step}"
    return {
        f"{prefix}Norm": "mlfpn.norm",
        **{f"{theirs}.conv": f"mlfpn.{ours}.conv" for theirs, ours in layers.items()},
        **{f"{theirs}.bn": f"mlfpn.{ours}.norm" for theirs, ours in layers.items()},
        **numbered({prefix + "sfam_module.fc1.{}": "mlfpn.attention.squeeze.{}"}),
        **numbered({prefix + "sfam_module.fc2.{}": "mlfpn.attention.excite.{}"}),
    }


def _settings(config: Any, state_dict: dict[str, Tensor]) -> dict[str, Any]:
    sfam = "sfam_module.fc1.0.weight" in state_dict
    return {"sfam": sfam, "conv4_3_norm": False, "batch_norm": False, "clip_anchors": "all", "whole_pixels": False}


def _to_rgb(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    first = ours in ("backbone.conv1_1.weight", "backbone.body.conv1.weight")
    return (value.flip(1), "input channels from BGR to RGB") if first else None


M2DET = Layout(
    name="m2det",
    project="M2Det's release",
    family="M2Det",
    names={
        **vgg16_names("base.{}"),
        **{f"base.{module}": f"backbone.body.{module}" for module in ("conv1", "bn1")},
        **{f"base.layer{stage}": f"backbone.body.layer{stage}" for stage in range(1, 5)},
        **mlfpn_names("unet{next}"),
        **numbered({"conf.{}": "head.class_convs.{}", "loc.{}": "head.box_convs.{}"}),
    },
    markers=("unet1.layers.0.conv.weight", "loc.0.weight"),
    normalization=CAFFE_MEANS,
    settings=_settings,
    shared={"leach": "shared_reduction", "sfam_module.fc1": "shared_sfam", "sfam_module.fc2": "shared_sfam"},
    left_out={"base.fc.": IMAGENET_CLASSIFIER},
    convert=_to_rgb,
)
