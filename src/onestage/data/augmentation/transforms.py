"""The transforms of SSD (Liu et al., ECCV 2016, 2.2 "Data augmentation" and 3.6), as in the authors' release.

The defaults are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from onestage.data.augmentation.canvas import Canvas, Layer
from onestage.errors import UserError
from onestage.settings import setting

Transform: TypeAlias = Callable[[Canvas, np.random.Generator, Callable[[], Layer]], Canvas]

CROP_TRIALS = 50  # as in the authors' release


def check_range(transform: Any, names: tuple[str, ...], least: float, most: float = math.inf) -> None:
    """Refuse settings out of their range.

    Raises:
        UserError: the value of one of these fields is below `least` or above `most`.
    """
    for name in names:
        value = getattr(transform, name)
        if not all(least <= one <= most for one in (value if isinstance(value, tuple) else (value,))):
            expected = f"{least:g} to {most:g}" if most < math.inf else f"{least:g} or more"
            raise UserError(f"{type(transform).__name__}: {name} is {value}; expected {expected}")


@dataclass(frozen=True)
class Expand:
    """Put the image somewhere on a larger canvas: small objects."""

    probability: float = setting(0.5, "Chance of the expansion")
    max: float = setting(4.0, "Largest side of the canvas, in sides of the image")

    def __post_init__(self) -> None:
        check_range(self, ("probability",), 0, 1)
        check_range(self, ("max",), 1)

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        if rng.random() >= self.probability:
            return canvas
        x0, y0, x1, y1 = canvas.view_xyxy
        width, height = x1 - x0, y1 - y0
        factor, left, top = rng.random(3).tolist()
        factor = 1.0 + (self.max - 1.0) * factor
        left, top = x0 - left * (factor - 1.0) * width, y0 - top * (factor - 1.0) * height
        return replace(canvas, view_xyxy=(left, top, left + factor * width, top + factor * height))


@dataclass(frozen=True)
class Crop:
    """Show a part of the view that holds the centre of an object and overlaps an object enough; else all of it.

    As in the authors' release, an IoU that no trial meets gives way to another one. Images without objects take any
    part.
    """

    probability: float = setting(6 / 7, "Chance of a crop")  # the paper takes the whole image once in seven
    ious: tuple[float, ...] = setting(
        (0.0, 0.1, 0.3, 0.5, 0.7, 0.9), "IoUs of which one is drawn: an object overlaps the crop by so much at least"
    )
    min_side: float = setting(0.3, "Smallest side of a crop, as a part of the view's")
    max_ratio: float = setting(2.0, "Largest width / height of a crop; the smallest is its inverse")

    def __post_init__(self) -> None:
        check_range(self, ("probability", "ious", "min_side"), 0, 1)
        check_range(self, ("max_ratio",), 1)

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        if rng.random() >= self.probability:
            return canvas
        x0, y0, x1, y1 = canvas.view_xyxy
        u = rng.random((CROP_TRIALS, 4))
        wh = (self.min_side + (1.0 - self.min_side) * u[:, :2]) * (x1 - x0, y1 - y0)
        start = (x0, y0) + u[:, 2:] * ((x1 - x0, y1 - y0) - wh)
        crops_xyxy = np.concatenate([start, start + wh], axis=1)
        good = np.abs(np.log(wh[:, 0] / wh[:, 1])) <= math.log(self.max_ratio)
        best_iou = np.ones(CROP_TRIALS)
        objects_xyxy = canvas.objects_xyxy()
        if len(objects_xyxy):
            centres = (objects_xyxy[:, :2] + objects_xyxy[:, 2:]) / 2
            # (trial, object): the object's centre lies in the crop
            inside = ((centres > crops_xyxy[:, None, :2]) & (centres < crops_xyxy[:, None, 2:])).all(-1)
            good &= inside.any(-1)
            best_iou = _iou(crops_xyxy, objects_xyxy).max(-1)
        for least_iou in rng.permutation(self.ious):
            chosen = np.flatnonzero(good & (best_iou >= least_iou))
            if len(chosen):
                cx0, cy0, cx1, cy1 = crops_xyxy[chosen[0]].tolist()
                return replace(canvas, view_xyxy=(cx0, cy0, cx1, cy1))
        return canvas


def _iou(a_xyxy: Float64[np.ndarray, "M 4"], b_xyxy: Float32[np.ndarray, "N 4"]) -> Float64[np.ndarray, "M N"]:
    wh = np.minimum(a_xyxy[:, None, 2:], b_xyxy[:, 2:]) - np.maximum(a_xyxy[:, None, :2], b_xyxy[:, :2])
    overlap = np.clip(wh, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a_xyxy, b_xyxy)]
    return overlap / np.maximum(areas[0][:, None] + areas[1] - overlap, 1e-9)


@dataclass(frozen=True)
class Flip:
    """Flip the view; with quarter turns too, for images without an up."""

    probability: float = setting(0.5, "Chance of a left-right flip")
    vertical_probability: float = setting(0.0, "Chance of an up-down flip")
    quarter_turn_probability: float = setting(
        0.0, "Chance of swapping rows and columns, which with the flips gives turns by 90 degrees"
    )

    def __post_init__(self) -> None:
        check_range(self, ("probability", "vertical_probability", "quarter_turn_probability"), 0, 1)

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        chances = (self.quarter_turn_probability, self.probability, self.vertical_probability)
        transpose, mirror, upside_down = (rng.random(3) < chances).tolist()
        return replace(canvas, transpose=transpose, mirror=mirror, upside_down=upside_down)


@dataclass(frozen=True)
class Colour:
    """Change brightness, contrast, saturation and hue of the images, not of the fill around them."""

    probability: float = setting(0.5, "Chance of each of the four changes")
    brightness: float = setting(32.0, "Largest change of brightness, of 255")
    contrast: tuple[float, float] = setting((0.5, 1.5), "Range of the factor of contrast")
    saturation: tuple[float, float] = setting((0.5, 1.5), "Range of the factor of saturation")
    hue: float = setting(18.0, "Largest change of hue, degrees")

    def __post_init__(self) -> None:
        check_range(self, ("probability",), 0, 1)
        check_range(self, ("brightness", "contrast", "saturation", "hue"), 0)

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        chances, amounts = rng.random(5), rng.random(4).tolist()
        brightness, contrast, saturation, hue = (chances[:4] < self.probability).tolist()
        change = ColourChange(
            brightness=self.brightness * (2.0 * amounts[0] - 1.0) if brightness else 0.0,
            contrast=_between(self.contrast, amounts[1]) if contrast else 1.0,
            contrast_last=bool(chances[4] < 0.5),
            saturation=_between(self.saturation, amounts[2]) if saturation else 1.0,
            hue=self.hue * (2.0 * amounts[3] - 1.0) if hue else 0.0,
        )
        layers = (replace(layer, pixel_changes=(*layer.pixel_changes, change)) for layer in canvas.layers)
        return replace(canvas, layers=tuple(layers))


def _between(span: tuple[float, float], part: float) -> float:
    return span[0] + (span[1] - span[0]) * part


@dataclass(frozen=True)
class ColourChange:
    """A change of colours through lookup tables; RGB in and out.

    Brightness is added, then contrast, saturation and hue (degrees) follow; or contrast comes last (the paper's two
    orders).
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_last: bool = False
    saturation: float = 1.0
    hue: float = 0.0

    def __call__(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        levels = np.arange(256, dtype=np.float64)
        in_hsv = self.saturation != 1.0 or self.hue != 0.0
        # A last contrast multiplies all of RGB, which is HSV's V, so it costs no pass of its own.
        contrast, value_factor = (1.0, self.contrast) if in_hsv and self.contrast_last else (self.contrast, 1.0)
        if self.brightness != 0.0 or contrast != 1.0:
            image = cv2.LUT(image, _to_uint8((levels + self.brightness) * contrast))
        if in_hsv:
            hue = np.round(levels + self.hue * 256 / 360) % 256  # a full circle is 256
            table = np.stack([hue, levels * self.saturation, levels * value_factor], axis=-1)
            hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
            image = cv2.cvtColor(cv2.LUT(hsv, _to_uint8(table)[None]), cv2.COLOR_HSV2RGB_FULL)
        return image


def _to_uint8(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)
