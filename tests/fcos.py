"""FCOS (Tian et al., ICCV 2019, arXiv 1904.01355), smaller: an anchor-free detector outside of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from onestage.backbones import TimmMaps
from onestage.boxes import clip_boxes
from onestage.detectors.base import Detector, DetectorConfig, Normalization, by_anchor
from onestage.input_size import SizeHW, Stretch
from onestage.settings import setting
from onestage.structures import Losses, Predictions, Targets

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class FCOSConfig(DetectorConfig):
    image_size: int = setting(96, "Side of the square input, pixels")
    centerness_weight: float = setting(1.0, "Weight of the centerness loss")

    FAMILY = "FCOS"

    @property
    def input_resize(self) -> Stretch:
        return Stretch(self.image_size)

    def build(self, name: str, num_classes: int, normalization: Normalization) -> FCOS:
        return FCOS(name, self, TimmMaps(name.partition("-")[2]), num_classes, normalization)


class FCOS(Detector):
    """A 3x3 head a level: classes and centerness of each cell, distances from its centre to four sides."""

    config: FCOSConfig

    def __init__(
        self, name: str, config: FCOSConfig, backbone: TimmMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__(name, config, backbone, num_classes, normalization)
        self.class_convs = nn.ModuleList(nn.Conv2d(c, num_classes + 1, 3, padding=1) for c in backbone.channels)
        self.box_convs = nn.ModuleList(nn.Conv2d(c, 4, 3, padding=1) for c in backbone.channels)

    def raw(self, images_normalised: Tensor) -> Predictions:
        maps = self.backbone(images_normalised)
        logits = [by_anchor(conv(x), self.num_classes + 1) for conv, x in zip(self.class_convs, maps, strict=True)]
        distances = [by_anchor(conv(x), 4) for conv, x in zip(self.box_convs, maps, strict=True)]
        return Predictions(torch.cat(logits, dim=1), torch.cat(distances, dim=1))

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: SizeHW) -> Losses:
        points, boxes_xyxy = self.points(input_hw), self.boxes_xyxy(predictions, input_hw)
        sums = {name: torch.zeros((), device=points.device) for name in ("classification", "box", "centerness")}
        positives = torch.zeros((), dtype=torch.int64, device=points.device)
        for logits, found_xyxy, target in zip(predictions.class_logits.float(), boxes_xyxy, targets, strict=True):
            sides = torch.cat(
                [points[:, None] - target.boxes_xyxy[:, :2], target.boxes_xyxy[:, 2:] - points[:, None]], 2
            )
            inside = (sides.amin(dim=2) > 0) & ~target.ignored  # (A, N)
            positive, wanted = inside.any(dim=1), torch.zeros_like(logits[:, :-1])
            owner = inside.int().argmax(dim=1) if len(target.labels) else positive.long()
            wanted[positive, target.labels[owner[positive]]] = 1.0
            sums["classification"] += sigmoid_focal_loss(logits[:, :-1], wanted, reduction="sum")
            if positive.any():
                left, top, right, bottom = sides[positive, owner[positive]].unbind(1)
                centerness = (_ratio(left, right) * _ratio(top, bottom)).sqrt()
                sums["centerness"] += F.binary_cross_entropy_with_logits(
                    logits[positive, -1], centerness, reduction="sum"
                )
                boxes = target.boxes_xyxy[owner[positive]]
                sums["box"] += generalized_box_iou_loss(found_xyxy[positive], boxes, reduction="sum")
            positives += positive.sum()
        return Losses(sums, positives).scaled(centerness=self.config.centerness_weight)

    def scored_boxes(self, predictions: Predictions, input_hw: SizeHW) -> tuple[Tensor, Tensor]:
        scores = predictions.class_logits.float().sigmoid()
        return clip_boxes(self.boxes_xyxy(predictions, input_hw), input_hw), (
            scores[..., :-1] * scores[..., -1:]
        ).sqrt()

    def boxes_xyxy(self, predictions: Predictions, input_hw: SizeHW) -> Tensor:
        points, distances = self.points(input_hw), predictions.box_deltas.float().clamp(max=4).exp() * 8
        return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)

    def points(self, input_hw: SizeHW) -> Tensor:
        """(A, 2): centres of all cells, x and y in pixels of the input."""
        grids = [torch.meshgrid(*(torch.arange(s / 2, side, s) for side in input_hw), indexing="ij") for s in STRIDES]
        return torch.cat([torch.stack([x, y], dim=-1).flatten(0, 1) for y, x in grids]).to(self.normalize.mean.device)


def _ratio(first: Tensor, second: Tensor) -> Tensor:
    return torch.minimum(first, second) / torch.maximum(first, second)
