"""SSD: Single Shot MultiBox Detector (Liu et al., ECCV 2016, arXiv 1512.02325).

    pictures -> normalize -> backbone -> (neck) -> extras -> head -> class logits and box deltas of every anchor

The paper's words, ours: default boxes, priors = anchors; conf = class logits; loc = box deltas; steps = strides;
min_sizes, max_sizes = an anchor size and the next one. Background is class logit 0.

On VGG-16 the network is the paper's. On other backbones the departures are values of `SSDConfig`: see `SSD300_LIGHT`.
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

from onestage.anchors import ClipAnchors, anchor_sizes_from_boxes, cell_shapes, level_shapes, ssd_anchors
from onestage.backbones import FeatureMaps
from onestage.boxes import clip_boxes, decode_deltas
from onestage.detectors.base import Detector, DetectorConfig, Normalization, Normalize, map_sizes, on_meta
from onestage.detectors.multibox_head import MultiBoxHead
from onestage.errors import UserError
from onestage.input_size import SizeHW, Stretch
from onestage.losses import multibox_loss
from onestage.matching import match_anchors
from onestage.necks import TopDown
from onestage.postprocess import Selection, select
from onestage.structures import Detections, LossSums, Predictions, Targets

Neck = Literal["none", "top_down"]

# Liu 2016, 2.2, in pixels as released: for VOC (ssd_pascal.py) and for COCO (ssd_coco.py, whose objects are smaller).
SSD300_VOC_SIZES = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0)
SSD300_COCO_SIZES = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
SSD512_VOC_SIZES = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
SSD512_COCO_SIZES = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)


@dataclass(frozen=True)
class Extra:
    """One more, coarser level: a 1x1 convolution to `reduced` channels, then a larger one to `channels`."""

    reduced: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    norm: bool = True  # has its own batch norm, in networks that have them; over 1 x 1 maps it leaves mostly noise


@dataclass(frozen=True)
class SSDConfig(DetectorConfig):
    """Every number of an SSD but its backbone and its number of classes.

    Attributes:
        image_size: side of the square input, pixels.
        extras: the levels after the backbone's, finest first.
        strides: of each level's anchors, pixels; cell i has its centre at (i + 0.5) * stride.
        anchor_sizes: one a level and one more, pixels.
        aspect_ratios: of each level's anchors (width / height) beside 1; each is laid on its side too.
        clip_anchors: bound the anchors' centres and sizes at the input ("all", as ssd.pytorch and lufficc/SSD), only
            the sizes (torchvision), or nothing (mmdetection, the paper's release).
        whole_pixels: anchors rounded to whole pixels of which the last one belongs to the anchor (mmdetection 1.x).
        variances: what deltas are divided by: of the centre, of the size.
        neck: "top_down" merges the backbone's maps (Lin 2017) before the extras and the head.
        neck_channels: of the maps that come out of it.
        batch_norm: in the layers that ImageNet weights seldom cover: the extras, and VGG-16's conv6 and conv7.
        background_prior: what the head's initial bias says of each anchor's chance to be background; None: zero bias.
        head_scale: standard deviation of the head's first outputs over maps of unit variance; None: Xavier (paper).
        negatives_per_positive: anchors that learn background, the hardest ones of each picture, per positive.
    """

    image_size: int
    extras: tuple[Extra, ...]
    strides: tuple[float, ...]
    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    clip_anchors: ClipAnchors = "all"
    whole_pixels: bool = False
    variances: tuple[float, float] = (0.1, 0.2)
    neck: Neck = "none"
    neck_channels: int = 128
    batch_norm: bool = False
    background_prior: float | None = None
    head_scale: float | None = None
    negatives_per_positive: float = 3.0

    FAMILY = "SSD"
    ANCHOR_FIELDS = frozenset({"strides", "anchor_sizes", "clip_anchors", "whole_pixels"})
    RECIPE_FIELDS = frozenset({"anchor_sizes", "neck", "negatives_per_positive"})

    def __post_init__(self) -> None:
        levels = len(self.strides)
        if len(self.anchor_sizes) != levels + 1 or not all(0 < size < math.inf for size in self.anchor_sizes):
            raise UserError(
                f"anchor sizes {', '.join(f'{size:g}' for size in self.anchor_sizes)}: expected {levels + 1} positive "
                f"numbers of pixels, one for each of {levels} levels and one more"
            )

    @property
    def input_resize(self) -> Stretch:
        return Stretch(self.image_size)

    def anchor_shapes(self) -> list[tuple[float, float]]:
        return level_shapes(self.anchor_sizes, self.aspect_ratios)

    def anchor_sizes_for(self, box_sizes_hw: Float[np.ndarray, "N 2"]) -> tuple[float, ...]:
        return anchor_sizes_from_boxes(box_sizes_hw, self.image_size, len(self.strides))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SSDConfig:
        return super().from_dict({**values, "extras": tuple(Extra(**extra) for extra in values["extras"])})

    def with_quick_start(self) -> SSDConfig:
        """The paper's network made to learn from fewer pictures.

        Without, at batch 8, VGG-16's first hundreds of steps go into unlearning the random scale of the outputs of its
        fresh layers: the maps of the original VGG-16 are in the hundreds.
        """
        return replace(self, batch_norm=True, background_prior=0.75, head_scale=0.3)


SSD300 = SSDConfig(
    image_size=300,
    extras=(
        Extra(256, 512, stride=2, padding=1),  # conv8, 10 x 10
        Extra(128, 256, stride=2, padding=1),  # conv9, 5 x 5
        Extra(128, 256),  # conv10, 3 x 3
        Extra(128, 256, norm=False),  # conv11, 1 x 1
    ),
    strides=(8, 16, 32, 64, 100, 300),
    anchor_sizes=SSD300_VOC_SIZES,
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)

SSD512 = SSDConfig(
    image_size=512,
    extras=(
        Extra(256, 512, stride=2, padding=1),  # conv8, 16 x 16
        Extra(128, 256, stride=2, padding=1),  # conv9, 8 x 8
        Extra(128, 256, stride=2, padding=1),  # conv10, 4 x 4
        Extra(128, 256, stride=2, padding=1),  # conv11, 2 x 2
        Extra(128, 256, kernel=4, padding=1, norm=False),  # conv12, 1 x 1
    ),
    strides=(8, 16, 32, 64, 128, 256, 512),
    anchor_sizes=SSD512_VOC_SIZES,
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)

# For backbones with maps at strides 8, 16 and 32, to be trained in minutes. Departures from the paper:
# - a top-down path of 128 channels: light backbones have few channels at stride 8, which know little of the context;
# - batch norm in the extras, and fewer channels;
# - the head starts at the class balance that hard negative mining shows it (3 of 4 anchors are background).
SSD300_LIGHT = replace(
    SSD300,
    extras=(
        Extra(64, 128, stride=2, padding=1),  # 5 x 5
        Extra(64, 128, stride=2, padding=1),  # 3 x 3
        Extra(64, 128),  # 1 x 1
    ),
    neck="top_down",
    neck_channels=128,
    batch_norm=True,
    background_prior=0.75,
)
SSD512_LIGHT = replace(
    SSD300_LIGHT,
    image_size=512,
    extras=(Extra(64, 128, stride=2, padding=1),) * 4,  # 8 x 8, 4 x 4, 2 x 2, 1 x 1
    strides=SSD512.strides,
    anchor_sizes=SSD512.anchor_sizes,
    aspect_ratios=SSD512.aspect_ratios,
)


class SSD(Detector):
    """Backbone maps, extra maps, one 3x3 head a map. Raw outputs only; see `losses` and `detect`.

    Args:
        name: as `onestage.build` takes it.
        config: every number.
        backbone: its maps are the first levels.
        num_classes: K, without background.
        normalization: what the backbone's weights were trained with.

    Raises:
        UserError: the backbone cannot take pictures of this size, or the levels do not fit the configuration.
    """

    evaluation_selection = Selection(score_threshold=0.01, iou_threshold=0.45, max_detections=200)  # Liu 2016, 3.1
    config: SSDConfig

    def __init__(
        self, name: str, config: SSDConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"{name}: {num_classes} classes; expected 1 or more, background not counted")
        self.name, self.config, self.num_classes = name, config, num_classes
        self.resize = config.input_resize
        self.normalize = Normalize(normalization)
        self.backbone = backbone
        self.neck = TopDown(backbone.channels, config.neck_channels) if config.neck == "top_down" else None
        channels = list(self.neck.channels if self.neck else backbone.channels)
        self.extras = nn.ModuleList()
        for extra in config.extras:
            self.extras.append(ExtraLayer(channels[-1], extra, config.batch_norm))
            channels.append(extra.channels)
        if not len(channels) == len(config.strides) == len(config.aspect_ratios):
            raise UserError(f"{name}: {len(channels)} maps, but the configuration has {len(config.strides)} levels")
        anchors_per_cell = [len(cell_shapes(1, 1, ratios)) for ratios in config.aspect_ratios]
        self.head = MultiBoxHead(channels, anchors_per_cell, num_classes, config.background_prior, config.head_scale)
        sizes_hw = map_sizes(name, on_meta(self).features, (config.image_size, config.image_size))
        self.levels = tuple((h, w, a) for (h, w), a in zip(sizes_hw, anchors_per_cell, strict=True))
        self.register_buffer("anchors", self._anchors(), persistent=False)

    def raw(self, images_normalised: Float[Tensor, "B 3 S S"]) -> Predictions:
        return self.head(self.features(images_normalised))

    def features(self, images_normalised: Float[Tensor, "B 3 S S"]) -> list[Tensor]:
        """One map a level, finest first."""
        maps = self.backbone(images_normalised)
        if self.neck is not None:
            maps = self.neck(maps)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps

    def cells(self, input_hw: SizeHW) -> tuple[tuple[int, int, int], ...]:
        return self.levels

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
            [(height, width) for height, width, _ in self.levels],
            self.config.strides,
            self.config.anchor_sizes,
            self.config.aspect_ratios,
            self.config.clip_anchors,
            self.config.whole_pixels,
        )


class ExtraLayer(nn.Module):
    """The layers of one `Extra`, each with ReLU."""

    def __init__(self, channels_in: int, extra: Extra, batch_norm: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, extra.reduced, kernel_size=1, bias=not batch_norm)
        self.reduce_norm = nn.BatchNorm2d(extra.reduced) if batch_norm else nn.Identity()
        batch_norm = batch_norm and extra.norm
        self.conv = nn.Conv2d(
            extra.reduced, extra.channels, extra.kernel, extra.stride, extra.padding, bias=not batch_norm
        )
        self.conv_norm = nn.BatchNorm2d(extra.channels) if batch_norm else nn.Identity()
        for conv in (self.reduce, self.conv):
            nn.init.xavier_uniform_(conv.weight)  # Liu 2016, 3
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        x = F.relu(self.reduce_norm(self.reduce(x)), inplace=True)
        return F.relu(self.conv_norm(self.conv(x)), inplace=True)
