"""RetinaNet: Focal Loss for Dense Object Detection (Lin et al., ICCV 2017, arXiv 1708.02002).

    images -> normalize -> backbone -> feature pyramid P3..P7 -> two subnets, shared by all levels
             -> class logits and box deltas of every anchor

There is no background logit: each class is found or not by a sigmoid of its own.

ATSS (Zhang et al., CVPR 2020, arXiv 1912.02424) is a RetinaNet of one square anchor a cell that chooses its positives
by other rules: `ATSS_SETTINGS` are its settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from onestage.anchors import (
    COVERAGE_GAIN,
    AnchorStyle,
    anchor_coverage,
    pyramid_anchors,
    pyramid_shapes,
    pyramid_sizes_from_boxes,
)
from onestage.assignment import assign_atss
from onestage.backbones import FeatureMaps
from onestage.boxes import clip_boxes, decode_deltas
from onestage.detectors.base import (
    MOST_CHANNELS,
    MOST_LAYERS,
    MadeNetwork,
    Normalization,
    by_anchor,
)
from onestage.detectors.pyramid import NORM_GROUPS, PyramidConfig, PyramidDetector, check_group_norms, start_at_prior
from onestage.errors import UserError
from onestage.input_size import SizeHW
from onestage.losses import BoxLoss, centerness, focal_loss
from onestage.matching import BestTies, match_anchors
from onestage.necks import FPN, P6From
from onestage.postprocess import LevelCut
from onestage.selection import Selection
from onestage.settings import check_ranges, setting
from onestage.structures import Losses, Matches, Predictions, Targets

STRIDES = (8, 16, 32, 64, 128)  # of P3 to P7
LEVELS = len(STRIDES)
LONG_RATIOS = (5.0, 2.0, 1.0, 0.5, 0.2)  # for data whose objects are often much longer than broad; not in the paper
CANDIDATES_A_LEVEL = 1000  # Lin 2017, 4.1 "Inference"
SubnetNorm = Literal["none", "group"]
Assignment = Literal["max-iou", "atss"]


@dataclass(frozen=True)
class RetinaNetConfig(PyramidConfig):
    """Every setting of a RetinaNet but its backbone and its number of classes. The defaults are the paper's."""

    channels: int = setting(256, "Channels of the pyramid and of the subnets")
    subnet_depth: int = setting(4, "3x3 convolutions of each subnet before its last")
    subnet_norm: SubnetNorm = setting("none", "group: group norm after each of them (torchvision's second version)")
    p6_from: P6From = setting("c5", "Map that P6 is made of: c5 (paper) or p5")
    p7_relu: bool = setting(True, "ReLU before P7")
    anchor_sizes: tuple[float, ...] = setting((32.0, 64.0, 128.0, 256.0, 512.0), "Anchor size of each level, pixels")
    anchor_scales: tuple[float, ...] = setting(
        (1.0, 2 ** (1 / 3), 2 ** (2 / 3)), "Scales of a cell's anchors, of the level's size"
    )
    aspect_ratios: tuple[float, ...] = setting((2.0, 1.0, 0.5), "Anchor shapes, width / height")
    anchor_style: AnchorStyle = setting("centred", "How anchors lie in their cells: see AnchorStyle")
    variances: tuple[float, float] = setting((1.0, 1.0), "Divisors of the deltas: of the centre, of the size")
    assignment: Assignment = setting(
        "max-iou", "Positive anchors: max-iou by positive_iou, or atss by statistics of those near an object"
    )
    atss_top_k: int = setting(9, "Anchors of each level near an object that atss looks at, for each anchor of a cell")
    positive_iou: float = setting(0.5, "IoU with an object from which an anchor is positive")
    negative_iou: float = setting(0.4, "IoU with every object below which an anchor is negative")
    keep_best: bool = setting(False, "Each object's best anchor is positive at any IoU (torchvision; not in the paper)")
    best_iou: float = setting(0.0, "With keep_best: IoU with its best anchor below which an object does not keep it")
    best_ties: BestTies = setting(
        "one",
        "With keep_best, where several anchors are an object's best: one is positive, or all, for this object (all: "
        "mmdetection) or each for the object that it overlaps most (all_nearest: Detectron, torchvision)",
    )
    focal_alpha: float = setting(0.25, "Weight of positives in the focal loss; negatives have the rest to 1")
    focal_gamma: float = setting(2.0, "How fast the focal loss falls for what is known well")
    box_loss: BoxLoss = setting("smooth_l1", "Box loss: smooth_l1 or l1 of the deltas, or giou of the boxes")
    smooth_l1_beta: float = setting(1 / 9, "Difference below which smooth L1 is quadratic")
    box_loss_weight: float = setting(1.0, "Weight of the box loss; the classification loss has 1")
    centerness: bool = setting(
        False, "Predict how near an anchor is to its object's centre, and multiply scores by it (ATSS)"
    )
    level_scales: bool = setting(False, "Multiply the deltas of each level by a learned number (ATSS)")
    prior: float = setting(0.01, "Chance of an object that the head's first bias gives each anchor and class")

    FAMILY = "RetinaNet"
    ANCHOR_FIELDS = frozenset(
        {"anchor_sizes", "anchor_style", "assignment", "box_loss", "box_loss_weight", "variances"}
        | {"keep_best", "best_iou", "best_ties"}
    )
    # Lin 2017, 4.1: scores above 0.05, NMS at 0.5. The limit of 100 is COCO's. `level_cut` cuts candidates.
    PAPERS_SELECTION = Selection(
        score_threshold=0.05, iou_threshold=0.5, candidates_per_class=LEVELS * CANDIDATES_A_LEVEL, max_detections=100
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.anchor_sizes) != LEVELS or not all(0 < size < math.inf for size in self.anchor_sizes):
            raise UserError(
                f"anchor sizes {', '.join(f'{size:g}' for size in self.anchor_sizes)}: expected {LEVELS} positive "
                f"numbers of pixels, one for each of {LEVELS} levels"
            )
        if not self.aspect_ratios or not all(0 < ratio < math.inf for ratio in self.aspect_ratios):
            raise UserError(f"aspect ratios {self.aspect_ratios}: expected positive numbers, width / height")
        ranges = {"channels": (1, MOST_CHANNELS), "subnet_depth": (0, MOST_LAYERS)}
        check_ranges(self, {**ranges, "atss_top_k": (1, 1000), "best_iou": (0, 1)})
        if self.centerness and self.box_loss != "giou":
            raise UserError(f"box_loss {self.box_loss}: centerness weighs the loss giou; set box_loss so")
        if self.subnet_norm == "group":
            check_group_norms(self.channels)

    @property
    def strides(self) -> tuple[int, ...]:
        return STRIDES

    def build(self, name: str, num_classes: int, normalization: Normalization) -> RetinaNet:
        return RetinaNet(name, self, self.maps_of(name), num_classes, normalization)

    def made_for_data(self, backbone: str, *, pretrained: bool) -> MadeNetwork:
        batch_size = 16 if self.channels <= 128 else 4  # the paper's, at 800 pixels, takes 2 GiB an image
        return self.made(batch_size, 1e-3, pretrained=pretrained)

    def laid_anchors(self, input_hw: SizeHW, map_sizes_hw: tuple[SizeHW, ...]) -> Float[Tensor, "A 4"]:
        shapes = (self.anchor_sizes, self.anchor_scales, self.aspect_ratios)
        return pyramid_anchors(input_hw, map_sizes_hw, *shapes, self.anchor_style)

    def anchor_shapes(self) -> list[tuple[float, float]]:
        return [
            shape
            for size in self.anchor_sizes
            for shape in pyramid_shapes(size, self.anchor_scales, self.aspect_ratios)
        ]

    def anchors_for(self, box_sizes_hw: Float[np.ndarray, "N 2"]) -> dict[str, Any]:
        """Sizes, and `LONG_RATIOS` where they meet clearly more of the boxes than the paper's three do."""
        usual: dict[str, Any] = {"anchor_sizes": self._sizes_for(box_sizes_hw, self.aspect_ratios)}
        long = {"anchor_sizes": self._sizes_for(box_sizes_hw, LONG_RATIOS), "aspect_ratios": LONG_RATIOS}
        covered, covered_by_long = (
            anchor_coverage(box_sizes_hw, self.adjusted(settings).anchor_shapes()) for settings in (usual, long)
        )
        return long if covered_by_long >= covered + COVERAGE_GAIN else usual

    def _sizes_for(self, box_sizes_hw: Float[np.ndarray, "N 2"], aspect_ratios: tuple[float, ...]) -> tuple[float, ...]:
        return pyramid_sizes_from_boxes(box_sizes_hw, STRIDES, self.anchor_scales, aspect_ratios)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RetinaNetConfig:
        """As every detector's. Version 0.1 wrote `resize`: `{"side": ...}` or `{"shortest": ..., "longest": ...}`."""
        values = dict(values)
        resize = values.pop("resize", None)
        if isinstance(resize, Mapping) and "side" in resize:
            values |= {"image_size": resize["side"], "edges": None}
        elif isinstance(resize, Mapping):
            values |= {"image_size": None, "edges": [resize["shortest"], resize["longest"]]}
        return super().from_dict(values)


