"""Detectors by name: one paper, one file; this file is all the lookup there is."""

import difflib
from dataclasses import asdict
from typing import Any

from onestage.detectors.base import Description, Detector, DetectorConfig, Normalization, describe
from onestage.detectors.gfl import GFL_LIGHT, GFL_PAPER, GFLConfig
from onestage.detectors.m2det import M2DET320, M2DET320_LIGHT, M2DET512, M2DET704, M2DET800, M2DetConfig
from onestage.detectors.retinanet import RETINANET, RETINANET_LIGHT, RetinaNetConfig
from onestage.detectors.ssd import SSD300, SSD300_LIGHT, SSD512, SSD512_LIGHT, SSDConfig
from onestage.errors import UserError
from onestage.selection import Selection
from onestage.settings import read

DETECTORS: dict[str, DetectorConfig] = {
    "ssd300-vgg16": SSD300,
    "ssd512-vgg16": SSD512,
    "retinanet-resnet18": RETINANET,
    "retinanet-resnet34": RETINANET,
    "retinanet-resnet50": RETINANET,
    "retinanet-resnet101": RETINANET,
    "gfl-resnet18": GFL_PAPER,
    "gfl-resnet34": GFL_PAPER,
    "gfl-resnet50": GFL_PAPER,
    "gfl-resnet101": GFL_PAPER,
    "m2det320-vgg16": M2DET320,
    "m2det512-vgg16": M2DET512,
    "m2det704-vgg16": M2DET704,
    "m2det800-vgg16": M2DET800,
    "m2det320-resnet50": M2DET320,
    "m2det512-resnet50": M2DET512,
    "m2det704-resnet50": M2DET704,
    "m2det800-resnet50": M2DET800,
    "m2det320-resnet101": M2DET320,
    "m2det512-resnet101": M2DET512,
    "m2det704-resnet101": M2DET704,
    "m2det800-resnet101": M2DET800,
}  # A ResNet's name may end with a tag of its ImageNet weights in timm, as `retinanet-resnet50.tv_in1k`.
# On any other backbone, `PREFIX-<timm name>`:
ON_TIMM: dict[str, DetectorConfig] = {
    "ssd300": SSD300_LIGHT,
    "ssd512": SSD512_LIGHT,
    "retinanet": RETINANET_LIGHT,
    "m2det320": M2DET320_LIGHT,
    "gfl": GFL_LIGHT,
}

__all__ = [
    "DETECTORS",
    "ON_TIMM",
    "Description",
    "Detector",
    "DetectorConfig",
    "GFLConfig",
    "M2DetConfig",
    "Normalization",
    "RetinaNetConfig",
    "SSDConfig",
    "build",
    "build_from_config",
    "config_of",
    "describe",
    "detector_config",
    "untagged",
]


def build(
    name: str,
    num_classes: int = 20,
    *,
    config: DetectorConfig | None = None,
    normalization: Normalization | None = None,
) -> Detector:
    """A detector with fresh weights.

    Args:
        name: one of `DETECTORS`, or a prefix of `ON_TIMM` with a timm backbone, as `ssd300-tf_efficientnet_lite0`. A
            tag of timm's weights may follow (`retinanet-resnet50.tv_in1k`); without one they are timm's newest.
        num_classes: K, without background.
        config: every other number; None: `detector_config(name)`. For another one, `dataclasses.replace` parts of it.
        normalization: None: what the backbone's published ImageNet weights were trained with.

    Raises:
        UserError: an unknown name, or values that do not fit it.
    """
    usual = detector_config(name)
    config = config or usual
    if type(config) is not type(usual):
        raise UserError(f"{name}: a {type(config).__name__} was given; expected a {type(usual).__name__}")
    return config.build(name, num_classes, normalization or config.backbone_normalization(name.partition("-")[2]))


def config_of(detector: Detector) -> dict[str, Any]:
    """JSON-able; all but the weights that it takes to build the detector again."""
    return {
        "name": detector.name,
        "num_classes": detector.num_classes,
        "normalization": {"mean": list(detector.normalization.mean), "std": list(detector.normalization.std)},
        "settings": asdict(detector.config),
        "selection": asdict(detector.evaluation_selection),
    }


def build_from_config(config: dict[str, Any]) -> Detector:
    """Build the detector that `config_of` described, with fresh weights.

    Raises:
        UserError: another version of onestage wrote it, or timm no longer has its backbone.
    """
    try:
        name, num_classes, settings = config["name"], config["num_classes"], config["settings"]
        normalization = Normalization(*(tuple(config["normalization"][key]) for key in ("mean", "std")))
        detectors_config = type(detector_config(name)).from_dict(settings)
        selection = config.get("selection")  # version 0.1 wrote none
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"detector configuration: {error!r} is missing or wrong; the file is not of this version"
        ) from error
    detector = build(name, num_classes, config=detectors_config, normalization=normalization)
    if selection is not None:
        detector.evaluation_selection = read(Selection, selection, "post-processing")
    return detector


def untagged(name: str) -> str:
    """A detector's name without the tag of timm's weights, which is none of the network."""
    return name if "-vgg16" in name else name.partition(".")[0]


def detector_config(name: str) -> DetectorConfig:
    """The configuration that goes with a name.

    Raises:
        UserError: an unknown name.
    """
    prefix, _, backbone = name.partition("-")
    if untagged(name) in DETECTORS:
        return DETECTORS[untagged(name)]
    if prefix in ON_TIMM and backbone:
        return ON_TIMM[prefix]
    near = difflib.get_close_matches(name, DETECTORS, n=2, cutoff=0.4) or list(DETECTORS)[:2]
    raise UserError(
        f"detector {name!r}: unknown; the nearest are {', '.join(near)}; "
        f"also {', '.join(f'{prefix}-NAME' for prefix in ON_TIMM)} with the NAME of any timm backbone, "
        "as ssd300-tf_efficientnet_lite0"
    )
