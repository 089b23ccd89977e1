"""How much training images are varied, as numbers; `data/augment.py` does it.

A file of its own because the command line, which has each of them as an option, must not wait for PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """How images are varied in training. The values as they stand are the paper's.

    Attributes:
        expand_probability: chance of the expansion.
        expand_max: largest side of the canvas, in sides of the image.
        crop_probability: chance of a crop; the paper takes the whole image once in seven.
        crop_ious: a crop's least IoU with an object, drawn from these; with 0 any crop with an object in it will do.
        crop_min_side: smallest side of a crop, as part of the canvas's.
        crop_max_ratio: width / height of a crop is at most this, and at least its inverse.
        flip_probability: chance of left-right.
        vertical_flip_probability: chance of up-down (0 in the paper).
        quarter_turn_probability: chance of swapping rows and columns, which with the flips gives turns by 90 degrees
            (0 in the paper).
        brightness: largest change, of 255.
        contrast, saturation: range of the factors.
        hue: largest change, degrees.
        colour_probability: chance of each of the four.
        fill: RGB around an expanded image (ImageNet's mean).
    """

    expand_probability: float = 0.5
    expand_max: float = 4.0
    crop_probability: float = 6 / 7
    crop_ious: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    crop_min_side: float = 0.3
    crop_max_ratio: float = 2.0
    flip_probability: float = 0.5
    vertical_flip_probability: float = 0.0
    quarter_turn_probability: float = 0.0
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    colour_probability: float = 0.5
    fill: tuple[int, int, int] = (124, 117, 104)


SSD_PAPER = Augmentation()

# RetinaNet's: "horizontal image flipping as the only form of data augmentation unless otherwise noted" (Lin 2017, 4.1).
FLIP_ONLY = Augmentation(expand_probability=0.0, crop_probability=0.0, colour_probability=0.0)

# For short trainings from few images: every image still differs each time, but objects keep nearer to their size.
MILD = Augmentation(
    expand_max=2.0,
    expand_probability=0.3,
    crop_min_side=0.5,
    crop_ious=(0.3, 0.5, 0.7, 0.9),
    crop_probability=0.6,
    contrast=(0.7, 1.3),
    saturation=(0.7, 1.3),
    brightness=24.0,
)
