"""What a detector is, and what all of them share: settings, normalisation, and the counts that describe one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from onestage.backbones import FeatureMaps, timm_normalization
from onestage.errors import UserError
from onestage.input_size import Resize, SizeHW, typical_input_hw
from onestage.postprocess import LevelCut, select
from onestage.runtime.tiles import Tiling
from onestage.selection import Selection
from onestage.settings import read
from onestage.structures import Detections, Losses, Predictions, Targets

Images = UInt8[Tensor, "B 3 H W"] | Float[Tensor, "B 3 H W"]


@dataclass(frozen=True)
class Normalization:
    """What the backbone's weights were trained with: (pixel - mean) / std, RGB on the 0..255 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or not finite or not all(value > 0 for value in self.std):
            raise ValueError(
                f"normalization: mean {self.mean}, std {self.std}; expected three finite values each, std above 0"
            )


MOST_CHANNELS, MOST_LAYERS = 4096, 64  # that a setting may ask for: a stranger's file asks for a billion
IMAGENET = Normalization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))  # torchvision's, times 255


class Normalize(nn.Module):
    """The first layer of a detector, so that training, prediction and export can't disagree about it."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        # Not persistent: they travel in the model file's configuration, as the numbers that were given.
        self.register_buffer("mean", torch.zeros(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.ones(3, 1, 1), persistent=False)
        self.set(normalization)

    def set(self, normalization: Normalization) -> None:
        """Normalise with other numbers from now on."""
        self.normalization = normalization
        self.mean.copy_(torch.tensor(normalization.mean)[:, None, None])
        self.std.copy_(torch.tensor(normalization.std)[:, None, None])

    def forward(self, images: Images) -> Float[Tensor, "B 3 H W"]:
        return (images - self.mean) / self.std


ConfigT = TypeVar("ConfigT", bound="DetectorConfig")


@dataclass(frozen=True)
class MadeNetwork:
    """A network as `onestage train DATA` makes it without a recipe, and the pace at which AdamW trains it.

    Attributes:
        config: the network's settings.
        batch_size: images a step.
        learning_rate: AdamW's, at the top of its cycle.
        head_learning_rate_factor: of the learning rate, for the last convolutions.
        backbone_learning_rate_factor: of the learning rate, for a backbone that starts from ImageNet weights.
        selection: post-processing; None: the paper's.
        reasons: why it departs from the paper, a line each.
    """

    config: DetectorConfig
    batch_size: int
    learning_rate: float
    head_learning_rate_factor: float = 1.0
    backbone_learning_rate_factor: float = 0.5
    selection: Selection | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class DetectorConfig:
    """Every setting of a detector but its backbone and its number of classes; each paper's file has its own.

    Attributes:
        FAMILY: the paper's name of the network.
        ANCHOR_FIELDS: settings that change the anchors and no layer; empty for anchor-free detectors.
        PAPERS_SELECTION: post-processing of the paper's evaluation.
    """

    FAMILY: ClassVar[str]
    ANCHOR_FIELDS: ClassVar[frozenset[str]] = frozenset()
    PAPERS_SELECTION: ClassVar[Selection] = Selection()

    @property
    def input_resize(self) -> Resize:
        """How images are brought to the input."""
        raise NotImplementedError

    def build(self, name: str, num_classes: int, normalization: Normalization) -> Detector:
        """The detector of this name and these settings, with fresh weights; behind its first hyphen is the backbone."""
        raise NotImplementedError

    def backbone_normalization(self, backbone: str) -> Normalization:
        """What the published ImageNet weights of a backbone were trained with."""
        return IMAGENET if backbone in ("", "vgg16") else Normalization(*timm_normalization(backbone))

    def made_for_data(self, backbone: str, *, pretrained: bool) -> MadeNetwork:
        """The network that learns well from some hundred to a few thousand images, with AdamW in one cycle.

        `pretrained`: the backbone of this name starts with ImageNet weights.
        """
        return MadeNetwork(self, batch_size=16, learning_rate=1e-3)

    @property
    def least_object_side(self) -> float:
        """Sides of objects that the detector reaches, pixels of its input: two cells of the finest map.

        An object of one cell may lie between four of them; of smaller ones the maps keep too little.
        """
        return 16.0  # of a map at stride 8

    def anchor_shapes(self) -> list[tuple[float, float]]:
        """Width and height of every anchor of every level, pixels of the input; none of an anchor-free detector."""
        return []

    def anchors_for(self, box_sizes_hw: Float[np.ndarray, "N 2"]) -> dict[str, Any]:
        """Settings, by name, whose anchors follow the boxes of a data set (in pixels of the input)."""
        return {}

    @classmethod
    def from_dict(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
        """Read `dataclasses.asdict` back, from JSON too; a UserError names what does not fit."""
        return read(cls, values, f"{cls.FAMILY}'s settings")

    def adjusted(self: ConfigT, settings: Mapping[str, Any], where: str = "") -> ConfigT:
        """With some settings replaced, by name; None keeps one. `where` they come from is for messages.

        Raises:
            UserError: a setting that this detector does not have, or a value that does not fit.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        known = {one.name for one in fields(self)}
        for name in given:
            if name not in known:
                at = f"{where}: " if where else ""
                raise UserError(f"{at}{name}: {self.FAMILY} has no such setting; it has {', '.join(sorted(known))}")
        return read(type(self), given, where or f"{self.FAMILY}'s settings", base=self)


