"""A loss of your own: an SSD whose boxes learn the complete IoU (Zheng et al. 2020) in place of smooth L1.

    python examples/own_loss.py MY-DATA --steps 500

A detector says in `losses` what it learns: undivided sums by name, and what the trainer divides them by. The log, the
report and experiment logs take the names as they come. A program that loads the model has to import this file first.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from torchvision.ops import complete_box_iou_loss

import onestage
from onestage.backbones import TimmMaps
from onestage.boxes import decode_deltas
from onestage.detectors import ON_TIMM, Normalization, SSDConfig, detector_config
from onestage.detectors.ssd import SSD
from onestage.losses import multibox_loss
from onestage.matching import match_anchors
from onestage.settings import setting
from onestage.structures import Losses, Predictions, Targets


@dataclass(frozen=True, kw_only=True)
class IoUSSDConfig(SSDConfig):
    """SSD's settings and one more."""

    iou_loss_weight: float = setting(2.0, "Weight of the box loss")

    def build(self, name: str, num_classes: int, normalization: Normalization) -> SSD:
        return IoUSSD(name, self, TimmMaps(name.partition("-")[2]), num_classes, normalization)


class IoUSSD(SSD):
    config: IoUSSDConfig

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: tuple[int, int]) -> Losses:
        anchors, variances = self.anchors_cxcywh(input_hw), self.config.variances
        matches = match_anchors(anchors, targets)
        usual = multibox_loss(predictions, matches, anchors, variances)
        found_xyxy = decode_deltas(predictions.box_deltas.float(), anchors, variances)
        of_objects = matches.positive
        iou = complete_box_iou_loss(found_xyxy[of_objects], matches.boxes_xyxy[of_objects], reduction="sum")
        sums = {"classification": usual.sums["classification"], "complete_iou": self.config.iou_loss_weight * iou}
        return Losses(sums, usual.divisor)


# From here on `iou300-NAME` is a detector, with any timm backbone.
ON_TIMM["iou300"] = IoUSSDConfig(**vars(detector_config("ssd300-tf_efficientnet_lite0")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--backbone-weights", default="imagenet")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--iou-loss-weight", type=float, default=2.0)
    parser.add_argument("--out", default="runs/own-loss")
    asked = parser.parse_args()
    onestage.train(
        asked.data,
        detector=f"iou300-{asked.backbone}",
        backbone_weights=asked.backbone_weights,
        steps=asked.steps,
        out=asked.out,
        settings={"iou_loss_weight": asked.iou_loss_weight},
    )


if __name__ == "__main__":
    main()
