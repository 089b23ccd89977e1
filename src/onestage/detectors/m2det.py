"""M2Det: a Single-Shot Object Detector based on Multi-Level Feature Pyramid Network (Zhao et al., AAAI 2019,
arXiv 1811.04533).

    pictures -> normalize -> backbone, two maps -> MLFPN (see `necks.mlfpn`) -> SSD's head on six maps
             -> class logits and box deltas of every anchor

Anchors, matching, loss and background logit are SSD's. The network is the authors' release
(github.com/qijiezhao/M2Det); where the paper differs, that is a value of `M2DetConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from onestage.anchors import ClipAnchors, anchor_sizes_from_boxes, cell_shapes, level_shapes, ssd_anchors
from onestage.backbones import FeatureMaps
from onestage.boxes import clip_boxes, decode_deltas
from onestage.detectors.base import Detector, DetectorConfig, Normalization, Normalize, map_sizes, on_meta
from onestage.detectors.multibox_head import MultiBoxHead
from onestage.errors import UserError
from onestage.input_size import SizeHW, Stretch
from onestage.losses import multibox_loss
from onestage.matching import match_anchors
from onestage.necks import MLFPN
from onestage.postprocess import Selection, select
from onestage.structures import Detections, LossSums, Predictions, Targets

SCALES = 6


@dataclass(frozen=True)
class M2DetConfig(DetectorConfig):
    """Every number of an M2Det but its backbone and its number of classes.

    Attributes:
        image_size: side of the square input, pixels.
        strides: of each scale's anchors, pixels; cell i has its centre at (i + 0.5) * stride.
        anchor_sizes: one a scale and one more, pixels.
        aspect_ratios: of each scale's anchors (width / height) beside 1; each is laid on its side too.
        clip_anchors, whole_pixels: as in SSD's configuration.
        variances: what deltas are divided by: of the centre, of the size.
        channels, num_levels: see `MLFPN`.
        shared_reduction, sfam, shared_sfam: see `MLFPN`; as they stand, the released code's, not the paper's.
        resnet_stages: the two stages of a ResNet that are read. The release reads 2 and 4, and lets stage 3 keep the
            size of stage 2, so that the second map has stride 16 all the same. (2, 3) is the network as it was trained
            on ImageNet.
        conv4_3_norm: L2Norm on VGG-16's conv4_3, as in SSD; not in the release.
        batch_norm: in VGG-16's conv6 and conv7, which ImageNet weights seldom cover.
        background_prior, head_scale: of the head's first outputs, as in SSD's configuration.
        negatives_per_positive: anchors that learn background, the hardest ones of each picture, per positive.
        checkpoint_activations: see `MLFPN`.
    """

    image_size: int
    strides: tuple[float, ...]
    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...] = ((2.0, 3.0),) * SCALES
    clip_anchors: ClipAnchors = "all"
    whole_pixels: bool = False
    variances: tuple[float, float] = (0.1, 0.2)
    channels: int = 256
    num_levels: int = 8
    shared_reduction: bool = True
    sfam: bool = False
    shared_sfam: bool = True
    resnet_stages: tuple[int, int] = (2, 4)
    conv4_3_norm: bool = False
    batch_norm: bool = False
    background_prior: float | None = None
    head_scale: float | None = None
    negatives_per_positive: float = 3.0
    checkpoint_activations: bool = False

    FAMILY = "M2Det"
    ANCHOR_FIELDS = frozenset({"strides", "anchor_sizes", "clip_anchors", "whole_pixels"})
    RECIPE_FIELDS = frozenset({"anchor_sizes", "checkpoint_activations", "negatives_per_positive", "sfam"})

    def __post_init__(self) -> None:
        if len(self.anchor_sizes) != SCALES + 1 or not all(0 < size < math.inf for size in self.anchor_sizes):
            raise UserError(
                f"anchor sizes {', '.join(f'{size:g}' for size in self.anchor_sizes)}: expected {SCALES + 1} positive "
                f"numbers of pixels, one for each of {SCALES} scales and one more"
            )

    @property
    def input_resize(self) -> Stretch:
        return Stretch(self.image_size)

    def anchor_shapes(self) -> list[tuple[float, float]]:
        return level_shapes(self.anchor_sizes, self.aspect_ratios)

    def anchor_sizes_for(self, box_sizes_hw: Float[np.ndarray, "N 2"]) -> tuple[float, ...]:
        return anchor_sizes_from_boxes(box_sizes_hw, self.image_size, len(self.strides))

    def with_quick_start(self) -> M2DetConfig:
        """Batch norms in VGG-16's fresh layers, and a head that starts at the class balance that mining shows it."""
        return replace(self, batch_norm=True, background_prior=0.75, head_scale=0.3)