class Detector(nn.Module):
    """One paper's network with its losses and its decoding. `forward` is the same in training and in evaluation mode.

    Attributes:
        name: as `onestage.build` takes it.
        config: every other number.
        num_classes: K, without background.
        resize: how images are brought to the input.
        evaluation_selection: post-processing of its evaluation; the paper's, where no recipe says otherwise.
        level_cut: which scores of each level take part at all; None: all of them.
        several_divisors: True if its losses are not all divided by the positives (`Losses.own_divisors`).
        input_bits: how many bits of 16-bit images hold values.
        tiling: how images are cut into tiles that go through it one by one; None: whole images.
        BACKGROUND_LOGITS: how many logits an anchor has before those of its classes.
        normalize: the first layer.
        backbone: what ImageNet weights go into.
    """

    name: str
    config: DetectorConfig
    num_classes: int
    resize: Resize
    evaluation_selection: Selection
    level_cut: LevelCut | None = None
    several_divisors: bool = False
    input_bits: int = 16
    tiling: Tiling | None = None
    BACKGROUND_LOGITS: ClassVar[int] = 0
    normalize: Normalize
    backbone: FeatureMaps

    def __init__(
        self, name: str, config: DetectorConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise UserError(f"{name}: {num_classes} classes; expected 1 or more, background not counted")
        self.name, self.config, self.num_classes = name, config, num_classes
        self.resize, self.evaluation_selection = config.input_resize, config.PAPERS_SELECTION
        self.normalize = Normalize(normalization)
        self.backbone = backbone

    def forward(self, images: Images) -> Predictions:
        """Raw outputs for images of 0..255."""
        return self.raw(self.normalize(images))

    def raw(self, images_normalised: Float[Tensor, "B 3 H W"]) -> Predictions:
        """The network after its first layer."""
        raise NotImplementedError

    def cells(self, input_hw: SizeHW) -> tuple[tuple[int, int, int], ...]:
        """Height, width and anchors a cell of each level's map for an input of this size; () where it does not say."""
        return ()

    def anchors_cxcywh(self, input_hw: SizeHW) -> Float[Tensor, "A 4"]:
        """Anchors for an input of this size, in its pixels, on the detector's device; none where it has no anchors."""
        return torch.zeros(0, 4)

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: SizeHW) -> Losses:
        """Named, undivided sums over the batch, in float32. Targets are in pixels of the input."""
        raise NotImplementedError

    def scored_boxes(
        self, predictions: Predictions, input_hw: SizeHW
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A K"]]:
        """Every anchor's box, xyxy in pixels of the input and clipped to it, and its score for each class, in float32.

        Exported files hold this part of `detect` as traced, so it is free of choices that depend on values.
        """
        raise NotImplementedError

    @torch.no_grad()
    def detect(self, predictions: Predictions, selection: Selection, input_hw: SizeHW) -> list[Detections]:
        """The objects of each image in main memory, best first; boxes in pixels of the input, clipped to it."""
        boxes_xyxy, scores = self.scored_boxes(predictions, input_hw)
        if self.level_cut is not None:
            scores = self.level_cut(scores, input_hw)
        return select(boxes_xyxy, scores, selection)

    def class_layers(self) -> list[str]:
        """Names of the convolutions that give class logits; their outputs are ordered (anchor, logit)."""
        return []

    def lay_anchors(self) -> None:
        """Lay the anchors that `config` says, where they are kept."""

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raises a UserError if weights that were trained with these settings do not fit this detector's layers."""
        for name, value in settings.items():
            if name not in self.config.ANCHOR_FIELDS and getattr(self.config, name) != value:
                raise UserError(
                    f"{self.name}: built with {name} = {getattr(self.config, name)!r}, but the weights are of a "
                    f"network with {value!r}; build it with that (`onestage import` does)"
                )

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take over settings that imported weights were trained with, as far as `check_settings` lets them."""
        self.check_settings(settings)
        self.config = replace(self.config, **settings)
        self.lay_anchors()

    @property
    def normalization(self) -> Normalization:
        """What images are normalised with."""
        return self.normalize.normalization

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise images with other numbers from now on: RGB on the 0..255 scale."""
        self.normalize.set(Normalization(tuple(map(float, mean)), tuple(map(float, std))))


DetectorT = TypeVar("DetectorT", bound=Detector)


def on_meta(detector: DetectorT) -> DetectorT:
    """A copy in evaluation mode without values: sending images through it finds shapes and counts, and is cheap."""
    return copy.deepcopy(detector).to("meta").eval()


def by_anchor(x: Float[Tensor, "B C H W"], values: int) -> Float[Tensor, "B A values"]:
    """A head's map as one row an anchor: channels are ordered (anchor, value), rows by cell."""
    # (B, anchors*values, H, W) -> (B, H*W*anchors, values); no copy where memory is channels-last
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)  # not len(x), which a trace takes as fixed


