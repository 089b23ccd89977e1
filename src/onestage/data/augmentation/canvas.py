"""A training image in the making: images laid on a canvas, as numbers until `Canvas.paint` touches their pixels.

Each image is resized once, straight to its place in the network's input, and coloured there, where it is small; what no
image covers is fill, and flips are moves of whole rows. The view is kept to whole pixels of the canvas, each image's
place to whole pixels of the input, and boxes go by the map that these two make: boxes and pixels can't drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from onestage.data.table import Objects, Table
from onestage.input_size import Resize, SizeHW, resize_image

Image: TypeAlias = UInt8[np.ndarray, "_ _ 3"]
Matrix: TypeAlias = Float64[np.ndarray, "2 3"]
RGB: TypeAlias = tuple[int, int, int]
XYXY: TypeAlias = tuple[float, float, float, float]
PixelsXYXY: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Layer:
    """An image that lies on the canvas."""

    index: int  # row in the data set's table
    size_hw: SizeHW  # of the image, pixels
    objects: Objects  # in pixels of the image; a transform that hides some of them leaves them out itself
    part_xyxy: PixelsXYXY | None = None  # the part of the image that is shown; None: all of it
    matrix: Matrix = field(default_factory=lambda: np.eye(2, 3))  # image -> canvas (pixel edges, x before y)
    opacity: float = 1.0  # weight in the mean with what lies below; 1 hides it
    pixel_changes: tuple[Callable[[Image], Image], ...] = ()  # of the resized pixels, in this order
    kernel: int | None = None  # of `cv2.resize`; None, or rotated: as evaluation resizes (`resize_image`)

    @classmethod
    def of(cls, table: Table, index: int) -> Layer:
        """All of an image of a data set; nothing is read."""
        height, width = table.image_sizes_hw[index].tolist()
        return cls(index, (height, width), table.objects(index))

    @property
    def shown_xyxy(self) -> PixelsXYXY:
        return self.part_xyxy or (0, 0, self.size_hw[1], self.size_hw[0])

    def stretched_to(self, canvas_xyxy: XYXY) -> Layer:
        """The layer with the shown part of its image filling a rectangle of the canvas."""
        return replace(self, matrix=_stretch(self.shown_xyxy, canvas_xyxy))

    def cut_to(self, view_xyxy: XYXY) -> Layer | None:
        """The layer without what lies outside of a view, to whole pixels of the image; None if that is all of it.

        Objects go as in `Canvas.paint`. A rotated layer stays as it is.
        """
        (scale_x, shear_x, shift_x), (shear_y, scale_y, shift_y) = self.matrix.tolist()
        if shear_x or shear_y or scale_x <= 0 or scale_y <= 0:
            return self
        (x0, y0, x1, y1), (left, top, right, bottom) = view_xyxy, self.shown_xyxy
        left, right = max(left, round((x0 - shift_x) / scale_x)), min(right, round((x1 - shift_x) / scale_x))
        top, bottom = max(top, round((y0 - shift_y) / scale_y)), min(bottom, round((y1 - shift_y) / scale_y))
        part_xyxy = left, top, right, bottom
        if part_xyxy == self.shown_xyxy:
            return self
        if left >= right or top >= bottom:
            return None
        return replace(self, part_xyxy=part_xyxy, objects=_visible(self.objects, self.objects.boxes_xyxy, part_xyxy))


@dataclass(frozen=True, eq=False)
class Canvas:
    """Layers, the lowest first, and what of them becomes the network's input."""

    layers: tuple[Layer, ...]
    view_xyxy: XYXY  # the rectangle of the canvas that is shown; it may reach beyond the images
    transpose: bool = False  # swap x and y of the resized view,
    mirror: bool = False  # then flip it left-right,
    upside_down: bool = False  # then up-down

    @classmethod
    def of(cls, layer: Layer) -> Canvas:
        """All of one image, as it is: the pixels of the canvas are those of this image."""
        height, width = layer.size_hw
        return cls((layer,), (0.0, 0.0, float(width), float(height)))

    def objects_xyxy(self) -> Float32[np.ndarray, "N 4"]:
        """The boxes of all objects that are not ignored, on the canvas."""
        boxes = [move_boxes(one.objects.boxes_xyxy[~one.objects.ignored], one.matrix) for one in self.layers]
        return np.concatenate(boxes)

    def cut_to_view(self) -> Canvas:
        """The same view; what lies outside of it is gone, so that a transform may widen it with fill (a crop comes
        before an expansion). The view becomes whole pixels of the canvas if anything goes."""
        x0, y0, x1, y1 = map(round, self.view_xyxy)
        view_xyxy = float(x0), float(y0), float(max(x1, x0 + 1)), float(max(y1, y0 + 1))
        cut = tuple(layer.cut_to(view_xyxy) for layer in self.layers)
        if all(new is old for new, old in zip(cut, self.layers, strict=True)):
            return self
        return replace(self, layers=tuple(one for one in cut if one is not None), view_xyxy=view_xyxy)

    def view_hw(self, resize: Resize) -> SizeHW:
        """Height and width of the resized view, before a transposition."""
        x0, y0, x1, y1 = self.view_xyxy
        return resize.image_hw((y1 - y0, x1 - x0))

    def input_hw(self, resize: Resize) -> SizeHW:
        """Height and width of what `paint` gives."""
        height, width = self.view_hw(resize)
        return (width, height) if self.transpose else (height, width)

    def placements(self, resize: Resize) -> list[Placement | None]:
        """Where each layer lies in the resized view; None: outside of it."""
        corners: list[tuple[float, float]] = []  # of what is shown of the images, on the canvas
        for layer in self.layers:
            (x0, y0, x1, y1), ((a, b, c), (d, e, f)) = layer.shown_xyxy, layer.matrix.tolist()
            corners += [(a * x + b * y + c, d * x + e * y + f) for x in (x0, x1) for y in (y0, y1)]
        axes = []
        for axis, pixels in enumerate(reversed(self.view_hw(resize))):
            first, last = min(corner[axis] for corner in corners), max(corner[axis] for corner in corners)
            # the view keeps at least one row and column of the images
            start = min(round(self.view_xyxy[axis]), math.ceil(last) - 1)
            axes.append((start, max(round(self.view_xyxy[axis + 2]), start + 1, math.floor(first) + 1), pixels))
        return [_place(layer, axes) for layer in self.layers]

    def paint(self, resize: Resize, fill: RGB, read: Callable[[int], Image]) -> tuple[Image, Objects]:
        """The network's input with its objects. `read` gives an image by its index.

        Objects stay whose centre is in the input (Liu 2016, 2.2), their boxes clipped to it. Of an ignored object any
        visible part stays, since it must not become background.
        """
        view_hw, (height, width) = self.view_hw(resize), self.input_hw(resize)
        image, objects = None, [Objects(*(column[:0] for column in self.layers[0].objects))]
        for layer, placement in zip(self.layers, self.placements(resize), strict=True):
            if placement is not None:
                image = placement.paint(read(layer.index), layer, image, view_hw, fill)
                boxes_xyxy = move_boxes(layer.objects.boxes_xyxy, self.turned(placement.matrix, resize))
                objects.append(_visible(layer.objects, boxes_xyxy, (0, 0, width, height)))
        if image is None:
            image = np.full((*view_hw, 3), fill, dtype=np.uint8)
        if self.transpose:
            image = cv2.transpose(image)
        if self.mirror:
            image = cv2.flip(image, 1)
        if self.upside_down:
            image = cv2.flip(image, 0)
        return image, Objects(*(np.concatenate(column) for column in zip(*objects, strict=True)))

    def turned(self, matrix: Matrix, resize: Resize) -> Matrix:
        """A map to the resized view, then transposed and flipped as the canvas says."""
        matrix = matrix[::-1].copy() if self.transpose else matrix.copy()
        height, width = self.input_hw(resize)
        if self.mirror:
            matrix[0] = (0, 0, width) - matrix[0]
        if self.upside_down:
            matrix[1] = (0, 0, height) - matrix[1]
        return matrix