def _released(image_size: int, step_pattern: tuple[int, ...], size_pattern: tuple[float, ...]) -> M2DetConfig:
    """By the words of the release's configurations (configs/m2det*_vgg.py): sizes are fractions of the input."""
    sizes = tuple(round(fraction * image_size, 4) for fraction in size_pattern)
    return M2DetConfig(image_size=image_size, strides=step_pattern, anchor_sizes=sizes)


M2DET320 = _released(320, (8, 16, 32, 64, 107, 320), (0.08, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))
M2DET512 = _released(512, (8, 16, 32, 64, 128, 256), (0.06, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))
M2DET704 = _released(704, (8, 16, 32, 64, 117, 176), (0.04, 0.11, 0.23, 0.39, 0.58, 0.80, 1.05))
M2DET800 = _released(800, (8, 16, 32, 62, 115, 160), (0.04, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))


class M2Det(Detector):
    """Two maps of a backbone, the multi-level pyramid, one 3x3 head a scale. Raw outputs only; see `losses`, `detect`.

    Args:
        name: as `onestage.build` takes it.
        config: every number.
        backbone: a map at stride 8 and one at stride 16.
        num_classes: K, without background.
        normalization: what the backbone's weights were trained with.
    """

    # Zhao 2019, 3.3: linear soft-NMS. The release drops scores below 0.1, which costs recall that AP counts.
    evaluation_selection = Selection(score_threshold=0.01, iou_threshold=0.45, nms="soft-linear", max_detections=200)
    config: M2DetConfig

    def __init__(
        self, name: str, config: M2DetConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"{name}: {num_classes} classes; expected 1 or more, background not counted")
        self.name, self.config, self.num_classes = name, config, num_classes
        self.resize = config.input_resize
        self.normalize = Normalize(normalization)
        self.backbone = backbone
        shallow_channels, deep_channels = backbone.channels
        self.mlfpn = MLFPN(
            (shallow_channels, deep_channels),
            config.channels,
            config.num_levels,
            SCALES,
            shared_reduction=config.shared_reduction,
            sfam=config.sfam,
            shared_sfam=config.shared_sfam,
            checkpoint_activations=config.checkpoint_activations,
        )
        anchors_per_cell = [len(cell_shapes(1, 1, ratios)) for ratios in config.aspect_ratios]
        self.head = MultiBoxHead(
            self.mlfpn.channels, anchors_per_cell, num_classes, config.background_prior, config.head_scale
        )
        sizes_hw = map_sizes(name, on_meta(self).features, (config.image_size, config.image_size))
        self.scales = tuple((h, w, a) for (h, w), a in zip(sizes_hw, anchors_per_cell, strict=True))
        self.register_buffer("anchors", self._anchors(), persistent=False)

    def raw(self, images_normalised: Float[Tensor, "B 3 S S"]) -> Predictions:
        return self.head(self.features(images_normalised))

    def features(self, images_normalised: Float[Tensor, "B 3 S S"]) -> list[Tensor]:
        """One map a scale, finest first."""
        return self.mlfpn(self.backbone(images_normalised))

    def cells(self, input_hw: SizeHW) -> tuple[tuple[int, int, int], ...]:
        return self.scales

    def anchors_cxcywh(self, input_hw: SizeHW) -> Float[Tensor, "A 4"]:
        return self.anchors

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: SizeHW) -> LossSums:
        matches = match_anchors(self.anchors, targets, positive_iou=0.5, negative_iou=0.5, keep_best=True)
        ratio = self.config.negatives_per_positive
        return multibox_loss(predictions, matches, self.anchors, self.config.variances, ratio)

    @torch.no_grad()
    def detect(self, predictions: Predictions, selection: Selection, input_hw: SizeHW) -> list[Detections]:
        boxes_xyxy = decode_deltas(predictions.box_deltas.float(), self.anchors, self.config.variances)
        scores = predictions.class_logits.float().softmax(dim=-1)[..., 1:]  # background is logit 0
        return select(clip_boxes(boxes_xyxy, input_hw), scores, selection)

    def lay_anchors(self) -> None:
        self.anchors = self._anchors().to(self.anchors.device)

    def _anchors(self) -> Tensor:
        return ssd_anchors(
            self.config.image_size,
            [(height, width) for height, width, _ in self.scales],
            self.config.strides,
            self.config.anchor_sizes,
            self.config.aspect_ratios,
            self.config.clip_anchors,
            self.config.whole_pixels,
        )
