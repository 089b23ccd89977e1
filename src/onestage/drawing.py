"""Draws boxes and their names on images: a colour for each class, tags that stay inside the image and apart."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from onestage.runtime.detections import name_of

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # x0, y0, x1, y1: half-open pixels

# Colours of the first classes, chosen by eye (bright, distinct for the colour-blind too); the rest are generated.
FIRST_COLORS: tuple[Color, ...] = (
    (255, 159, 28), (46, 196, 255), (255, 77, 109), (61, 220, 132), (178, 132, 255), (255, 230, 60),
    (0, 150, 136), (255, 128, 214), (176, 110, 60), (70, 110, 255), (190, 230, 90), (200, 40, 160),
)  # fmt: skip
GOLDEN_RATIO = 0.618033988749895  # steps around the hue circle by which colours stay apart longest
SHADES = ((0.75, 1.0), (1.0, 0.72), (0.45, 0.95))  # (saturation, value) of generated colours, in turn
FONT, WEIGHT = "sans", 500  # comes with OpenCV 5 and has the letters of all common scripts
SMALLEST_DRAWN_SIDE = 400  # pixels; smaller images are enlarged before drawing, so that tags can be read
OUTLINE: Color = (20, 20, 20)  # around every line, so that it shows on any background


def class_color(label: int) -> Color:
    """The RGB colour of a class, always the same for a label."""
    if label < len(FIRST_COLORS):
        return FIRST_COLORS[label]
    saturation, value = SHADES[label % len(SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image_rgb: UInt8[np.ndarray, "H W 3"],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, " N"],
    labels: Int64[np.ndarray, " N"],
    names: Sequence[str],
    *,
    track_ids: Int64[np.ndarray, " N"] | None = None,
    min_side: int = 0,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A copy of the image with detections on it, the best on top.

    Boxes are pixels of `image_rgb`. A label without a name is written as its number, a track as `#` and its number.
    An image whose shorter side is below `min_side` pixels is first enlarged by a whole factor, so that tags can be
    read; otherwise the size stays (H2, W2 = H, W).
    """
    best_first = np.argsort(-scores, kind="stable")
    captions = [f"{name_of(label, names)} {score:.2f}" for label, score in zip(labels.tolist(), scores, strict=True)]
    if track_ids is not None:
        captions = [f"#{track} {caption}" for track, caption in zip(track_ids.tolist(), captions, strict=True)]
    return _draw_boxes(
        image_rgb,
        boxes_xyxy[best_first],
        labels[best_first],
        [captions[row] for row in best_first],
        np.zeros(len(scores), dtype=bool),
        min_side,
    )


