"""Draws boxes and their names on images: a colour for each class, tags that stay inside the image and apart."""

import colorsys
from bisect import bisect_right
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from onestage.runtime.detections import name_of
from onestage.texts import one_line

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
LONGEST_ENLARGED_SIDE = 4000  # pixels; a thin image is enlarged less, or it would take gigabytes
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
    read, but not beyond `LONGEST_ENLARGED_SIDE`; otherwise the size stays (H2, W2 = H, W).
    """
    best_first = np.argsort(-scores, kind="stable")
    captions = [f"{name_of(label, names)} {score:.2f}" for label, score in zip(labels.tolist(), scores, strict=True)]
    if track_ids is not None:
        numbered = zip(track_ids.tolist(), captions, strict=True)
        captions = [caption if track < 0 else f"#{track} {caption}" for track, caption in numbered]
    captions, solid = [captions[row] for row in best_first], np.zeros(len(scores), dtype=bool)
    boxes_xyxy, labels = boxes_xyxy[best_first], labels[best_first]
    return draw_objects(image_rgb, boxes_xyxy, labels, solid, names, captions=captions, min_side=min_side)


def draw_objects(
    image_rgb: UInt8[np.ndarray, "H W 3"],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    labels: Int64[np.ndarray, " N"],
    ignored: Bool[np.ndarray, " N"],
    names: Sequence[str],
    *,
    captions: Sequence[str] | None = None,
    colors: Sequence[Color] | None = None,
    min_side: int = 0,
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """A copy of the image with objects on it, the first on top; ignored ones (difficult, crowd) have broken lines.

    `captions` None takes the names of the objects' labels, `colors` None the colours of their classes. An empty
    caption has no tag. For the rest see `draw_detections`.
    """
    shorter, longer = sorted(image_rgb.shape[:2])
    factor = max(1, min(-(-min_side // max(1, shorter)), LONGEST_ENLARGED_SIDE // max(1, longer)))
    image = np.ascontiguousarray(image_rgb).copy()
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    size_hw = image.shape[0], image.shape[1]
    typical_side = (size_hw[0] * size_hw[1]) ** 0.5
    line_width, text_size = max(2, round(typical_side / 400)), max(11, round(7 + 0.011 * typical_side))
    face = cv2.FontFace(FONT)  # not shared: only one thread at a time may use a face

    def tag_width(text: str) -> int:
        return cv2.getTextSize((0, 0), text, (0, 0), face, text_size, WEIGHT)[2] + 6

    boxes = [_inside(box * factor, size_hw) for box in boxes_xyxy]
    colors = [class_color(int(label)) for label in labels] if colors is None else colors
    captions = [name_of(int(label), names) for label in labels] if captions is None else captions
    captions = [one_line(caption) for caption in captions]
    tags: list[tuple[str, Rectangle, Color]] = []
    for box, caption, color in zip(boxes, captions, colors, strict=True):
        if not caption:
            continue
        text = _shortened(caption, tag_width, size_hw[1])
        tag_wh = tag_width(text), round(1.35 * text_size) + 1
        tags.append((text, _free_spot(box, tag_wh, size_hw, [spot for _, spot, _ in tags]), color))
    for box, color, broken in reversed(list(zip(boxes, colors, ignored, strict=True))):
        x0, y0, x1, y1 = box
        _draw_lines(image, (max(0, x0 - 1), max(0, y0 - 1), x1 + 1, y1 + 1), OUTLINE, line_width + 2, broken=False)
        _draw_lines(image, box, color, line_width, bool(broken))
    for text, (x0, y0, x1, y1), color in reversed(tags):
        image[y0:y1, x0:x1] = color
        # Perceived lightness (ITU-R BT.601 luma): dark text on light colours, light on dark.
        letters = (0, 0, 0) if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 125 else (255, 255, 255)
        cv2.putText(image, text, (x0 + 3, y0 + text_size), letters, face, text_size, WEIGHT)
    return image


def _shortened(caption: str, width_of: Callable[[str], int], most: int) -> str:
    """The caption, or as many of its first letters (one at least) and three dots as are `most` pixels wide together."""
    letters = caption[: most // 2]  # a letter takes two pixels at least; to measure thousands of them takes seconds
    if letters == caption and width_of(caption) <= most:
        return caption
    fitting = bisect_right(range(1, len(letters) + 1), most, key=lambda count: width_of(f"{letters[:count]}..."))
    return f"{letters[: max(1, fitting)]}..."


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


def _inside(box_xyxy: np.ndarray, size_hw: tuple[int, int]) -> Rectangle:
    """The part of a box inside the image, in whole pixels; at least one pixel, never reversed."""
    height, width = size_hw
    x0, y0, x1, y1 = (round(float(v)) for v in np.clip(np.nan_to_num(box_xyxy), 0, (width, height, width, height)))
    x0, y0 = min(x0, x1, width - 1), min(y0, y1, height - 1)
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def _draw_lines(image: np.ndarray, box: Rectangle, color: Color, line_width: int, broken: bool) -> None:
    """Draw the four sides of a box, inside it; the box may reach beyond the right and lower border of the image."""
    x0, y0, x1, y1 = box
    rows = image[y0:y1, x0:x1]
    columns = rows.swapaxes(0, 1)  # a view
    bottom, right = max(0, y1 - y0 - line_width), max(0, x1 - x0 - line_width)
    for side in (rows[:line_width], rows[bottom:], columns[:line_width], columns[right:]):
        drawn = np.arange(side.shape[1]) // (4 * line_width) % 2 == 0 if broken else slice(None)
        side[:, drawn] = color
