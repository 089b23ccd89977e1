"""torchvision's SSD and RetinaNet on EfficientNet-Lite0, and SSDlite320 as it comes, in eager mode: it exports neither.

All from `torchvision_ssd.py`, but for the head. SSDlite320's own backbone has no weights in a package: from scratch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import torch
from job import Find, Found, Job, main
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import RetinaNet, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torchvision_ssd
from torchvision_ssd import IMAGE_SIZE, SETTINGS, Options, build

from onestage.compute.device import choose_compute
from onestage.data import read_dataset

BACKBONE = "tf_efficientnet_lite0"
CHANNELS = 128  # as many as the SSD on that backbone has
STRIDES = (8, 16, 32, 64, 128)
RATES = {"retinanet": 1e-2}  # torchvision's reference; the others': see `torchvision_ssd.SETTINGS`


class Pyramid(nn.Module):
    """RetinaNet's pyramid of torchvision on timm's maps at strides 8, 16, 32."""

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        self.body = cast(Any, build(BACKBONE, 1, weights)).backbone.body
        channels: list[int] = self.body.feature_info.channels()
        self.pyramid = FeaturePyramidNetwork(channels, CHANNELS, LastLevelP6P7(CHANNELS, CHANNELS))
        self.out_channels = CHANNELS

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.pyramid({str(level): one for level, one in enumerate(self.body(images))})


def network(model: str, classes: int, weights: Path | None) -> nn.Module:
    """By name: ssd, retinanet, ssdlite320."""
    if model == "ssdlite320":
        return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes + 1)
    if model == "ssd":
        return build(BACKBONE, classes, weights)
    sizes = tuple((4 * stride, int(4 * stride * 2 ** (1 / 3)), int(4 * stride * 2 ** (2 / 3))) for stride in STRIDES)
    half, size = [0.5, 0.5, 0.5], (IMAGE_SIZE, IMAGE_SIZE)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return RetinaNet(Pyramid(weights), classes + 1, *size, anchor_generator=anchors, image_mean=half, image_std=half)


def train(job: Job) -> float:
    torch.manual_seed(job.seed)
    table, _ = read_dataset(str(job.data / "coco"), "train")
    model = network(job.model, len(table.categories), job.weights).to(memory_format=cast(Any, torch.channels_last))
    options = Options(str(job.data), network=BACKBONE, minutes=job.minutes, learning_rate=RATES.get(job.model))
    run = torchvision_ssd.train(model, table, options, SETTINGS[BACKBONE], choose_compute())
    torch.save({"model": model.state_dict(), "classes": len(table.categories)}, job.run / "model.pth")
    return run["seconds"]


def load(job: Job) -> Find:
    saved = torch.load(job.run / "model.pth", weights_only=True)
    model = network(job.model, saved["classes"], None)
    model.load_state_dict(saved["model"])
    model.eval()

    @torch.inference_mode()
    def find(file: str) -> Found:
        found = model([decode_image(file, mode=ImageReadMode.RGB).float().div(255)])[0]
        return (found["labels"] - 1).tolist(), found["scores"].tolist(), found["boxes"].tolist()

    return find


if __name__ == "__main__":
    main(train, load)
