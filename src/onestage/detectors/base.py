"""What a detector is, and what all of them share: the normalisation of pictures and the counts that describe one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from onestage.backbones import FeatureMaps
from onestage.postprocess import Selection
from onestage.structures import Detections, LossSums, Predictions, Targets

Images = UInt8[Tensor, "B 3 S S"] | Float[Tensor, "B 3 S S"]


@dataclass(frozen=True)
class Normalization:
    """What the backbone's weights were trained with: (pixel - mean) / std, RGB on the 0..255 scale."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise ValueError(
                f"normalization: mean {self.mean}, std {self.std}; expected three values each, std above 0"
            )


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

    def forward(self, images: Images) -> Float[Tensor, "B 3 S S"]:
        return (images - self.mean) / self.std


class Detector(nn.Module):
    """One paper's network with its losses and its decoding. `forward` is the same in training and in evaluation mode.

    Attributes:
        name: as `onestage.build` takes it.
        num_classes: K, without background.
        image_size: S, the side of the square input in pixels.
        resize: how a picture is brought to that size.
        anchors_cxcywh: (A, 4) in pixels of the input.
        normalize: the first layer.
        backbone: what ImageNet weights go into.
        cells: (height, width, anchors of a cell) of each level.
    """

    name: str
    num_classes: int
    image_size: int
    resize: Literal["stretch"]
    anchors_cxcywh: Tensor
    normalize: Normalize
    backbone: FeatureMaps
    cells: tuple[tuple[int, int, int], ...]

    def forward(self, images: Images) -> Predictions:
        """Raw outputs for pictures of 0..255."""
        return self.raw(self.normalize(images))

    def raw(self, images_normalised: Float[Tensor, "B 3 S S"]) -> Predictions:
        """The network after its first layer."""
        raise NotImplementedError

    def losses(
        self, predictions: Predictions, targets: Sequence[Targets], *, negatives_per_positive: float = 3.0
    ) -> LossSums:
        """Undivided sums over the batch, in float32. Targets are in pixels of the input."""
        raise NotImplementedError

    def detect(self, predictions: Predictions, selection: Selection) -> list[Detections]:
        """The objects of each picture, best first; boxes in pixels of the input, clipped to it, without names."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """JSON-able; all but the weights that it takes to build this detector again."""
        raise NotImplementedError

    @property
    def normalization(self) -> Normalization:
        """What pictures are normalised with."""
        return self.normalize.normalization

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise pictures with other numbers from now on: RGB on the 0..255 scale.

        Raises:
            ValueError: not three values each, or a std that is not above 0.
        """
        self.normalize.set(Normalization(tuple(map(float, mean)), tuple(map(float, std))))

    def extra_repr(self) -> str:
        return f"{self.name}, num_classes={self.num_classes}, image_size={self.image_size}"


DetectorT = TypeVar("DetectorT", bound=Detector)


def on_meta(detector: DetectorT) -> DetectorT:
    """A copy in evaluation mode without values: sending pictures through it finds shapes and counts, and is cheap."""
    return copy.deepcopy(detector).to("meta").eval()
