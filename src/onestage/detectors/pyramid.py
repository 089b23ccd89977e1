"""What RetinaNet brought and GFL took over (Lin 2017, 4): a pyramid over a backbone, one head shared by all levels.

A detector of this kind says how its pyramid and its head are made; inputs, cells and anchors of the levels are here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from onestage.backbones import TimmMaps
from onestage.detectors.base import Detector, DetectorConfig, MadeNetwork, map_sizes, on_meta
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Resize, SizeHW, Stretch, typical_input_hw
from onestage.settings import setting

NORM_GROUPS = 32  # of a group norm (Wu 2018, 4.1; torchvision)
BackboneNorm = Literal["batch", "frozen"]
ConfigT = TypeVar("ConfigT", bound="PyramidConfig")


@dataclass(frozen=True)
class PyramidConfig(DetectorConfig):
    """The settings of inputs and backbones."""

    image_size: int | None = setting(
        None, "Side of the square that every image is stretched to, pixels; none: images keep their proportions"
    )
    edges: tuple[int, int] | None = setting(  # Lin 2017, 5; the limit is Detectron's
        (800, 1333), "Without image_size: an image's shorter side in the input, and its longer side's limit, pixels"
    )
    backbone_norm: BackboneNorm = setting(
        "frozen", "Batch norms of the backbone: frozen keep the values of their ImageNet weights, batch learn"
    )

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size % 32:
            raise UserError(f"image size {self.image_size}: {self.FAMILY} takes multiples of 32 pixels")
        if (self.image_size is None) == (self.edges is None):
            raise UserError(f"image_size {self.image_size}, edges {self.edges}: images are resized one way; give one")

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each level, pixels; the first is 8."""
        raise NotImplementedError

    @property
    def least_object_side(self) -> float:
        return 2.0 * self.strides[0]

    @property
    def input_resize(self) -> Resize:
        return Stretch(self.image_size) if self.image_size is not None else KeepRatio(*(self.edges or ()))

    def maps_of(self, name: str) -> TimmMaps:
        """The backbone behind the first hyphen of a detector's name."""
        return TimmMaps(name.partition("-")[2], frozen_norm=self.backbone_norm == "frozen")

    def made(self, batch_size: int, learning_rate: float, *, pretrained: bool) -> MadeNetwork:
        """For data: with batch norms that learn, where the backbone has no ImageNet weights."""
        if pretrained or self.backbone_norm == "batch":
            return MadeNetwork(self, batch_size, learning_rate)
        reason = "batch norms that learn: frozen ones, as the paper's, need the statistics of ImageNet weights"
        return MadeNetwork(replace(self, backbone_norm="batch"), batch_size, learning_rate, reasons=(reason,))

    def laid_anchors(self, input_hw: SizeHW, map_sizes_hw: tuple[SizeHW, ...]) -> Float[Tensor, "A 4"]:
        """The anchors of maps of these sizes, cxcywh in pixels of the input."""
        raise NotImplementedError

    def adjusted(self: ConfigT, settings: Mapping[str, Any], where: str = "") -> ConfigT:
        """As every detector's; `image_size` takes the place of `edges`, and `edges` that of `image_size`."""
        image_size, edges = (settings.get(name) not in (None, "none") for name in ("image_size", "edges"))
        if image_size and edges:
            raise UserError("image_size and edges are both set; images are resized one way, so give one")
        other = {"edges": "none"} if image_size else {"image_size": "none"} if edges else {}
        return super().adjusted({**settings, **other}, where)


def check_group_norms(channels: int) -> None:
    """Raises a UserError for a number of channels that group norms can't divide."""
    if channels % NORM_GROUPS:
        raise UserError(f"channels {channels}: expected a multiple of {NORM_GROUPS}, the group norms' groups")


class PyramidDetector(Detector):
    """A pyramid and a shared head. Constructors of subclasses end by `check_maps`."""

    config: PyramidConfig
    anchors_per_cell: int

    def features(self, images_normalised: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """The maps of the pyramid, finest first."""
        raise NotImplementedError

    def check_maps(self) -> None:
        """Raises a UserError if the backbone can't take images of this size, or its maps do not have the strides."""
        input_hw = typical_input_hw(self.resize)
        found = map_sizes(self.name, on_meta(self).features, input_hw)
        if found != [(height, width) for height, width, _ in self.cells(input_hw)]:
            raise UserError(
                f"{self.name}: the maps of its backbone have {found} cells, not a stride's share, rounded up"
            )

    def cells(self, input_hw: SizeHW) -> tuple[tuple[int, int, int], ...]:
        height, width = input_hw
        return tuple(((height + s - 1) // s, (width + s - 1) // s, self.anchors_per_cell) for s in self.config.strides)

    def anchors_cxcywh(self, input_hw: SizeHW) -> Float[Tensor, "A 4"]:
        sizes_hw = tuple((height, width) for height, width, _ in self.cells(input_hw))
        lay = _anchors.__wrapped__ if torch.compiler.is_exporting() else _anchors  # symbolic sizes have no hash
        return lay(self.config, input_hw, sizes_hw, self.normalize.mean.device)


def start_at_prior(conv: nn.Conv2d, prior: float) -> None:
    """Let each score of a convolution's outputs be `prior` at first.

    Without, the loss of the many negatives drowns the first steps (Lin 2017, 3.3).
    """
    nn.init.constant_(conv.get_parameter("bias"), -math.log((1 - prior) / prior))


@lru_cache(maxsize=32)  # batches of many sizes come again and again
def _anchors(
    config: PyramidConfig, input_hw: SizeHW, map_sizes_hw: tuple[SizeHW, ...], device: torch.device
) -> Float[Tensor, "A 4"]:
    with torch.inference_mode(False):  # laid while evaluating, they serve training too
        return config.laid_anchors(input_hw, map_sizes_hw).to(device)
