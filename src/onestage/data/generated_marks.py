"""Drawn data sets of small objects: marks of a dozen pixels, strewn over a large image.

Shape alone tells the six classes apart: marks and the background's lines and blobs take any colour. Marks do not hide
each other, and each lies whole in the image.
"""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.data.generated import Drawing, background, write_drawn_voc

MARKS = ("bar", "cross", "disc", "frame", "ring", "triangle")
SCALE = 8  # marks are drawn so much larger, then shrunk, which gives them soft edges
PLACE_TRIALS = 50
LEAST_CONTRAST = 60  # mean difference of a mark's colour and what it covers, of 255


def write_marks_voc(
    root: str | Path,
    *,
    size_hw: tuple[int, int] = (640, 640),
    sides: tuple[int, int] = (12, 24),
    count: int = 8,
    seed: int = 0,
    train: int = 300,
    test: int = 100,
) -> None:
    """Write a VOC folder of images with `count` marks each, whose longer sides are from `sides`, pixels."""
    write_drawn_voc(root, lambda rng: draw_marks(rng, size_hw, sides, count), MARKS, seed=seed, train=train, test=test)


def draw_marks(rng: np.random.Generator, size_hw: tuple[int, int], sides: tuple[int, int], count: int) -> Drawing:
    """Draw one image with its marks."""
    image = background(rng, *size_hw)
    taken = np.zeros(size_hw, dtype=bool)
    boxes: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    for _ in range(count):
        name, longer = str(rng.choice(MARKS)), int(rng.integers(sides[0], sides[1] + 1))
        cover = _cover(name, longer, turned=bool(rng.integers(2)))
        height, width = cover.shape
        for _ in range(PLACE_TRIALS):
            x, y = (int(rng.integers(0, length - side)) for length, side in ((size_hw[1], width), (size_hw[0], height)))
            around = slice(max(0, y - 2), y + height + 2), slice(max(0, x - 2), x + width + 2)
            if not taken[around].any():
                break
        else:
            continue
        taken[around] = True
        place = image[y : y + height, x : x + width]
        opacity = (cover / 255.0)[..., None]
        place[:] = (place + (_colour(rng, place) - place) * opacity).round().astype(np.uint8)
        boxes.append((x, y, x + width, y + height))
        names.append(name)
    noise = rng.uniform(1, 5) * rng.standard_normal((*size_hw, 1), dtype=np.float32)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    boxes_xyxy = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Drawing(image, boxes_xyxy, tuple(names), np.zeros(len(names), dtype=bool))


def _cover(name: str, longer: int, *, turned: bool) -> UInt8[np.ndarray, "h w"]:
    """How much of each pixel a mark covers, of 255; it reaches to all four sides."""
    side = longer * SCALE
    middle, thick = side // 2, side // 4
    height = side // 3 if name == "bar" else side
    canvas = np.zeros((height, side), dtype=np.uint8)
    if name == "bar":
        canvas[:] = 255
    elif name == "cross":
        canvas[middle - thick // 2 : middle + thick // 2] = 255
        canvas[:, middle - thick // 2 : middle + thick // 2] = 255
    elif name == "frame":
        canvas[:] = 255
        canvas[thick:-thick, thick:-thick] = 0
    elif name == "triangle":
        cv2.fillConvexPoly(canvas, np.array([(middle, 0), (side - 1, side - 1), (0, side - 1)]), 255)
    else:
        cv2.circle(canvas, (middle, middle), middle, 255, -1)
        if name == "ring":
            cv2.circle(canvas, (middle, middle), middle - thick, 0, -1)
    cover = cv2.resize(canvas, (longer, max(1, round(height / SCALE))), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(cover.T) if turned and name == "bar" else cover


def _colour(rng: np.random.Generator, place: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    """Any colour that stands out from what is there."""
    below = place.reshape(-1, 3).mean(axis=0)
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - below).mean() >= LEAST_CONTRAST:
            return colour
