"""What SSD brought and M2Det took over (Liu 2016, 2): the head, anchors on a square input, matching, hard negatives.

A detector of this kind says how images become maps; all from the maps on is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from onestage.anchors import ClipAnchors, anchor_sizes_from_boxes, cell_shapes, level_shapes, ssd_anchors
from onestage.boxes import clip_boxes, decode_deltas
from onestage.detectors.base import Detector, DetectorConfig, by_anchor, map_sizes, on_meta
from onestage.errors import UserError
from onestage.input_size import SizeHW, Stretch
from onestage.losses import multibox_loss
from onestage.matching import match_anchors
from onestage.structures import Losses, Predictions, Targets

MATCH_IOU = 0.5  # Liu 2016, 2.2; each object's best anchor matches it at any IoU


@dataclass(frozen=True, kw_only=True)
class MultiBoxConfig(DetectorConfig):
    """The numbers from the maps on.

    Attributes:
        image_size: side of the square input, pixels.
        strides: of each level's anchors, pixels; cell i has its centre at (i + 0.5) * stride.
        anchor_sizes: one a level and one more, pixels.
        aspect_ratios: of each level's anchors (width / height) beside 1; each is laid on its side too.
        clip_anchors: bound the anchors' centres and sizes at the input ("all", as ssd.pytorch and lufficc/SSD), only
            the sizes (torchvision), or nothing (mmdetection, the paper's release).
        whole_pixels: anchors rounded to whole pixels of which the last one belongs to the anchor (mmdetection 1.x).
        variances: what deltas are divided by: of the centre, of the size.
        background_prior: what the head's initial bias says of each anchor's chance to be background; None: zero bias.
        head_scale: standard deviation of the head's first outputs over maps of unit variance; None: Xavier (paper).
        negatives_per_positive: anchors that learn background, the hardest ones of each image, per positive.
    """

    image_size: int
    strides: tuple[float, ...]
    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    clip_anchors: ClipAnchors = "all"
    whole_pixels: bool = False
    variances: tuple[float, float] = (0.1, 0.2)
    background_prior: float | None = None
    head_scale: float | None = None
    negatives_per_positive: float = 3.0

    ANCHOR_FIELDS = frozenset({"strides", "anchor_sizes", "clip_anchors", "whole_pixels"})
    RECIPE_FIELDS = frozenset({"anchor_sizes", "negatives_per_positive"})

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

    def anchors_for(self, box_sizes_hw: Float[np.ndarray, "N 2"]) -> dict[str, Any]:
        return {"anchor_sizes": anchor_sizes_from_boxes(box_sizes_hw, self.image_size, len(self.strides))}


class MultiBoxDetector(Detector):
    """One 3x3 head a map. Background is class logit 0. Subclasses make `features`, then call `add_head`."""

    config: MultiBoxConfig
    head: MultiBoxHead
    levels: tuple[tuple[int, int, int], ...]  # height, width and anchors of a cell of each map
    anchors: Float[Tensor, "A 4"]

    def features(self, images_normalised: Float[Tensor, "B 3 S S"]) -> list[Tensor]:
        """One map a level, finest first."""
        raise NotImplementedError

    def add_head(self, channels: Sequence[int]) -> None:
        """The last part of the network, over maps of so many channels, and the anchors of their cells.

        Raises:
            UserError: the maps do not fit the configuration, or the backbone can't take images of this size.
        """
        config = self.config
        if not len(channels) == len(config.strides) == len(config.aspect_ratios):
            raise UserError(
                f"{self.name}: {len(channels)} maps, but the configuration has {len(config.strides)} levels"
            )
        per_cell = [len(cell_shapes(1, 1, ratios)) for ratios in config.aspect_ratios]
        self.head = MultiBoxHead(channels, per_cell, self.num_classes, config.background_prior, config.head_scale)
        sizes_hw = map_sizes(self.name, on_meta(self).features, (config.image_size, config.image_size))
        self.levels = tuple((h, w, a) for (h, w), a in zip(sizes_hw, per_cell, strict=True))
        self.register_buffer("anchors", self._anchors(), persistent=False)

    def raw(self, images_normalised: Float[Tensor, "B 3 S S"]) -> Predictions:
        return self.head(self.features(images_normalised))

    def cells(self, input_hw: SizeHW) -> tuple[tuple[int, int, int], ...]:
        return self.levels

    def anchors_cxcywh(self, input_hw: SizeHW) -> Float[Tensor, "A 4"]:
        return self.anchors

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: SizeHW) -> Losses:
        matches = match_anchors(self.anchors, targets, positive_iou=MATCH_IOU, negative_iou=MATCH_IOU, keep_best=True)
        ratio = self.config.negatives_per_positive
        return multibox_loss(predictions, matches, self.anchors, self.config.variances, ratio)

    def scored_boxes(
        self, predictions: Predictions, input_hw: SizeHW
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A K"]]:
        boxes_xyxy = decode_deltas(predictions.box_deltas.float(), self.anchors, self.config.variances)
        scores = predictions.class_logits.float().softmax(dim=-1)[..., 1:]  # background is logit 0
        return clip_boxes(boxes_xyxy, input_hw), scores

    def lay_anchors(self) -> None:
        self.anchors = self._anchors().to(self.anchors.device)

    def _anchors(self) -> Float[Tensor, "A 4"]:
        return ssd_anchors(
            self.config.image_size,
            [(height, width) for height, width, _ in self.levels],
            self.config.strides,
            self.config.anchor_sizes,
            self.config.aspect_ratios,
            self.config.clip_anchors,
            self.config.whole_pixels,
        )


class MultiBoxHead(nn.Module):
    """Two 3x3 convolutions a map: class logits and box deltas of each anchor of each cell (Liu 2016, 2.1).

    Output channels are ordered (anchor, class) and (anchor, coordinate).
    """

    def __init__(
        self,
        channels: Sequence[int],
        anchors_per_cell: Sequence[int],
        num_classes: int,
        background_prior: float | None,
        scale: float | None,
    ) -> None:
        super().__init__()
        self.num_logits = num_classes + 1
        levels = list(zip(channels, anchors_per_cell, strict=True))
        class_convs = [nn.Conv2d(c, a * self.num_logits, 3, padding=1) for c, a in levels]
        box_convs = [nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels]
        for conv in (*class_convs, *box_convs):
            nn.init.zeros_(conv.get_parameter("bias"))
            if scale is None:
                nn.init.xavier_uniform_(conv.weight)  # Liu 2016, 3
            else:
                nn.init.normal_(conv.weight, std=scale / conv.weight[0].numel() ** 0.5)
        if background_prior is not None:
            # softmax = prior: exp(bias) / (exp(bias) + K) = prior
            bias = math.log(background_prior / (1 - background_prior) * num_classes)
            for conv in class_convs:
                nn.init.constant_(conv.get_parameter("bias")[:: self.num_logits], bias)
        self.class_convs, self.box_convs = nn.ModuleList(class_convs), nn.ModuleList(box_convs)

    def forward(self, maps: Sequence[Tensor]) -> Predictions:
        """Maps (B, channels, H, W), one a level, to the outputs of all anchors in the order of `ssd_anchors`."""
        logits = [by_anchor(conv(x), self.num_logits) for conv, x in zip(self.class_convs, maps, strict=True)]
        deltas = [by_anchor(conv(x), 4) for conv, x in zip(self.box_convs, maps, strict=True)]
        return Predictions(torch.cat(logits, dim=1), torch.cat(deltas, dim=1))
