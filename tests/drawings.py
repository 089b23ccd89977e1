"""One small set of labelled images, drawn: coloured rectangles of three classes on noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("dog", "cat", "bird")  # not in the alphabet's order, so that a tool's own order is told from a sorted one
COLOURS = {"dog": (225, 40, 40), "cat": (40, 60, 230), "bird": (40, 210, 60)}
Box = tuple[int, int, int, int]


class Drawing(NamedTuple):
    """One image."""

    stem: str
    size_wh: tuple[int, int]
    objects: tuple[tuple[str, Box], ...]  # class, x0, y0, x1, y1 in pixels from 0, half-open


DRAWINGS = (
    Drawing("img_00", (96, 72), (("dog", (4, 6, 40, 30)), ("cat", (50, 20, 90, 60)))),
    Drawing("img_01", (72, 96), (("bird", (10, 12, 30, 40)), ("dog", (34, 50, 70, 92)))),
    Drawing("img_02", (120, 80), (("cat", (0, 0, 40, 80)), ("bird", (60, 8, 100, 40)), ("dog", (70, 50, 118, 76)))),
    Drawing("img_03", (80, 80), (("cat", (8, 8, 36, 52)), ("dog", (44, 30, 80, 80)))),
    Drawing("img_04", (88, 64), (("bird", (20, 10, 50, 40)), ("bird", (54, 30, 84, 60)))),
    Drawing("img_05", (64, 100), (("dog", (6, 6, 26, 36)), ("cat", (30, 40, 60, 64)), ("bird", (4, 70, 40, 96)))),
)
Splits = Mapping[str, Sequence[Drawing]]
Placed = dict[str, dict[str, Drawing]]  # split -> path of an image below the folder -> what is in it
ALL: Splits = {"all": DRAWINGS}
TWO: Splits = {"train": DRAWINGS[:3], "val": DRAWINGS[3:]}
THREE: Splits = {"train": DRAWINGS[:3], "valid": DRAWINGS[3:5], "test": DRAWINGS[5:]}


def put(root: Path, path: str, content: object, encoding: str = "utf-8") -> None:
    """Write a text, or a value as JSON."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode(encoding))


def drawn(one: Drawing) -> Image.Image:
    """Rectangles in the colour of their class on noise that no other image has."""
    width, height = one.size_wh
    noise = np.random.default_rng(int(one.stem[-2:])).integers(60, 180, (height // 4, width // 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(one.size_wh, Image.Resampling.NEAREST)
    for name, (x0, y0, x1, y1) in one.objects:
        ImageDraw.Draw(image).rectangle((x0, y0, x1 - 1, y1 - 1), fill=COLOURS[name])
    return image


def draw(root: Path, path: str, splits: Splits = ALL) -> Placed:
    """Save the images; {split} and {stem} in the path are filled in."""
    placed: Placed = {}
    for split, drawings in splits.items():
        for one in drawings:
            place = path.format(split=split, stem=one.stem)
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            drawn(one).save(root / place)
            placed.setdefault(split, {})[place] = one
    return placed


def each(placed: Placed) -> Iterator[tuple[str, str, Drawing]]:
    """(split, name of the file, drawing) of every image."""
    return ((split, Path(path).name, one) for split, images in placed.items() for path, one in images.items())


def fractions(one: Drawing, box: Box) -> tuple[float, float, float, float]:
    (width, height), (x0, y0, x1, y1) = one.size_wh, box
    return x0 / width, y0 / height, x1 / width, y1 / height


def centred(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