def map_sizes(name: str, maps: Callable[[Tensor], Sequence[Tensor]], input_hw: SizeHW) -> list[SizeHW]:
    """(height, width) of each map of a network on the meta device.

    Raises:
        UserError: the network cannot take images of this size.
    """
    height, width = input_hw
    try:
        found = maps(torch.empty(1, 3, height, width, device="meta"))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: its backbone can't take {height} x {width} pixels ({reason})") from error
    return [(x.shape[-2], x.shape[-1]) for x in found]


@dataclass(frozen=True)
class Description:
    """Counts of a detector.

    Attributes:
        name: as `onestage.build` takes it.
        num_classes: without background.
        resize: how images are brought to the input.
        input_hw: input of a 4:3 landscape image, for which the rest is counted.
        normalization: normalisation of the input.
        parameters: number of parameters.
        gmacs: 10^9 multiply-accumulates of the convolutions and matrix products for one image.
        cells: (height, width, anchors of a cell) of each level; () where the detector does not say.
        settings: the detector's configuration, JSON-able.
    """

    name: str
    num_classes: int
    resize: Resize
    input_hw: SizeHW
    normalization: Normalization
    parameters: int
    gmacs: float
    cells: tuple[tuple[int, int, int], ...]
    settings: dict[str, object]

    @property
    def anchors(self) -> int:
        """Anchors of one image."""
        return sum(height * width * anchors for height, width, anchors in self.cells)


def describe(detector: Detector) -> Description:
    """Count a detector; nothing is computed and nothing changes."""
    input_hw = typical_input_hw(detector.resize)
    images = torch.empty(1, 3, *input_hw, dtype=torch.uint8, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(detector)(images)
    return Description(
        name=detector.name,
        num_classes=detector.num_classes,
        resize=detector.resize,
        input_hw=input_hw,
        normalization=detector.normalization,
        parameters=sum(parameter.numel() for parameter in detector.parameters()),
        gmacs=counter.get_total_flops() / 2 / 1e9,  # a multiply-accumulate is two operations
        cells=detector.cells(input_hw),
        settings=asdict(detector.config),
    )
