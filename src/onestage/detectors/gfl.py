"""GFL: Generalized Focal Loss (Li et al., NeurIPS 2020, arXiv 2006.04388).

    images -> normalize -> backbone -> pyramid -> a class and a box branch, shared by all levels
             -> of every position: class logits, and of each side a distribution of its distance

One score stands for class and box: it learns the IoU of the position's box with its object. There is no background
logit, no anchor shape and no centerness. The square "anchors" serve ATSS to choose the positions that learn; their
centres are the positions. Distances are in strides of the level, from 0 to `reg_max`; a box has the mean of each
distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from onestage.anchors import pyramid_anchors
from onestage.assignment import assign_atss, assign_task_aligned
from onestage.backbones import FeatureMaps
from onestage.boxes import clip_boxes, distances_to_boxes
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
from onestage.necks import FPN, PAN
from onestage.postprocess import LevelCut
from onestage.quality_losses import expected_bin, gfl_loss
from onestage.selection import Selection
from onestage.settings import check_ranges, setting
from onestage.structures import Losses, Predictions, Targets

MAPS = 3  # of the backbone, at strides 8, 16 and 32
MOST_LEVELS = 6
CANDIDATES_A_LEVEL = 1000  # mmdetection's configs/gfl, nms_pre
Assignment = Literal["atss", "task-aligned"]
HeadNorm = Literal["group", "batch"]
PositionStyle = Literal["centred", "cornered"]  # in the middle of its cell, or on its upper left corner


@dataclass(frozen=True)
class GFLConfig(PyramidConfig):
    """Every setting of a GFL but its backbone and its number of classes. The defaults are the paper's, as released."""

    neck: Literal["fpn", "pan"] = setting("fpn", "fpn: a top-down path; pan: a bottom-up path behind it (Liu 2018)")
    levels: int = setting(5, "Maps of the pyramid, the first at stride 8; fpn makes 5, pan 3 or more")
    channels: int = setting(256, "Channels of the pyramid and of the branches")
    shared_depth: int = setting(0, "3x3 convolutions in front of the two branches")
    depth: int = setting(4, "3x3 convolutions of each branch before its last")
    norm: HeadNorm = setting("group", "Norm after each of them; each level has batch norms of its own")
    position_style: PositionStyle = setting("cornered", "Place of a position: its cell's upper left corner, or centre")
    reg_max: int = setting(16, "Largest distance of a side from its position, in strides of the level")
    assignment: Assignment = setting(
        "atss", "Positions that learn an object: atss by its place and size, task-aligned by what they predict"
    )
    atss_top_k: int = setting(9, "Candidates of each level for an object, nearest to its centre (atss)")
    atss_anchor_scale: float = setting(8.0, "Side of the squares that atss takes for the positions, in strides")
    aligned_top_k: int = setting(13, "Positions that learn an object (task-aligned)")
    aligned_alpha: float = setting(1.0, "Exponent of the score in a position's alignment (task-aligned)")
    aligned_beta: float = setting(6.0, "Exponent of the IoU in it")
    quality_beta: float = setting(2.0, "How fast the quality focal loss falls for what is known well")
    box_loss_weight: float = setting(2.0, "Weight of the GIoU loss; the quality focal loss has 1")
    distribution_loss_weight: float = setting(0.25, "Weight of the distribution focal loss")
    prior: float = setting(0.01, "Score that the head's first bias gives each position and class")

    FAMILY = "GFL"
    ANCHOR_FIELDS = frozenset({"position_style", "assignment"})
    # Li 2020's release and mmdetection's configs/gfl; `level_cut` cuts candidates.
    PAPERS_SELECTION = Selection(
        score_threshold=0.05,
        iou_threshold=0.6,
        candidates_per_class=MOST_LEVELS * CANDIDATES_A_LEVEL,
        max_detections=100,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        ranges = {
            "levels": (MAPS, MOST_LEVELS),
            "channels": (1, MOST_CHANNELS),
            "shared_depth": (0, MOST_LAYERS),
            "depth": (0, MOST_LAYERS),
            "reg_max": (1, 64),
            "atss_top_k": (1, 1000),
            "atss_anchor_scale": (1, 64),
            "aligned_top_k": (1, 1000),
            "aligned_alpha": (0, 16),
            "aligned_beta": (0, 16),
            "quality_beta": (1, 16),  # below 1 the gradient is infinite where the score is right
            "box_loss_weight": (0, math.inf),
            "distribution_loss_weight": (0, math.inf),
            "prior": (1e-6, 0.5),
        }
        check_ranges(self, ranges)
        if self.neck == "fpn" and self.levels != MAPS + 2:
            raise UserError(f"levels {self.levels}: the neck fpn makes {MAPS + 2}; set it so, or take the neck pan")
        if self.norm == "group":
            check_group_norms(self.channels)

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(8 * 2**level for level in range(self.levels))

    def build(self, name: str, num_classes: int, normalization: Normalization) -> GFL:
        return GFL(name, self, self.maps_of(name), num_classes, normalization)

    def made_for_data(self, backbone: str, *, pretrained: bool) -> MadeNetwork:
        batch_size, learning_rate = (16, 2e-3) if self.channels <= 128 else (4, 1e-3)
        made = self.made(batch_size, learning_rate, pretrained=pretrained)
        # docs/ledger.md, "The made recipe": COCO's AP is 0.3 points lower than at the paper's 0.6, AP50 1.8 higher;
        # both are higher with the backbone at the full rate.
        selection = self.PAPERS_SELECTION.changed(iou_threshold=0.5)
        return replace(made, backbone_learning_rate_factor=1.0, selection=selection)

    def laid_anchors(self, input_hw: SizeHW, map_sizes_hw: tuple[SizeHW, ...]) -> Float[Tensor, "A 4"]:
        """The squares that ATSS takes for the positions; their centres are the positions."""
        sizes = [self.atss_anchor_scale * stride for stride in self.strides]
        return pyramid_anchors(input_hw, map_sizes_hw, sizes, (1.0,), (1.0,), self.position_style)


GFL_PAPER = GFLConfig()

# For any other backbone, to be trained in minutes. Departures from the paper:
# - squares of 320 pixels; four levels, on which any object has its sides within 8 strides;
# - a PAN of 112 channels, and one convolution for both branches: at stride 8, where layers cost most, few of them;
# - task-aligned assignment, which needs no sizes and ranks positions by their boxes from the first steps on;
# - batch norms, in the backbone too, that learn.
GFL_LIGHT = replace(
    GFL_PAPER,
    image_size=320,
    edges=None,
    backbone_norm="batch",
    neck="pan",
    levels=4,
    channels=112,
    shared_depth=1,
    depth=0,
    norm="batch",
    position_style="centred",
    reg_max=8,
    assignment="task-aligned",
)


class GFL(PyramidDetector):
    """Backbone with maps at strides 8, 16, 32, pyramid, a class and a box branch; see `losses` and `detect`.

    Raises a UserError if the backbone cannot take images of this size.
    """

    config: GFLConfig
    anchors_per_cell = 1
    several_divisors = True

    def __init__(
        self, name: str, config: GFLConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__(name, config, backbone, num_classes, normalization)
        channels, levels = config.channels, config.levels
        if config.neck == "pan":
            self.neck = PAN(backbone.channels, channels, levels)
        else:
            self.neck = FPN(backbone.channels, channels, p6_from="p5", p7_relu=False)
        self.level_cut = LevelCut(config.strides, 1, CANDIDATES_A_LEVEL)
        self.shared = Tower(channels, config.shared_depth, config.norm, levels)
        self.class_branch = Branch(config, num_classes)
        self.box_branch = Branch(config, 4 * (config.reg_max + 1))
        self.scales = nn.ParameterList(torch.ones(()) for _ in range(levels))  # of the levels' distributions
        start_at_prior(self.class_branch.last, config.prior)
        self.check_maps()

    def raw(self, images_normalised: Float[Tensor, "B 3 H W"]) -> Predictions:
        levels = [self.shared(x, level) for level, x in enumerate(self.features(images_normalised))]
        logits = [by_anchor(self.class_branch(x, level), self.num_classes) for level, x in enumerate(levels)]
        sides = [self.box_branch(x, level) * self.scales[level] for level, x in enumerate(levels)]
        bins = 4 * (self.config.reg_max + 1)
        return Predictions(torch.cat(logits, dim=1), torch.cat([by_anchor(x, bins) for x in sides], dim=1))

    def features(self, images_normalised: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return self.neck(self.backbone(images_normalised))

    def class_layers(self) -> list[str]:
        return ["class_branch.last"]

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: SizeHW) -> Losses:
        config, anchors = self.config, self.anchors_cxcywh(input_hw)
        if config.assignment == "atss":
            level_sizes = [height * width for height, width, _ in self.cells(input_hw)]
            matches, quality = assign_atss(anchors, level_sizes, targets, top_k=config.atss_top_k), None
            of_object = config.atss_top_k * config.levels
        else:
            with torch.no_grad():
                scores, boxes_xyxy = predictions.class_logits.float().sigmoid(), self.boxes_xyxy(predictions, input_hw)
            exponents = {"alpha": config.aligned_alpha, "beta": config.aligned_beta}
            of_object = config.aligned_top_k
            matches, quality = assign_task_aligned(
                anchors[:, :2], scores, boxes_xyxy, targets, **exponents, top_k=of_object
            )
        losses = gfl_loss(
            predictions,
            matches,
            anchors[:, :2],
            anchors[:, 2] / config.atss_anchor_scale,
            most_positives=of_object * sum(len(target.labels) for target in targets),
            quality=quality,
            beta=config.quality_beta,
        )
        return losses.scaled(box=config.box_loss_weight, distribution=config.distribution_loss_weight)

    def boxes_xyxy(self, predictions: Predictions, input_hw: SizeHW) -> Float[Tensor, "B A 4"]:
        """Every position's box, in pixels of the input; it may reach outside."""
        anchors = self.anchors_cxcywh(input_hw)
        distances = expected_bin(predictions.box_deltas.float().unflatten(-1, (4, -1)))  # in strides
        return distances_to_boxes(distances * (anchors[:, 2:3] / self.config.atss_anchor_scale), anchors[:, :2])

    def scored_boxes(
        self, predictions: Predictions, input_hw: SizeHW
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A K"]]:
        boxes_xyxy = clip_boxes(self.boxes_xyxy(predictions, input_hw), input_hw)
        return boxes_xyxy, predictions.class_logits.float().sigmoid()


class Tower(nn.Module):
    """3x3 convolutions with norm and ReLU. All levels share the convolutions.

    Batch norms are each level's own, as in NAS-FPN's RetinaNet (Ghiasi 2019, arXiv 1904.07392) and EfficientDet as
    released (Tan 2020, arXiv 1911.09070): maps of different levels have different statistics.
    """

    def __init__(self, channels: int, depth: int, norm: HeadNorm, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(LevelNorm(channels, norm, levels) for _ in range(depth))
        for conv in self.convs:
            nn.init.normal_(conv.get_parameter("weight"), std=0.01)  # as RetinaNet's (Lin 2017, 4.1) and the release's

    def forward(self, x: Float[Tensor, "B C H W"], level: int) -> Float[Tensor, "B C H W"]:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x), level), inplace=True)
        return x


class LevelNorm(nn.Module):
    """A group norm for all levels, or a batch norm for each."""

    def __init__(self, channels: int, norm: HeadNorm, levels: int) -> None:
        super().__init__()
        own = (nn.BatchNorm2d(channels) for _ in range(levels))
        self.of_level = nn.ModuleList([nn.GroupNorm(NORM_GROUPS, channels)] if norm == "group" else own)

    def forward(self, x: Float[Tensor, "B C H W"], level: int) -> Float[Tensor, "B C H W"]:
        return self.of_level[level % len(self.of_level)](x)


class Branch(nn.Module):
    """A tower, and a 3x3 convolution to the outputs."""

    def __init__(self, config: GFLConfig, outputs: int) -> None:
        super().__init__()
        self.tower = Tower(config.channels, config.depth, config.norm, config.levels)
        self.last = nn.Conv2d(config.channels, outputs, 3, padding=1)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.get_parameter("bias"))

    def forward(self, x: Float[Tensor, "B C H W"], level: int) -> Float[Tensor, "B C2 H W"]:
        return self.last(self.tower(x, level))