def _visible(objects: Objects, boxes_xyxy: Float32[np.ndarray, "N 4"], part_xyxy: PixelsXYXY) -> Objects:
    """The objects, whose boxes are these now, that stay in a rectangle, clipped to it: see `Canvas.paint`."""
    low, high = np.array(part_xyxy, dtype=np.float32).reshape(2, 2)
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    clipped_xyxy = np.clip(boxes_xyxy, np.tile(low, 2), np.tile(high, 2))
    visible = (clipped_xyxy[:, 2:] > clipped_xyxy[:, :2]).all(-1)
    centred = ((centres > low) & (centres < high)).all(-1)
    kept = visible & (centred | objects.ignored)
    return Objects(clipped_xyxy[kept], objects.labels[kept], objects.ignored[kept])


def move_boxes(boxes_xyxy: Float32[np.ndarray, "N 4"], matrix: Matrix) -> Float32[np.ndarray, "N 4"]:
    """The smallest upright boxes around boxes that an affine map moves."""
    corners = [boxes_xyxy[:, columns] for columns in ([0, 1], [2, 3], [0, 3], [2, 1])]
    moved = np.stack([corner @ matrix[:, :2].T + matrix[:, 2] for corner in corners])
    return np.concatenate([moved.min(axis=0), moved.max(axis=0)], axis=1).astype(np.float32)


