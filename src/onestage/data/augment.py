"""Augmentation: the geometry and the colour of a training image, sampled as numbers, then applied in one pass.

The choices are those of SSD (Liu et al., ECCV 2016, 2.2 "Data augmentation" and 3.6 for the expansion), as in the
authors' release:

    expand     put the image on a canvas up to 4 times its sides, filled with the mean colour: small objects
    crop       a part of that canvas whose IoU with an object is at least 0.1 ... 0.9, or any part, or the whole
    flip       left-right (up-down and quarter turns by choice, for images without an up)
    colour     brightness, contrast, saturation, hue

Expand and crop together are a view: a rectangle over the image that may reach beyond it. What of the image lies in
the view is resized once, straight to its place in the network's input, and coloured there through lookup tables; the
rest is fill, and flips are moves of whole rows. Boxes go through the same map. The view is kept to whole pixels of the
image, its place to whole pixels of the input, and the map is made of these two: boxes and pixels can't drift apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from onestage.augmentation import SSD_PAPER, Augmentation
from onestage.input_size import Resize, resize_image
from onestage.structures import Sample

CROP_TRIALS = 50  # as in the authors' release


@dataclass(frozen=True)
class Geometry:
    """Which pixels of the image go where: `source_xyxy` to `target_xyxy`, then a transposition, then flips.

    Attributes:
        source_xyxy: whole pixels of the image, within it.
        target_xyxy: whole pixels of the resized view, within it.
        view_hw: height and width of the resized view, pixels.
        transpose: swap x and y of the view.
        mirror: then left-right.
        upside_down: then up-down.
    """

    source_xyxy: tuple[int, int, int, int]
    target_xyxy: tuple[int, int, int, int]
    view_hw: tuple[int, int]
    transpose: bool = False
    mirror: bool = False
    upside_down: bool = False

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        height, width = self.view_hw
        return (width, height) if self.transpose else (height, width)

    @property
    def matrix(self) -> Float64[np.ndarray, "2 3"]:
        """The affine map of image coordinates (pixel edges, x then y) to the input's."""
        (sx0, sy0, sx1, sy1), (tx0, ty0, tx1, ty1) = self.source_xyxy, self.target_xyxy
        scale_x, scale_y = (tx1 - tx0) / (sx1 - sx0), (ty1 - ty0) / (sy1 - sy0)
        matrix = np.array([[scale_x, 0.0, tx0 - scale_x * sx0], [0.0, scale_y, ty0 - scale_y * sy0]])
        if self.transpose:
            matrix = matrix[::-1].copy()
        height, width = self.input_hw
        if self.mirror:
            matrix[0] = -matrix[0]
            matrix[0, 2] += width
        if self.upside_down:
            matrix[1] = -matrix[1]
            matrix[1, 2] += height
        return matrix

    def move_boxes(self, boxes_xyxy: Float32[np.ndarray, "N 4"]) -> Float32[np.ndarray, "N 4"]:
        """Boxes of the image in pixels of the input, not clipped to it."""
        matrix = self.matrix
        first, second = (corner @ matrix[:, :2].T + matrix[:, 2] for corner in (boxes_xyxy[:, :2], boxes_xyxy[:, 2:]))
        return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Colour:
    """A change of colours: brightness is added, the factors multiply, the hue turns (degrees)."""

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_last: bool = False
    saturation: float = 1.0
    hue: float = 0.0


UNCHANGED = Colour()