def draw_objects(
    image_rgb: UInt8[np.ndarray, "H W 3"],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    labels: Int64[np.ndarray, " N"],
    ignored: Bool[np.ndarray, " N"],
    names: Sequence[str],
    *,
    min_side: int = 0,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A copy of the image with its annotated objects on it; ignored ones (difficult, crowd) have broken lines."""
    captions = [name_of(label, names) for label in labels.tolist()]
    return _draw_boxes(image_rgb, boxes_xyxy, labels, captions, ignored, min_side)


def _draw_boxes(
    image_rgb: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    captions: Sequence[str],
    broken: np.ndarray,
    min_side: int,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Draw boxes, the most important first: it is drawn last, and its tag gets the best place."""
    factor = max(1, -(-min_side // max(1, min(image_rgb.shape[:2]))))
    image = np.ascontiguousarray(image_rgb).copy()
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    size_hw = image.shape[0], image.shape[1]
    typical_side = (size_hw[0] * size_hw[1]) ** 0.5
    line_width = max(2, round(typical_side / 400))
    lettering = _Lettering(max(11, round(7 + 0.011 * typical_side)))
    boxes = [_inside(box * factor, size_hw) for box in boxes_xyxy]
    colors = [class_color(int(label)) for label in labels]
    texts = [lettering.shortened(caption, size_hw[1]) for caption in captions]
    spots: list[Rectangle] = []
    for box, text in zip(boxes, texts, strict=True):
        spots.append(_free_spot(box, lettering.tag_size(text), size_hw, spots))
    for box, color, is_broken in reversed(list(zip(boxes, colors, broken, strict=True))):
        _draw_rectangle(image, box, color, line_width, bool(is_broken))
    for text, spot, color in reversed(list(zip(texts, spots, colors, strict=True))):
        lettering.draw_tag(image, text, spot, color)
    return image


def _free_spot(
    box: Rectangle, tag_wh: tuple[int, int], size_hw: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """The place at a box, inside the image, where its tag covers earlier tags least."""
    x0, y0, x1, y1 = box
    width, height = tag_wh
    corners = np.array(
        [
            (x0, y0 - height), (x1 - width, y0 - height),  # above the box
            (x0, y0), (x0, y1), (x1 - width, y0), (x1 - width, y1),  # in it at the top, below it
            (x0, y1 - height), (x1 - width, y1 - height),  # in it at the bottom
        ]
    )  # fmt: skip
    corners = corners.clip(0, np.maximum(0, np.array(size_hw[::-1]) - tag_wh))
    spots = np.concatenate([corners, corners + tag_wh], axis=1)  # (8, 4)
    others = np.array(taken, dtype=np.int64).reshape(-1, 4)
    low = np.maximum(spots[:, None, :2], others[None, :, :2])
    high = np.minimum(spots[:, None, 2:], others[None, :, 2:])
    covered = (high - low).clip(min=0).prod(axis=2).sum(axis=1)
    left, top, right, bottom = spots[int(covered.argmin())].tolist()  # the first of equals
    return left, top, right, bottom


class _Lettering:
    """Text of one size on filled tags."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.face = cv2.FontFace(FONT)  # not shared: only one thread at a time may use a face

    def tag_size(self, text: str) -> tuple[int, int]:
        """Width and height of a tag, with a margin of a few pixels around the text."""
        width = cv2.getTextSize((0, 0), text, (0, 0), self.face, self.size, WEIGHT)[2]
        return width + 6, round(1.35 * self.size) + 1

    def shortened(self, text: str, max_width: int) -> str:
        """The text if its tag fits, else as many of its first letters as fit, and three dots."""
        if self.tag_size(text)[0] <= max_width:
            return text
        fitting = len(text)
        while fitting > 1 and self.tag_size(text[:fitting] + "...")[0] > max_width:
            fitting -= 1
        return text[:fitting] + "..."

    def draw_tag(self, image: np.ndarray, text: str, spot: Rectangle, color: Color) -> None:
        x0, y0, x1, y1 = spot
        image[y0:y1, x0:x1] = color
        # Perceived lightness (ITU-R BT.601 luma): dark text on light colours, light on dark.
        luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        letters = (0, 0, 0) if luma > 125 else (255, 255, 255)
        cv2.putText(image, text, (x0 + 3, y0 + self.size), letters, self.face, self.size, WEIGHT)


def _inside(box_xyxy: np.ndarray, size_hw: tuple[int, int]) -> Rectangle:
    """The part of a box inside the image, in whole pixels; at least one pixel, never reversed."""
    height, width = size_hw
    x0, y0, x1, y1 = (round(float(v)) for v in np.clip(np.nan_to_num(box_xyxy), 0, (width, height, width, height)))
    x0, y0 = min(x0, x1, width - 1), min(y0, y1, height - 1)
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def _draw_rectangle(image: np.ndarray, box: Rectangle, color: Color, line_width: int, broken: bool) -> None:
    """Draw the outline of a box: lines inside the box, with a thin dark line on both sides of them."""
    x0, y0, x1, y1 = box
    for side in _sides((max(0, x0 - 1), max(0, y0 - 1), x1 + 1, y1 + 1), line_width + 2):
        image[side] = OUTLINE
    for side in _sides(box, line_width):
        line = image[side]
        along = np.arange(max(line.shape[:2]))
        drawn = (along // (4 * line_width) % 2 == 0) | (not broken)
        if line.shape[0] > line.shape[1]:
            line[drawn] = color
        else:
            line[:, drawn] = color


def _sides(box: Rectangle, line_width: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the top, bottom, left and right line of a box."""
    x0, y0, x1, y1 = box
    rows, columns = slice(y0, y1), slice(x0, x1)
    top, bottom = slice(y0, min(y0 + line_width, y1)), slice(max(y0, y1 - line_width), y1)
    left, right = slice(x0, min(x0 + line_width, x1)), slice(max(x0, x1 - line_width), x1)
    return [(top, columns), (bottom, columns), (rows, left), (rows, right)]