class Placement(NamedTuple):
    """Which pixels of a layer's image go where."""

    source_xyxy: PixelsXYXY  # whole pixels of the image
    target_xyxy: PixelsXYXY  # whole pixels of the resized view; for a rotated image all of them
    matrix: Matrix  # image -> resized view
    rotated: bool = False  # the matrix does more than scale and shift, so a resize can't apply it

    def paint(self, image: Image, layer: Layer, below: Image | None, view_hw: SizeHW, fill: RGB) -> Image:
        """The resized view with this layer on it; `below` is None for the lowest one."""
        (sx0, sy0, sx1, sy1), (tx0, ty0, tx1, ty1) = self.source_xyxy, self.target_xyxy
        part, size_hw = image[sy0:sy1, sx0:sx1], (ty1 - ty0, tx1 - tx0)
        pixels, mask = self._rotate(part, size_hw) if self.rotated else (_resize(part, size_hw, layer.kernel), None)
        for change in layer.pixel_changes:
            pixels = change(pixels)
        if below is None and layer.opacity == 1.0 and mask is None:
            borders = ty0, view_hw[0] - ty1, tx0, view_hw[1] - tx1
            return cv2.copyMakeBorder(pixels, *borders, cv2.BORDER_CONSTANT, value=fill) if any(borders) else pixels
        result = np.full((*view_hw, 3), fill, dtype=np.uint8) if below is None else below
        place = result[ty0:ty1, tx0:tx1]
        if mask is not None:
            pixels = cv2.copyTo(pixels, mask, place.copy())
        place[:] = cv2.addWeighted(pixels, layer.opacity, place, 1.0 - layer.opacity, 0)
        return result

    def _rotate(self, part: Image, size_hw: SizeHW) -> tuple[Image, UInt8[np.ndarray, "_ _"]]:
        """The pixels of the target, and a mask of those that the image covers. What shrinks is first resized."""
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ self.source_xyxy[:2] - self.target_xyxy[:2]
        (height, width), (scale_x, scale_y) = part.shape[:2], np.linalg.norm(matrix[:, :2], axis=0).tolist()
        small_hw = max(1, round(height * min(scale_y, 1.0))), max(1, round(width * min(scale_x, 1.0)))
        matrix[:, :2] *= width / small_hw[1], height / small_hw[0]
        matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5  # OpenCV counts from the centres of pixels
        small, ones = resize_image(part, small_hw), np.full(small_hw, 255, dtype=np.uint8)
        pixels = cv2.warpAffine(small, matrix, size_hw[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return pixels, cv2.warpAffine(ones, matrix, size_hw[::-1], flags=cv2.INTER_NEAREST)


def _resize(part: Image, size_hw: SizeHW, kernel: int | None) -> Image:
    if kernel is None:
        return resize_image(part, size_hw)
    return cv2.resize(part, size_hw[::-1], interpolation=kernel)


def _place(layer: Layer, axes: Sequence[tuple[int, int, int]]) -> Placement | None:
    """`axes`: the view's first and last whole pixel on the canvas and its resized pixels, along x and along y."""
    (scale_x, shear_x, shift_x), (shear_y, scale_y, shift_y) = layer.matrix.tolist()
    if shear_x or shear_y or scale_x <= 0 or scale_y <= 0:
        (left, right, width), (top, bottom, height) = axes
        view = _stretch((left, top, right, bottom), (0, 0, width, height))
        matrix = view @ np.vstack([layer.matrix, (0.0, 0.0, 1.0)])
        return Placement(layer.shown_xyxy, (0, 0, width, height), matrix, rotated=True)
    x0, y0, x1, y1 = layer.shown_xyxy
    of_layer, spans = ((x0, x1, scale_x, shift_x), (y0, y1, scale_y, shift_y)), []
    for (start, end, pixels), (low, high, scale, shift) in zip(axes, of_layer, strict=True):
        first, last = max(start, scale * low + shift), min(end, scale * high + shift)  # what the view has of it
        if first >= last:
            return None
        source = min(round((first - shift) / scale), high - 1)
        source_end = max(round((last - shift) / scale), source + 1)
        shrink = pixels / (end - start)
        target = min(round((first - start) * shrink), pixels - 1)
        target_end = min(max(round((last - start) * shrink), target + 1), pixels)
        spans.append((source, source_end, target, target_end))
    (sx0, sx1, tx0, tx1), (sy0, sy1, ty0, ty1) = spans
    source_xyxy, target_xyxy = (sx0, sy0, sx1, sy1), (tx0, ty0, tx1, ty1)
    return Placement(source_xyxy, target_xyxy, _stretch(source_xyxy, target_xyxy))


def _stretch(source_xyxy: XYXY, target_xyxy: XYXY) -> Matrix:
    """The affine map of one rectangle to another."""
    (sx0, sy0, sx1, sy1), (tx0, ty0, tx1, ty1) = source_xyxy, target_xyxy
    scale_x, scale_y = (tx1 - tx0) / (sx1 - sx0), (ty1 - ty0) / (sy1 - sy0)
    return np.array([[scale_x, 0.0, tx0 - scale_x * sx0], [0.0, scale_y, ty0 - scale_y * sy0]])