def sample_geometry(
    size_hw: tuple[int, int],
    boxes_xyxy: Float32[np.ndarray, "N 4"],
    ignored: Bool[np.ndarray, " N"],
    resize: Resize,
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> Geometry:
    """Draw a view of an image and its flips. Numbers only; no pixel is touched."""
    height, width = size_hw
    view_xyxy = (0.0, 0.0, float(width), float(height))
    if rng.random() < augmentation.expand_probability:
        factor, left, top = rng.random(3)
        factor = 1.0 + (augmentation.expand_max - 1.0) * factor
        left, top = -left * (factor - 1.0) * width, -top * (factor - 1.0) * height
        view_xyxy = (left, top, left + factor * width, top + factor * height)
    if rng.random() < augmentation.crop_probability:
        view_xyxy = _sample_crop(view_xyxy, boxes_xyxy[~ignored], rng, augmentation)
    transpose, mirror, upside_down = rng.random(3) < (
        augmentation.quarter_turn_probability,
        augmentation.flip_probability,
        augmentation.vertical_flip_probability,
    )
    view_hw = resize.image_hw((view_xyxy[3] - view_xyxy[1], view_xyxy[2] - view_xyxy[0]))
    source_xyxy, target_xyxy = _place(view_xyxy, size_hw, view_hw)
    return Geometry(source_xyxy, target_xyxy, view_hw, bool(transpose), bool(mirror), bool(upside_down))


def _sample_crop(
    canvas_xyxy: tuple[float, float, float, float],
    objects_xyxy: Float32[np.ndarray, "N 4"],
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> tuple[float, float, float, float]:
    """A part of the canvas that holds the centre of an object and has the drawn IoU with an object; else the whole.

    As in the authors' release, a threshold that no trial meets gives way to another one. Images without objects take
    any part.
    """
    x0, y0, x1, y1 = canvas_xyxy
    u = rng.random((CROP_TRIALS, 4))
    wh = (augmentation.crop_min_side + (1.0 - augmentation.crop_min_side) * u[:, :2]) * (x1 - x0, y1 - y0)
    start = (x0, y0) + u[:, 2:] * ((x1 - x0, y1 - y0) - wh)
    crops_xyxy = np.concatenate([start, start + wh], axis=1)
    good = np.abs(np.log(wh[:, 0] / wh[:, 1])) <= math.log(augmentation.crop_max_ratio)
    best_iou = np.ones(CROP_TRIALS)
    if len(objects_xyxy):
        centres = (objects_xyxy[:, :2] + objects_xyxy[:, 2:]) / 2
        # (trial, object): the object's centre lies in the crop
        inside = ((centres > crops_xyxy[:, None, :2]) & (centres < crops_xyxy[:, None, 2:])).all(-1)
        good &= inside.any(-1)
        best_iou = _iou(crops_xyxy, objects_xyxy).max(-1)
    for least_iou in rng.permutation(augmentation.crop_ious):
        chosen = np.flatnonzero(good & (best_iou >= least_iou))
        if len(chosen):
            cx0, cy0, cx1, cy1 = crops_xyxy[chosen[0]].tolist()
            return cx0, cy0, cx1, cy1
    return canvas_xyxy


def _iou(a_xyxy: Float64[np.ndarray, "M 4"], b_xyxy: Float32[np.ndarray, "N 4"]) -> Float64[np.ndarray, "M N"]:
    wh = np.minimum(a_xyxy[:, None, 2:], b_xyxy[:, 2:]) - np.maximum(a_xyxy[:, None, :2], b_xyxy[:, :2])
    overlap = np.clip(wh, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a_xyxy, b_xyxy)]
    return overlap / np.maximum(areas[0][:, None] + areas[1] - overlap, 1e-9)


def _place(
    view_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int], view_hw: tuple[int, int]
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """The image's part of a view, and where it comes to lie when the view is resized. Both in whole pixels."""
    spans = []
    for low, high, length, new_length in zip(view_xyxy[:2], view_xyxy[2:], size_hw[::-1], view_hw[::-1], strict=True):
        start = min(round(low), length - 1)  # the view keeps at least one row and column of the image
        end = max(round(high), start + 1, 1)
        source = (max(start, 0), min(end, length))
        scale = new_length / (end - start)
        place = min(round((source[0] - start) * scale), new_length - 1)
        spans.append((source, (place, min(max(round((source[1] - start) * scale), place + 1), new_length))))
    ((sx0, sx1), (tx0, tx1)), ((sy0, sy1), (ty0, ty1)) = spans
    return (sx0, sy0, sx1, sy1), (tx0, ty0, tx1, ty1)


def sample_colour(rng: np.random.Generator, augmentation: Augmentation) -> Colour:
    """Draw a change of colours."""
    chances, amounts = rng.random(5), rng.random(4)
    brightness, contrast, saturation, hue = (chances[:4] < augmentation.colour_probability).tolist()
    return Colour(
        brightness=augmentation.brightness * (2.0 * float(amounts[0]) - 1.0) if brightness else 0.0,
        contrast=_between(augmentation.contrast, float(amounts[1])) if contrast else 1.0,
        contrast_last=bool(chances[4] < 0.5),
        saturation=_between(augmentation.saturation, float(amounts[2])) if saturation else 1.0,
        hue=augmentation.hue * (2.0 * float(amounts[3]) - 1.0) if hue else 0.0,
    )


def _between(span: tuple[float, float], part: float) -> float:
    return span[0] + (span[1] - span[0]) * part


def change_colour(image: UInt8[np.ndarray, "H W 3"], colour: Colour) -> UInt8[np.ndarray, "H W 3"]:
    """Apply a change of colours through lookup tables; RGB in and out.

    Brightness, then contrast, saturation, hue; or contrast last (the paper's two orders). A last contrast multiplies
    all of RGB, which is HSV's V, so it costs no pass of its own.
    """
    in_hsv = colour.saturation != 1.0 or colour.hue != 0.0
    value_factor = colour.contrast if in_hsv and colour.contrast_last else 1.0
    contrast = colour.contrast / value_factor
    if colour.brightness != 0.0 or contrast != 1.0:
        levels = np.arange(256, dtype=np.float64)
        image = cv2.LUT(image, _to_uint8((levels + colour.brightness) * contrast))
    if in_hsv:
        levels = np.arange(256, dtype=np.float64)
        hue = np.round(levels + colour.hue * 256 / 360) % 256  # a full circle is 256
        table = np.stack([hue, levels * colour.saturation, levels * value_factor], axis=-1)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        image = cv2.cvtColor(cv2.LUT(hsv, _to_uint8(table)[None]), cv2.COLOR_HSV2RGB_FULL)
    return image


def _to_uint8(levels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)


def warp(
    image: UInt8[np.ndarray, "H W 3"],
    geometry: Geometry,
    fill: tuple[int, int, int] = SSD_PAPER.fill,
    colour: Colour = UNCHANGED,
) -> UInt8[np.ndarray, "h w 3"]:
    """The network's input: the geometry's part of the image, resized once, coloured, on a ground of `fill`."""
    (sx0, sy0, sx1, sy1), (tx0, ty0, tx1, ty1) = geometry.source_xyxy, geometry.target_xyxy
    height, width = geometry.view_hw
    result = change_colour(resize_image(image[sy0:sy1, sx0:sx1], (ty1 - ty0, tx1 - tx0)), colour)
    if (tx0, ty0, tx1, ty1) != (0, 0, width, height):
        result = cv2.copyMakeBorder(result, ty0, height - ty1, tx0, width - tx1, cv2.BORDER_CONSTANT, value=fill)
    if geometry.transpose:
        result = cv2.transpose(result)
    if geometry.mirror or geometry.upside_down:
        # OpenCV: 1 left-right, 0 up-down, -1 both
        result = cv2.flip(result, -1 if geometry.mirror and geometry.upside_down else int(geometry.mirror))
    return result


def move_objects(sample: Sample, image: UInt8[np.ndarray, "h w 3"], geometry: Geometry) -> Sample:
    """The sample with its new image: objects whose centre is in it (Liu 2016, 2.2), boxes clipped to it.

    Of an ignored object any visible part stays, since it must not become background.
    """
    moved_xyxy = geometry.move_boxes(sample.boxes_xyxy)
    centres = (moved_xyxy[:, :2] + moved_xyxy[:, 2:]) / 2
    size_wh = np.array(geometry.input_hw[::-1], dtype=np.float32)
    clipped_xyxy = np.clip(moved_xyxy, 0, np.tile(size_wh, 2))
    visible = (clipped_xyxy[:, 2:] > clipped_xyxy[:, :2]).all(-1)
    centred = ((centres > 0) & (centres < size_wh)).all(-1)
    kept = visible & (centred | sample.ignored)
    return Sample(image, clipped_xyxy[kept], sample.labels[kept], sample.ignored[kept], sample.image_index)


def augment(sample: Sample, resize: Resize, rng: np.random.Generator, augmentation: Augmentation) -> Sample:
    """A varied sample, resized; boxes in its pixels."""
    height, width = sample.image.shape[:2]
    geometry = sample_geometry((height, width), sample.boxes_xyxy, sample.ignored, resize, rng, augmentation)
    image = warp(sample.image, geometry, augmentation.fill, sample_colour(rng, augmentation))
    return move_objects(sample, image, geometry)


def resize_only(sample: Sample, resize: Resize) -> Sample:
    """The sample resized as the network takes it; every object stays."""
    height, width = sample.image.shape[:2]
    new_height, new_width = resize.image_hw((height, width))
    scale = np.array([new_width / width, new_height / height] * 2, dtype=np.float32)
    image = resize_image(sample.image, (new_height, new_width))
    return Sample(image, sample.boxes_xyxy * scale, sample.labels, sample.ignored, sample.image_index)
