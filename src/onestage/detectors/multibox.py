"""What SSD brought and M2Det took over (Liu 2016, 2): the head, anchors on a square input, matching, hard negatives.

A detector of this kind says how images become maps; all from the maps on is here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

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
from onestage.settings import setting
from onestage.structures import Losses, Predictions, Targets

MATCH_IOU = 0.5  # Liu 2016, 2.2; each object's best anchor matches it at any IoU
FRESH_LAYERS_GET_NORMS = (
    "batch norms in the layers that start fresh: the paper's network, which has none, learns slower"
)

MultiBoxConfigT = TypeVar("MultiBoxConfigT", bound="MultiBoxConfig")


@dataclass(frozen=True, kw_only=True)
class MultiBoxConfig(DetectorConfig):
    """The settings from the maps on."""

    image_size: int = setting(help="Side of the square input, pixels")
    strides: tuple[float, ...] = setting(
        help="Stride of each level's anchors, pixels; cell i has its centre at (i + 0.5) * stride"
    )
    anchor_sizes: tuple[float, ...] = setting(help="Anchor size of each level and one more, pixels of the input")
    aspect_ratios: tuple[tuple[float, ...], ...] = setting(
        help="Anchor shapes of each level beside the square, width / height; each is laid on its side too"
    )
    clip_anchors: ClipAnchors = setting(
        "all",
        "Anchors bounded at the input: centres and sizes (all: ssd.pytorch, lufficc/SSD), sizes only (torchvision), or "
        "none (mmdetection, the paper's release)",
    )
    whole_pixels: bool = setting(
        False, "Anchors rounded to whole pixels of which the last belongs to the anchor (mmdetection 1.x)"
    )
    variances: tuple[float, float] = setting((0.1, 0.2), "Divisors of the deltas: of the centre, of the size")
    background_prior: float | None = setting(
        None, "Chance of background that the head's first bias gives each anchor; none: zero bias, as the paper"
    )
    head_scale: float | None = setting(
        None, "Standard deviation of the head's first outputs over maps of unit variance; none: Xavier, as the paper"
    )
    negatives_per_positive: float = setting(
        3.0, "Hard negatives that learn background, for each positive anchor of an image (Liu 2016, 2.2)"
    )
    box_loss_weight: float = setting(1.0, "Weight of the box loss; the classification loss has 1")

    ANCHOR_FIELDS = frozenset({"strides", "anchor_sizes", "clip_anchors", "whole_pixels"})

    def __post_init__(self) -> None:
        levels = len(self.strides)
        if len(self.anchor_sizes) != levels + 1 or not all(0 < size < math.inf for size in self.anchor_sizes):
            raise UserError(
                f"anchor sizes {', '.join(f'{size:g}' for size in self.anchor_sizes)}: expected {levels + 1} positive "
                f"numbers of pixels, one for each of {levels} levels and one more"
            )
        if len(self.aspect_ratios) != levels:
            raise UserError(f"aspect ratios {self.aspect_ratios}: expected a list for each of {levels} levels")

    @property
    def input_resize(self) -> Stretch:
        return Stretch(self.image_size)

    @property
    def least_object_side(self) -> float:
        return 2.0 * self.strides[0]

    def cells_at(self, image_size: int) -> list[int]:
        """Cells along a side of each level's map, at another size of the input."""
        raise NotImplementedError

    def adjusted(self: MultiBoxConfigT, settings: Mapping[str, Any], where: str = "") -> MultiBoxConfigT:
        """As every detector's; with another `image_size` the strides and the anchor sizes follow, unless given.

        A stride is twice the one before it, or its cells' share of the input where these differ by a tenth.
        """
        changed = super().adjusted(settings, where)
        image_size = changed.image_size
        if image_size == self.image_size:
            return changed
        cells = self.cells_at(image_size)
        if min(cells) < 1:
            raise UserError(f"image size {image_size}: too small for the {len(cells)} levels of this {self.FAMILY}")
        doubled = [8.0 * 2**level for level in range(len(cells))]
        shares = [round(image_size / count, 2) for count in cells]
        factor = image_size / self.image_size
        follow = {
            "strides": tuple(d if abs(d - s) <= 0.1 * d else s for d, s in zip(doubled, shares, strict=True)),
            "anchor_sizes": tuple(round(size * factor, 4) for size in self.anchor_sizes),
        }
        return replace(changed, **{name: value for name, value in follow.items() if settings.get(name) is None})

    def anchor_shapes(self) -> list[tuple[float, float]]:
        return level_shapes(self.anchor_sizes, self.aspect_ratios)

    def anchors_for(self, box_sizes_hw: Float[np.ndarray, "N 2"]) -> dict[str, Any]:
        return {"anchor_sizes": anchor_sizes_from_boxes(box_sizes_hw, self.image_size, len(self.strides))}


