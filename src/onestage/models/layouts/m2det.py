"""M2Det's release (github.com/qijiezhao/M2Det): the layout of its checkpoints.

A TUM is `unetL` with `layers` (down), `toplayer`, `latlayer` and `smooth` (up, coarsest first; ours are finest first).
`leach` (the reductions of the base feature) and SFAM's `fc1`, `fc2` are lists that repeat one layer. Its anchors are
SSD's, clipped. Its data path leaves images in OpenCV's order, BGR, and subtracts (104, 117, 123); here they are RGB,
so the first convolution's input channels change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from onestage.models.layouts.layout import Layout, SharedLayers, heads, vgg16_modules

LEVELS = 8
SCALES = 6
_STEPS = SCALES - 1  # down, and up
_PARTS = (("conv", "conv"), ("bn", "norm"))


def mlfpn_modules(tum: str, prefix: str = "", sfam: str = "sfam_module") -> dict[str, str]:
    """The names of the modules of a multi-level pyramid -> ours.

    Args:
        tum: the name of a TUM, with `{}` for its place from 0, as `tums.{}`, or with `{next}` for it from 1.
        prefix: of all other modules' names.
        sfam: the name of SFAM.
    """
    layers = {f"{prefix}reduce": "base.shallow", f"{prefix}up_reduce": "base.deep"}
    for level in range(LEVELS):
        theirs, ours = tum.format(level, next=level + 1), f"tums.{level}"
        layers[f"{prefix}leach.{level}"] = f"reductions.{level}"
        layers[f"{theirs}.toplayer.0"] = f"{ours}.top"
        for step in range(_STEPS):
            layers[f"{theirs}.layers.{step}"] = f"{ours}.down.{step}"
            layers[f"{theirs}.latlayer.{step}"] = f"{ours}.laterals.{_STEPS - 1 - step}"
            layers[f"{theirs}.smooth.{step}"] = f"{ours}.smooths.{_STEPS - 1 - step}"
    modules = {f"{t}.{part}": f"mlfpn.{o}.{ours}" for t, o in layers.items() for part, ours in _PARTS}
    modules[f"{prefix}Norm"] = "mlfpn.norm"
    for scale in range(SCALES):
        modules[f"{prefix}{sfam}.fc1.{scale}"] = f"mlfpn.attention.squeeze.{scale}"
        modules[f"{prefix}{sfam}.fc2.{scale}"] = f"mlfpn.attention.excite.{scale}"
    return modules


def _settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    sfam = "sfam_module.fc1.0.weight" in state_dict
    return {"sfam": sfam, "conv4_3_norm": False, "batch_norm": False, "clip_anchors": "all", "whole_pixels": False}


def _to_rgb(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    if ours in ("backbone.conv1_1.weight", "backbone.body.conv1.weight"):
        return value.flip(1), "input channels from BGR to RGB"
    return None


M2DET = Layout(
    name="m2det",
    project="M2Det's release",
    family="M2Det",
    modules={
        **vgg16_modules("base.{}"),
        **{f"base.{module}": f"backbone.body.{module}" for module in ("conv1", "bn1")},
        **{f"base.layer{stage}": f"backbone.body.layer{stage}" for stage in range(1, 5)},
        **mlfpn_modules("unet{next}"),
        **heads("conf.{}", "loc.{}"),
    },
    markers=("unet1.layers.0.conv.weight", "loc.0.weight"),
    shared=(
        SharedLayers("leach.{}", "shared_reduction"),
        SharedLayers("sfam_module.fc1.{}", "shared_sfam"),
        SharedLayers("sfam_module.fc2.{}", "shared_sfam"),
    ),
    left_out={"base.fc.": "it tells ImageNet's classes apart"},
    mean=(123.0, 117.0, 104.0),
    settings=_settings,
    changed=_to_rgb,
)