RETINANET = RetinaNetConfig()

# For any other backbone, to be trained in minutes. Departures from the paper:
# - squares of 320 pixels, half the channels; anchors as many times their stride as the paper's;
# - group norm in the subnets, which start fresh; batch norms of the backbone that learn;
# - every object has an anchor: on small images with long objects many have none at IoU 0.5.
RETINANET_LIGHT = replace(
    RETINANET,
    image_size=320,
    edges=None,
    backbone_norm="batch",
    channels=128,
    subnet_norm="group",
    keep_best=True,
)


# Zhang 2020, 3.3 and 4.1, with the improvements of its Table 1; as mmdetection's configs/atss.
ATSS_SETTINGS: dict[str, Any] = {
    "p6_from": "p5",
    "p7_relu": False,
    "subnet_norm": "group",
    "anchor_sizes": tuple(8.0 * stride for stride in STRIDES),
    "anchor_scales": (1.0,),
    "aspect_ratios": (1.0,),
    "variances": (0.1, 0.2),
    "assignment": "atss",
    "box_loss": "giou",
    "box_loss_weight": 2.0,
    "centerness": True,
    "level_scales": True,
}


class RetinaNet(PyramidDetector):
    """Backbone with maps at strides 8, 16, 32, feature pyramid, a class and a box subnet; see `losses` and `detect`.

    Raises a UserError if the backbone cannot take images of this size.
    """

    config: RetinaNetConfig

    def __init__(
        self, name: str, config: RetinaNetConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__(name, config, backbone, num_classes, normalization)
        self.fpn = FPN(backbone.channels, config.channels, config.p6_from, config.p7_relu)
        self.anchors_per_cell = len(config.anchor_scales) * len(config.aspect_ratios)
        self.level_cut = LevelCut(STRIDES, self.anchors_per_cell, CANDIDATES_A_LEVEL)
        subnet = (config.channels, config.subnet_depth, config.subnet_norm)
        self.class_subnet = Subnet(*subnet, self.anchors_per_cell * num_classes)
        self.box_subnet = Subnet(*subnet, self.anchors_per_cell * 4)
        # ATSS: from the box subnet's last map (Zhang 2020's release)
        self.centerness = Subnet(config.channels, 0, "none", self.anchors_per_cell) if config.centerness else None
        self.level_scales = nn.ParameterList(torch.ones(()) for _ in (STRIDES if config.level_scales else ()))
        self.several_divisors = config.centerness
        start_at_prior(self.class_subnet.last, config.prior)
        self.check_maps()

    def raw(self, images_normalised: Float[Tensor, "B 3 H W"]) -> Predictions:
        """The centerness, where there is one, is behind the logits of the classes."""
        levels = self.features(images_normalised)
        logits = [by_anchor(self.class_subnet(x), self.num_classes) for x in levels]
        of_boxes = [self.box_subnet.layers(x) for x in levels]
        deltas = [by_anchor(self.box_subnet.last(x), 4) for x in of_boxes]
        if len(self.level_scales):
            deltas = [of_level * scale for of_level, scale in zip(deltas, self.level_scales, strict=True)]
        if self.centerness is not None:
            centred = [by_anchor(self.centerness(x), 1) for x in of_boxes]
            logits = [torch.cat(both, dim=2) for both in zip(logits, centred, strict=True)]
        return Predictions(torch.cat(logits, dim=1), torch.cat(deltas, dim=1))

    def features(self, images_normalised: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """P3 to P7."""
        return self.fpn(self.backbone(images_normalised))

    def class_layers(self) -> list[str]:
        return ["class_subnet.last"]

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: SizeHW) -> Losses:
        config, anchors = self.config, self.anchors_cxcywh(input_hw)
        matches = self.matches(anchors, targets, input_hw)
        centred = centerness(anchors[:, :2], matches) if config.centerness else None
        losses = focal_loss(
            Predictions(predictions.class_logits[..., : self.num_classes], predictions.box_deltas),
            matches,
            anchors,
            config.variances,
            alpha=config.focal_alpha,
            gamma=config.focal_gamma,
            box_loss=config.box_loss,
            smooth_l1_beta=config.smooth_l1_beta,
            box_weights=centred,
        ).scaled(box=config.box_loss_weight)
        if centred is None:
            return losses
        found = predictions.class_logits[..., self.num_classes].float()
        of_anchors = F.binary_cross_entropy_with_logits(found, centred, reduction="none")
        summed = of_anchors.masked_fill(~matches.positive, 0).sum()
        return replace(losses, sums={**losses.sums, "centerness": summed})

    def matches(self, anchors: Float[Tensor, "A 4"], targets: Sequence[Targets], input_hw: SizeHW) -> Matches:
        """The anchors that learn an object, and those that learn background."""
        config = self.config
        if config.assignment == "atss":
            sizes = [height * width * anchors_a_cell for height, width, anchors_a_cell in self.cells(input_hw)]
            return assign_atss(anchors, sizes, targets, top_k=config.atss_top_k * self.anchors_per_cell)
        return match_anchors(
            anchors,
            targets,
            positive_iou=config.positive_iou,
            negative_iou=config.negative_iou,
            keep_best=config.keep_best,
            best_iou=config.best_iou,
            best_ties=config.best_ties,
        )

    def scored_boxes(
        self, predictions: Predictions, input_hw: SizeHW
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A K"]]:
        anchors = self.anchors_cxcywh(input_hw)
        boxes_xyxy = decode_deltas(predictions.box_deltas.float(), anchors, self.config.variances)
        scores = predictions.class_logits.float().sigmoid()
        if self.centerness is not None:
            scores = scores[..., :-1] * scores[..., -1:]
        return clip_boxes(boxes_xyxy, input_hw), scores


class Subnet(nn.Module):
    """3x3 convolutions with ReLU, then one to the outputs. The same weights on every level (Lin 2017, 4)."""

    def __init__(self, channels: int, depth: int, norm: SubnetNorm, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_subnet_layer(channels, norm) for _ in range(depth)))
        self.last = nn.Conv2d(channels, outputs, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)  # Lin 2017, 4.1 "Initialization"
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H W"]:
        return self.last(self.layers(x))


def _subnet_layer(channels: int, norm: SubnetNorm) -> nn.Sequential:
    if norm == "none":
        return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True))
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(NORM_GROUPS, channels), nn.ReLU(inplace=True))
