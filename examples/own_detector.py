"""A detector of your own, in a hundred lines: one map, on which each cell near an object's centre learns the object.

    python examples/own_detector.py MY-DATA --steps 500

It is trained, resumed, evaluated, exported and served as those of the package; `onestage/detectors/base.py` says what a
detector is. A program that loads the model has to import this file first.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

import onestage
from onestage.backbones import TimmMaps
from onestage.boxes import clip_boxes, distances_to_boxes
from onestage.detectors import ON_TIMM, Detector, DetectorConfig, Normalization
from onestage.detectors.base import by_anchor
from onestage.input_size import Stretch
from onestage.necks import TopDown
from onestage.settings import setting
from onestage.structures import Losses, Predictions, Targets

STRIDE = 16  # of the one map, pixels of the input


@dataclass(frozen=True)
class CentresConfig(DetectorConfig):
    """What is a field here is a setting of `onestage.train`, a line of recipe.toml, and part of every model file."""

    image_size: int = setting(320, "Side of the square input, pixels")
    channels: int = setting(128, "Channels of the map")
    middle: float = setting(0.5, "Part of an object's width and height around its centre whose cells learn it")

    FAMILY = "Centres"

    @property
    def input_resize(self) -> Stretch:
        return Stretch(self.image_size)

    def build(self, name: str, num_classes: int, normalization: Normalization) -> "Centres":
        return Centres(name, self, TimmMaps(name.partition("-")[2]), num_classes, normalization)


class Centres(Detector):
    """A backbone, a top-down path to the map at stride 16, and a 3x3 convolution for classes and one for boxes."""

    config: CentresConfig

    def __init__(
        self, name: str, config: CentresConfig, backbone: TimmMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__(name, config, backbone, num_classes, normalization)
        self.neck = TopDown(backbone.channels, config.channels)
        self.classes = nn.Conv2d(config.channels, num_classes, 3, padding=1)
        self.sides = nn.Conv2d(config.channels, 4, 3, padding=1)
        for last in (self.classes, self.sides):
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.get_parameter("bias"))  # at first every side is near,
        nn.init.constant_(self.classes.get_parameter("bias"), -math.log(99))  # and every score 0.01

    def raw(self, images_normalised: Tensor) -> Predictions:
        _, middle, _ = self.neck(self.backbone(images_normalised))
        return Predictions(by_anchor(self.classes(middle), self.num_classes), by_anchor(self.sides(middle), 4))

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: tuple[int, int]) -> Losses:
        points, found_xyxy = self.points_xy(input_hw), self.boxes_xyxy(predictions, input_hw)
        logits = predictions.class_logits.float()
        wanted, counted = torch.zeros_like(logits), torch.ones_like(logits)
        box, positives = logits.new_zeros(()), logits.new_zeros((), dtype=torch.int64)
        for image, of_image in enumerate(targets):
            centres = (of_image.boxes_xyxy[:, :2] + of_image.boxes_xyxy[:, 2:]) / 2
            reach = self.config.middle * (of_image.boxes_xyxy[:, 2:] - of_image.boxes_xyxy[:, :2]) / 2
            near = ((points[:, None] - centres).abs() < reach.clamp(min=STRIDE / 2)).all(dim=2)  # (A, N)
            counted[image][near[:, of_image.ignored].any(dim=1)] = 0  # neither the object nor background
            cells, objects = (near & ~of_image.ignored).nonzero(as_tuple=True)
            wanted[image, cells, of_image.labels[objects]] = 1
            box = box + generalized_box_iou_loss(found_xyxy[image, cells], of_image.boxes_xyxy[objects], "sum")
            positives = positives + len(cells)
        classification = (sigmoid_focal_loss(logits, wanted) * torch.maximum(counted, wanted)).sum()
        return Losses({"classification": classification, "box": box}, positives)

    def scored_boxes(self, predictions: Predictions, input_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return clip_boxes(self.boxes_xyxy(predictions, input_hw), input_hw), predictions.class_logits.float().sigmoid()

    def boxes_xyxy(self, predictions: Predictions, input_hw: tuple[int, int]) -> Tensor:
        """Each cell says how far away the four sides are, in strides; softplus keeps them above 0."""
        distances = STRIDE * F.softplus(predictions.box_deltas.float())
        return distances_to_boxes(distances, self.points_xy(input_hw))

    def points_xy(self, input_hw: tuple[int, int]) -> Tensor:
        """The centres of all cells, row by row, pixels of the input."""
        y, x = (torch.arange(STRIDE / 2, side, STRIDE, device=self.normalize.mean.device) for side in input_hw)
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


# From here on `centres-NAME` is a detector, with any timm backbone.
ON_TIMM["centres"] = CentresConfig()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--backbone-weights", default="imagenet")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", default="runs/own-detector")
    asked = parser.parse_args()
    onestage.train(
        asked.data,
        detector=f"centres-{asked.backbone}",
        backbone_weights=asked.backbone_weights,
        steps=asked.steps,
        out=asked.out,
    )


if __name__ == "__main__":
    main()
