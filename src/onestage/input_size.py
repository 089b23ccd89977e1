"""How images are brought to a detector's input: stretched to a square, or by one factor and padded.

The same value is asked by training, evaluation and prediction, so that they can't disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError

PADDING = (124, 116, 104)  # RGB: ImageNet's mean, which normalisation turns to about zero

SizeHW: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Stretch:
    """Every image becomes a square, whatever its shape (SSD, M2Det).

    Attributes:
        side: pixels.
    """

    side: int

    def __post_init__(self) -> None:
        _check_side("image size", self.side)

    def image_hw(self, original_hw: tuple[float, float]) -> SizeHW:
        """What an image is resized to."""
        return self.side, self.side

    def input_hw(self, images_hw: Sequence[SizeHW]) -> SizeHW:
        """The size of a batch of resized images."""
        return self.side, self.side

    def __str__(self) -> str:
        return f"{self.side} x {self.side}"


@dataclass(frozen=True)
class KeepRatio:
    """Both sides by one factor; the images of a batch lie in its upper left corner, the rest is padding (RetinaNet).

    Attributes:
        shortest: what the shorter side becomes, pixels,
        longest: unless the longer side would be more than this.
        multiple: the sides of a batch are multiples of it.

    Source: Lin 2017, 5: shorter side 800; Detectron bounds the longer one at 1,333.
    """

    shortest: int
    longest: int
    multiple: int = 32

    def __post_init__(self) -> None:
        _check_side("shortest edge", self.shortest)
        _check_side("longest edge", self.longest)
        if self.longest < self.shortest:
            raise UserError(f"longest edge {self.longest} is below the shortest edge {self.shortest}")

    def image_hw(self, original_hw: tuple[float, float]) -> SizeHW:
        """What an image is resized to."""
        height, width = original_hw
        factor = min(self.shortest / min(height, width), self.longest / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))

    def input_hw(self, images_hw: Sequence[SizeHW]) -> SizeHW:
        """The size of a batch of resized images."""
        height, width = (max(sides) for sides in zip(*images_hw, strict=True))
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def __str__(self) -> str:
        return f"shorter side {self.shortest}, longer at most {self.longest}, padded to multiples of {self.multiple}"


Resize: TypeAlias = Stretch | KeepRatio


def typical_input_hw(resize: Resize) -> SizeHW:
    """The input of one 4:3 landscape image, for counts."""
    return resize.input_hw([resize.image_hw((3, 4))])


def resize_image(image: UInt8[np.ndarray, "H W 3"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Resize, by the same rule in training, evaluation and prediction.

    Bilinear; where the image shrinks to less than half along a side (and grows along none), each new pixel is the
    mean of those it covers, since bilinear would skip pixels. OpenCV's exact kernel gives the same pixels on every
    processor, and exported files give them too (`export.graph_ends`); its usual one is up to 1 off in a tenth of them.
    """
    (height, width), (new_height, new_width) = image.shape[:2], size_hw
    shrinks = height >= new_height and width >= new_width and (height > 2 * new_height or width > 2 * new_width)
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR_EXACT
    return cv2.resize(image, (new_width, new_height), interpolation=interpolation)


def _check_side(what: str, pixels: int) -> None:
    if not 32 <= pixels <= 8192:
        raise UserError(f"{what} {pixels}: expected 32 to 8,192 pixels")