class MultiBoxDetector(Detector):
    """One 3x3 head a map. Background is class logit 0. Constructors of subclasses end by making the `head`."""

    config: MultiBoxConfig
    head: MultiBoxHead
    BACKGROUND_LOGITS = 1

    def features(self, images_normalised: Float[Tensor, "B 3 S S"]) -> list[Tensor]:
        """One map a level, finest first."""
        raise NotImplementedError

    def raw(self, images_normalised: Float[Tensor, "B 3 S S"]) -> Predictions:
        return self.head(self.features(images_normalised))

    def cells(self, input_hw: SizeHW) -> tuple[tuple[int, int, int], ...]:
        return self.head.cells

    def anchors_cxcywh(self, input_hw: SizeHW) -> Float[Tensor, "A 4"]:
        return self.head.anchors

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: SizeHW) -> Losses:
        config, anchors = self.config, self.head.anchors
        matches = match_anchors(anchors, targets, positive_iou=MATCH_IOU, negative_iou=MATCH_IOU, keep_best=True)
        losses = multibox_loss(predictions, matches, anchors, config.variances, config.negatives_per_positive)
        return losses.scaled(box=config.box_loss_weight)

    def scored_boxes(
        self, predictions: Predictions, input_hw: SizeHW
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A K"]]:
        boxes_xyxy = decode_deltas(predictions.box_deltas.float(), self.head.anchors, self.config.variances)
        scores = predictions.class_logits.float().softmax(dim=-1)[..., 1:]  # background is logit 0
        return clip_boxes(boxes_xyxy, input_hw), scores

    def class_layers(self) -> list[str]:
        return [f"head.class_convs.{level}" for level in range(len(self.head.class_convs))]

    def lay_anchors(self) -> None:
        self.head.lay_anchors(self.config)


class MultiBoxHead(nn.Module):
    """Two 3x3 convolutions a map: class logits and box deltas of each anchor of each cell (Liu 2016, 2.1).

    Output channels are ordered (anchor, class) and (anchor, coordinate).

    Args:
        detector: whose `features` the head reads; complete but for its head.
        channels: of each map.

    Raises:
        UserError: the maps do not fit the configuration, or the backbone cannot take images of this size.
    """

    anchors: Float[Tensor, "A 4"]

    def __init__(self, detector: MultiBoxDetector, channels: Sequence[int]) -> None:
        super().__init__()
        config = detector.config
        if not len(channels) == len(config.strides) == len(config.aspect_ratios):
            raise UserError(
                f"{detector.name}: {len(channels)} maps, but the configuration has {len(config.strides)} levels"
            )
        self.num_logits = detector.num_classes + 1
        anchors_per_cell = [len(cell_shapes(1, 1, ratios)) for ratios in config.aspect_ratios]
        levels = list(zip(channels, anchors_per_cell, strict=True))
        class_convs = [nn.Conv2d(c, a * self.num_logits, 3, padding=1) for c, a in levels]
        box_convs = [nn.Conv2d(c, a * 4, 3, padding=1) for c, a in levels]
        for conv in (*class_convs, *box_convs):
            _init_head(conv, config.head_scale)
        if config.background_prior is not None:
            # softmax = prior: exp(bias) / (exp(bias) + K) = prior
            bias = math.log(config.background_prior / (1 - config.background_prior) * detector.num_classes)
            for conv in class_convs:
                nn.init.constant_(conv.get_parameter("bias")[:: self.num_logits], bias)
        self.class_convs, self.box_convs = nn.ModuleList(class_convs), nn.ModuleList(box_convs)
        sizes_hw = map_sizes(detector.name, on_meta(detector).features, (config.image_size, config.image_size))
        self.cells = tuple((h, w, a) for (h, w), a in zip(sizes_hw, anchors_per_cell, strict=True))
        self.register_buffer("anchors", _anchors(config, self.cells), persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> Predictions:
        """Maps (B, channels, H, W), one a level, to the outputs of all anchors in the order of `ssd_anchors`."""
        logits = [by_anchor(conv(x), self.num_logits) for conv, x in zip(self.class_convs, maps, strict=True)]
        deltas = [by_anchor(conv(x), 4) for conv, x in zip(self.box_convs, maps, strict=True)]
        return Predictions(torch.cat(logits, dim=1), torch.cat(deltas, dim=1))

    def lay_anchors(self, config: MultiBoxConfig) -> None:
        """Replace the anchors by those of another configuration of the same levels."""
        self.anchors = _anchors(config, self.cells).to(self.anchors.device)


def _init_head(conv: nn.Conv2d, scale: float | None) -> None:
    nn.init.zeros_(conv.get_parameter("bias"))
    if scale is None:
        nn.init.xavier_uniform_(conv.weight)  # Liu 2016, 3
    else:
        nn.init.normal_(conv.weight, std=scale / conv.weight[0].numel() ** 0.5)


def _anchors(config: MultiBoxConfig, cells: Sequence[tuple[int, int, int]]) -> Float[Tensor, "A 4"]:
    return ssd_anchors(
        config.image_size,
        [(height, width) for height, width, _ in cells],
        config.strides,
        config.anchor_sizes,
        config.aspect_ratios,
        config.clip_anchors,
        config.whole_pixels,
    )
