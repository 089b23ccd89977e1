"""A detector of each family on a backbone of a few layers, with scores that differ, and batches for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from onestage.detectors import Detector, detector_config
from onestage.detectors.retinanet import ATSS_SETTINGS
from onestage.structures import Batch, Categories
from onestage.training.batch_size import noise_batch

NAMES = Categories.from_names(["ball", "wall", "star"])


def small_ssd() -> Detector:
    config = detector_config("ssd300-test_efficientnet")
    return config.build("ssd300-test_efficientnet", len(NAMES), config.backbone_normalization("resnet50"))


def small_retinanet() -> Detector:
    config = replace(detector_config("retinanet-test_resnet"), channels=64, subnet_depth=1)
    config = config.adjusted({"image_size": 128})
    return config.build("retinanet-test_resnet", len(NAMES), config.backbone_normalization("resnet50"))


def small_m2det() -> Detector:
    config = replace(
        detector_config("m2det320-resnet50"), channels=16, num_levels=2, resnet_stages=(2, 3)
    ).with_quick_start()
    return config.build("m2det320-test_resnet", len(NAMES), config.backbone_normalization("resnet50"))


def small_gfl() -> Detector:
    config = replace(detector_config("gfl-test_efficientnet"), channels=32, prior=0.3).adjusted({"image_size": 128})
    return config.build("gfl-test_efficientnet", len(NAMES), config.backbone_normalization("resnet50"))


def small_atss() -> Detector:
    config = replace(detector_config("retinanet-test_resnet"), channels=64, subnet_depth=1, prior=0.3, **ATSS_SETTINGS)
    config = config.adjusted({"image_size": 128})
    return config.build("retinanet-test_resnet", len(NAMES), config.backbone_normalization("resnet50"))


FAMILIES: dict[str, Callable[[], Detector]] = {
    "ssd": small_ssd,
    "retinanet": small_retinanet,
    "m2det": small_m2det,
    "gfl": small_gfl,
    "atss": small_atss,
}


def small(family: str) -> Detector:
    torch.manual_seed(0)
    detector = FAMILIES[family]()
    for name, parameter in detector.named_parameters():
        if parameter.ndim > 1 and ("class_convs" in name or "class_subnet.last" in name or "class_branch.last" in name):
            parameter.data *= 8
    return detector


def noise(detector: Detector, device: str, images: int = 2) -> Batch:
    """Noise with three objects an image, on the device."""
    pixels, targets = noise_batch(images, detector.resize.input_hw([(128, 128)]), len(NAMES), torch.device(device))
    return Batch(pixels, targets, torch.arange(images))
