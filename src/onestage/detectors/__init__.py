"""Detectors by name: one paper, one file; this file is all the lookup there is."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onestage.backbones import TimmMaps, VGG16Reduced, timm_normalization
from onestage.detectors.base import IMAGENET, Detector, Normalization
from onestage.detectors.description import Description, describe
from onestage.detectors.ssd import (
    SSD,
    SSD300,
    SSD300_LIGHT,
    SSD512,
    SSD512_LIGHT,
    ClipAnchors,
    Neck,
    SSDConfig,
    with_quick_start,
)
from onestage.errors import UserError

DETECTORS: dict[str, SSDConfig] = {"ssd300-vgg16": SSD300, "ssd512-vgg16": SSD512}
# On any other backbone, `PREFIX-<timm name>`:
ON_TIMM: dict[str, SSDConfig] = {"ssd300": SSD300_LIGHT, "ssd512": SSD512_LIGHT}

__all__ = [
    "DETECTORS",
    "ON_TIMM",
    "Description",
    "Detector",
    "Normalization",
    "SSDConfig",
    "build",
    "build_from_config",
    "config_of",
    "describe",
    "ssd_config",
]


def build(
    name: str,
    num_classes: int = 20,
    *,
    anchor_sizes: Sequence[float] | None = None,
    neck: Neck | None = None,
    quick_start: bool = False,
    clip_anchors: ClipAnchors | None = None,
    normalization: Normalization | None = None,
) -> Detector:
    """A detector with fresh weights.

    Args:
        name: `ssd300-vgg16`, `ssd512-vgg16`, `ssd300-<timm name>` or `ssd512-<timm name>`.
        num_classes: K, without background.
        anchor_sizes: one a level and one more, pixels of the input; None: the detector's own (the paper's for VOC).
        neck: None: the detector's own ("none" on VGG-16, "top_down" on timm's backbones).
        quick_start: batch norms in VGG-16's conv6, conv7 and the extras, and a head that starts at the class balance
            that mining shows it: learns from fewer pictures. The paper's network has neither.
        clip_anchors: see `SSDConfig`; None: the detector's own.
        normalization: None: what the backbone's published ImageNet weights were trained with.

    Raises:
        UserError: an unknown name, or values that do not fit it.
    """
    config = ssd_config(name)
    config = replace(
        config,
        anchor_sizes=config.anchor_sizes if anchor_sizes is None else tuple(map(float, anchor_sizes)),
        neck=neck or config.neck,
        clip_anchors=clip_anchors or config.clip_anchors,
    )
    if quick_start:
        config = with_quick_start(config)
    return _ssd(name, config, num_classes, normalization)


def config_of(detector: Detector) -> dict[str, Any]:
    """JSON-able; all but the weights that it takes to build the detector again."""
    return {
        "name": detector.name,
        "num_classes": detector.num_classes,
        "normalization": {"mean": list(detector.normalization.mean), "std": list(detector.normalization.std)},
        "settings": detector.settings(),
    }


def build_from_config(config: dict[str, Any]) -> Detector:
    """Build the detector that `config_of` described, with fresh weights.

    Raises:
        UserError: another version of onestage wrote it, or timm no longer has its backbone.
    """
    try:
        name, num_classes, settings = config["name"], config["num_classes"], config["settings"]
        normalization = Normalization(*(tuple(config["normalization"][key]) for key in ("mean", "std")))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"detector configuration: {error!r} is missing or wrong; the file is not of this version"
        ) from error
    return _ssd(name, SSDConfig.from_dict(settings), num_classes, normalization)


def ssd_config(name: str) -> SSDConfig:
    """The configuration that goes with a name.

    Raises:
        UserError: an unknown name.
    """
    prefix, _, backbone = name.partition("-")
    if name in DETECTORS:
        return DETECTORS[name]
    if prefix in ON_TIMM and backbone:
        return ON_TIMM[prefix]
    near = difflib.get_close_matches(name, DETECTORS, n=2, cutoff=0.4) or list(DETECTORS)
    raise UserError(
        f"detector {name!r}: unknown; the nearest are {', '.join(near)}; "
        f"also {' and '.join(f'{prefix}-NAME' for prefix in ON_TIMM)} with the NAME of any timm backbone, "
        "as ssd300-tf_efficientnet_lite0"
    )


def _ssd(name: str, config: SSDConfig, num_classes: int, normalization: Normalization | None) -> SSD:
    ssd_config(name)  # refuses an unknown name
    if name in DETECTORS:
        return SSD(name, config, VGG16Reduced(config.batch_norm), num_classes, normalization or IMAGENET)
    timm_name = name.partition("-")[2]
    backbone = TimmMaps(timm_name)
    return SSD(name, config, backbone, num_classes, normalization or Normalization(*timm_normalization(timm_name)))
