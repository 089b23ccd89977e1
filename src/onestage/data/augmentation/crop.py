"""Crops that hold objects (Liu 2016, 2.2 "Data augmentation"), by the rules of the released programs.

| | Caffe (the paper's) | ssd.pytorch, lufficc/SSD | M2Det | here, unless set |
|---|---|---|---|---|
| sides | scale and ratio, cut to fit | each by itself | scale and ratio that fit | each by itself |
| overlap with | any object | (the IoU is not asked) | all objects | any object |
| no trial meets the IoU | one of those that are met | drawn again among all | drawn again among all | another IoU |
| without an object's centre | kept | tried again | tried again | tried again |
| images without objects | whole | fail | whole | cropped |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from onestage.data.augmentation.canvas import Canvas, Layer
from onestage.settings import check_ranges, setting

CROP_TRIALS = 50  # as in the releases
MOST_DRAWS = 50  # of an IoU, or of the whole image


@dataclass(frozen=True)
class Crop:
    """Show a part of the view that overlaps an object enough; else all of it.

    An IoU is drawn, and parts are tried. Where none meets it, `redraw` says what happens. With "all", an IoU is drawn
    again, or the whole image. So images of small objects, with which only an IoU of 0 can be met, stay whole half
    of the time. "crops" goes on with the other IoUs, and they stay whole once in seven. With "met", all IoUs are tried,
    and one of those that are met is drawn, or the whole image, which counts as much as in `probability`.
    """

    probability: float = setting(6 / 7, "Chance of a crop")  # the paper takes the whole image once in seven
    ious: tuple[float, ...] = setting(
        (0.0, 0.1, 0.3, 0.5, 0.7, 0.9), "IoUs of which one is drawn: an object overlaps the crop by so much at least"
    )
    overlap: Literal["any", "all"] = setting("any", "Objects that overlap the crop by the IoU: one of them, or all")
    min_side: float = setting(0.3, "Smallest side, or scale, of a crop, as a part of the view's")
    max_ratio: float = setting(2.0, "Largest width / height of a crop; the smallest is its inverse")
    sides: Literal["each", "scale", "fitting"] = setting(
        "each",
        "How sides are drawn: each by itself, or a scale (root of the area) and a ratio to the view's, cut to what "
        "fits (scale: SSD's release) or among what fits (fitting: M2Det's)",
    )
    redraw: Literal["all", "crops", "met"] = setting(
        "crops", "What is drawn where no trial meets the IoU; met: IoUs that no trial meets are not drawn at all"
    )
    hold_centre: bool = setting(True, "Crop only where the centre of an object stays")
    without_objects: bool = setting(True, "Crop images without objects too")

    def __post_init__(self) -> None:
        check_ranges(self, {"probability": (0, 1), "ious": (0, 1), "min_side": (0, 1), "max_ratio": (1, math.inf)})

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        objects_xyxy = canvas.objects_xyxy()
        if not self.without_objects and not len(objects_xyxy):
            return canvas
        if self.redraw == "met":
            return self._one_of_the_met(canvas, objects_xyxy, rng)
        for _ in range(MOST_DRAWS):
            if rng.random() >= self.probability:
                break
            crops_xyxy, overlap = self._trials(canvas, objects_xyxy, CROP_TRIALS, rng)
            ious = rng.permutation(self.ious)
            for least_iou in ious if self.redraw == "crops" else ious[:1]:
                chosen = np.flatnonzero(overlap >= least_iou)
                if len(chosen):
                    return replace(canvas, view_xyxy=tuple(crops_xyxy[chosen[0]].tolist()))
            if self.redraw == "crops":
                break
        return canvas

    def _one_of_the_met(
        self, canvas: Canvas, objects_xyxy: Float32[np.ndarray, "N 4"], rng: np.random.Generator
    ) -> Canvas:
        crops_xyxy, overlap = self._trials(canvas, objects_xyxy, CROP_TRIALS * len(self.ious), rng)
        meets = overlap.reshape(len(self.ious), CROP_TRIALS) >= np.array(self.ious)[:, None]  # (IoU, trial)
        met = np.flatnonzero(meets.any(axis=1))
        crops, whole = self.probability * len(met), (1.0 - self.probability) * len(self.ious)
        pick = rng.random() * (crops + whole)
        if pick >= crops:
            return canvas
        row = met[min(int(pick / self.probability), len(met) - 1)]
        return replace(canvas, view_xyxy=tuple(crops_xyxy[row * CROP_TRIALS + meets[row].argmax()].tolist()))

    def _trials(
        self, canvas: Canvas, objects_xyxy: Float32[np.ndarray, "N 4"], trials: int, rng: np.random.Generator
    ) -> tuple[Float64[np.ndarray, "T 4"], Float64[np.ndarray, " T"]]:
        """Crops xyxy and how much each overlaps objects: 1 where there are none, -1 of crops that may not be."""
        x0, y0, x1, y1 = canvas.view_xyxy
        u = rng.random((trials, 4))
        wh = self._sides(u[:, :2]) * (x1 - x0, y1 - y0)
        start = (x0, y0) + u[:, 2:] * ((x1 - x0, y1 - y0) - wh)
        crops_xyxy = np.concatenate([start, start + wh], axis=1)
        good = np.ones(trials, dtype=bool)
        if self.sides == "each":
            good &= np.abs(np.log(wh[:, 0] / wh[:, 1])) <= math.log(self.max_ratio)
        overlap = np.ones(trials)
        if len(objects_xyxy):
            if self.hold_centre:
                centres = (objects_xyxy[:, :2] + objects_xyxy[:, 2:]) / 2
                # (trial, object): the object's centre lies in the crop
                (cx, cy), (left, top, right, bottom) = centres.T, crops_xyxy.T[:, :, None]
                good &= ((cx > left) & (cx < right) & (cy > top) & (cy < bottom)).any(-1)
            iou = _iou(crops_xyxy, objects_xyxy)
            overlap = iou.max(-1) if self.overlap == "any" else iou.min(-1)
        return crops_xyxy, np.where(good, overlap, -1.0)

    def _sides(self, u: Float64[np.ndarray, "T 2"]) -> Float64[np.ndarray, "T 2"]:
        """Width and height, as parts of the view's, from two numbers of 0 to 1."""
        if self.sides == "each":
            return self.min_side + (1.0 - self.min_side) * u
        scale = np.maximum(self.min_side + (1.0 - self.min_side) * u[:, 0], 1e-6)
        ratio = drawn_ratio(u[:, 1], self.max_ratio, scale**2, cut=self.sides == "scale")
        return np.minimum(np.stack([scale * np.sqrt(ratio), scale / np.sqrt(ratio)], axis=-1), 1.0)


def drawn_ratio(
    u: Float64[np.ndarray, " T"], largest: float, least_fitting: Float64[np.ndarray, " T"], *, cut: bool
) -> Float64[np.ndarray, " T"]:
    """Ratios from 1 / `largest` to `largest` for numbers `u` of 0 to 1, none beyond `least_fitting` or its inverse.

    They are cut to what fits, or drawn evenly from what fits.
    """
    if cut:
        return np.clip(1 / largest + (largest - 1 / largest) * u, least_fitting, 1 / least_fitting)
    low, high = np.maximum(1 / largest, least_fitting), np.minimum(largest, 1 / least_fitting)
    return low + (high - low) * u


def _iou(a_xyxy: Float64[np.ndarray, "M 4"], b_xyxy: Float32[np.ndarray, "N 4"]) -> Float64[np.ndarray, "M N"]:
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a_xyxy.T[:, :, None], b_xyxy.T  # products of axes of 2 are slow
    overlap = np.maximum(np.minimum(ax1, bx1) - np.maximum(ax0, bx0), 0)
    overlap *= np.maximum(np.minimum(ay1, by1) - np.maximum(ay0, by0), 0)
    return overlap / np.maximum((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - overlap, 1e-9)
