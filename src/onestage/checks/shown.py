"""The images on the doctor's page: examples of findings, and sheets of objects by class.

Each image is decoded once, whatever it is needed for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int64, UInt8

from onestage.checks.all_objects import AllObjects
from onestage.checks.checkup import Checkup
from onestage.checks.findings import Example, Finding
from onestage.compute.threads import in_threads
from onestage.data.table import Table
from onestage.drawing import OUTLINE, draw_objects
from onestage.evaluation.pages import jpeg_url
from onestage.runtime.decode import ImageError

MAX_DRAWN = 16  # examples of all findings together
MAX_SIDE = 360  # pixels of a drawn example
MAX_ENLARGED = 8  # times, of a tiny image
MAX_NAMED = 12  # objects of an example; of more, only the marked ones are named
MARKED, OTHERS = (255, 45, 85), (195, 205, 215)  # RGB
SHEETS, CROPS, COLUMNS = 40, 24, 6
TILE, GAP = 96, 4  # pixels of a crop on a sheet
CROP_MARGIN = 0.2  # of the object's longer side
EDGE, GROUND = (255, 230, 60), (128, 128, 128)  # RGB; a gray that suits a light and a dark page

Place = tuple[str, int]  # split, row of its table
ExampleKey = tuple[int, int]  # number of the finding, number of its example


class Sheet(NamedTuple):
    """Objects of one class side by side."""

    name: str
    count: int
    url: str  # "" where no image could be decoded


class Shown(NamedTuple):
    """All images of the page."""

    drawn: dict[ExampleKey, str]  # URL by example
    sheets: list[Sheet]
    more_classes: int  # that have objects and no sheet


@dataclass
class _Wanted:
    """What an image is needed for."""

    examples: dict[ExampleKey, Example] = field(default_factory=dict)
    crops: list[tuple[int, int]] = field(default_factory=list)  # (label, number of the object)


def show(checkup: Checkup, findings: Sequence[Finding], objects: AllObjects, names: Sequence[str]) -> Shown:
    """Draw the examples that are shown of the findings, and the sheets of the largest classes."""
    counts = np.bincount(objects.labels, minlength=len(names))
    with_objects = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    wanted: dict[Place, _Wanted] = defaultdict(_Wanted)
    for key, example in choose_examples(findings).items():
        wanted[example.split, int(example.image or 0)].examples[key] = example
    splits = list(checkup.tables)
    for label in with_objects[:SHEETS]:
        for row in choose_crops(objects, label).tolist():
            place = splits[objects.splits[row]], int(objects.images[row])
            wanted[place].crops.append((label, int(objects.numbers[row])))
    drawn: dict[ExampleKey, str] = {}
    tiles: dict[int, list[np.ndarray]] = defaultdict(list)
    made = in_threads(
        lambda place: _made(checkup.tables[place[0]], place[1], wanted[place]), sorted(wanted), "drawing examples"
    )
    for examples, crops in made:
        drawn |= examples
        for label, tile in crops:
            tiles[label].append(tile)
    sheets = [
        Sheet(names[label], int(counts[label]), jpeg_url(_grid(tiles[label]), 82) if tiles[label] else "")
        for label in with_objects[:SHEETS]
    ]
    return Shown(drawn, sheets, len(with_objects[SHEETS:]))


def choose_examples(findings: Sequence[Finding]) -> dict[ExampleKey, Example]:
    """The examples to draw: the first of each finding, then the second of each, ...; no image twice for a finding."""
    turns: list[tuple[int, ExampleKey, Example]] = []
    for number, finding in enumerate(findings):
        seen: set[tuple[str, int | None]] = set()
        for index, example in enumerate(finding.examples):
            place = example.split, example.image
            if example.image is not None and place not in seen:
                turns.append((len(seen), (number, index), example))
                seen.add(place)
    turns.sort(key=lambda turn: turn[:2])
    return {key: example for _, key, example in turns[:MAX_DRAWN]}


def choose_crops(objects: AllObjects, label: int) -> Int64[np.ndarray, " C"]:
    """Rows of at most `CROPS` objects of a class: drawn at random (always the same), from as many images as there are.

    Ignored objects come last.
    """
    rows = np.flatnonzero(objects.labels == label)
    rows = np.random.default_rng((0, label)).permutation(rows)
    # the first object of each image, then the second of each, ...
    by_image = np.lexsort((objects.images[rows], objects.splits[rows]))
    ordered = rows[by_image]
    begins = (np.diff(objects.splits[ordered], prepend=-1) != 0) | (np.diff(objects.images[ordered], prepend=-1) != 0)
    start = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    turn = np.empty(len(rows), dtype=np.int64)
    turn[by_image] = np.arange(len(rows)) - start
    return rows[np.lexsort((turn, objects.ignored[rows]))[:CROPS]]


def _made(table: Table, image: int, wanted: _Wanted) -> tuple[dict[ExampleKey, str], list[tuple[int, np.ndarray]]]:
    """URLs of the examples and (label, tile) of the crops that one image gives; none if it can't be decoded."""
    objects = table.objects(image)
    try:
        pixels = table.pixels(image, min_side=_needed_side(table, image, wanted))
    except ImageError:
        return {}, []
    shrunk_hw = np.array(pixels.shape[:2]) / table.image_sizes_hw[image]  # it may have been decoded smaller
    scale = shrunk_hw[[1, 0, 1, 0]]
    boxes_xyxy = objects.boxes_xyxy.astype(np.float64) * scale
    names = table.categories.names
    drawn = {
        key: jpeg_url(_drawn(pixels, boxes_xyxy, objects.labels, objects.ignored, names, example, scale))
        for key, example in wanted.examples.items()
    }
    return drawn, [(label, _tile(pixels, boxes_xyxy[number])) for label, number in wanted.crops]


def _needed_side(table: Table, image: int, wanted: _Wanted) -> int:
    """The pixels that the shorter side of an image needs for all that is made from it."""
    shorter, longer = sorted(table.image_sizes_hw[image].tolist())
    needed = MAX_SIDE * shorter / longer if wanted.examples else 1.0
    for _, number in wanted.crops:
        x0, y0, x1, y1 = table.objects(image).boxes_xyxy[number].tolist()
        needed = max(needed, TILE * shorter / max(1.0, (1 + 2 * CROP_MARGIN) * max(x1 - x0, y1 - y0)))
    return int(np.ceil(needed))


def _drawn(
    image: UInt8[np.ndarray, "H W 3"],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    labels: Int64[np.ndarray, " N"],
    ignored: np.ndarray,
    names: Sequence[str],
    example: Example,
    scale_xyxy: Float[np.ndarray, 4],
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The image at the size of the page with its objects, the marked ones on top; framed if none is marked."""
    scale = min(MAX_SIDE / max(image.shape[:2]), MAX_ENLARGED)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, (width, height), interpolation=method)
    marked = example.objects
    order = [*marked, *(number for number in range(len(labels)) if number not in marked)]
    to_small = np.array([width, height, width, height]) / np.array(image.shape[:2])[[1, 0, 1, 0]]
    captions = [
        names[int(labels[number])] if place < len(marked) or len(labels) <= MAX_NAMED else ""
        for place, number in enumerate(order)
    ]
    colors = [MARKED] * len(marked) + [OTHERS] * (len(order) - len(marked))
    drawn = draw_objects(
        small, boxes_xyxy[order] * to_small, labels[order], ignored[order], names, captions=captions, colors=colors
    )
    if example.box_xyxy is not None:
        x0, y0, x1, y1 = np.round(np.array(example.box_xyxy) * scale_xyxy * to_small).astype(int).tolist()
        cv2.rectangle(drawn, (x0, y0), (x1, y1), MARKED, 2)
    elif not marked:
        cv2.rectangle(drawn, (0, 0), (width - 1, height - 1), MARKED, 5)
    return drawn


def _tile(image: UInt8[np.ndarray, "H W 3"], box_xyxy: Float[np.ndarray, 4]) -> UInt8[np.ndarray, "T T 3"]:
    """An object with some of what surrounds it, and a thin line around its box, outside of it."""
    rows, columns = image.shape[:2]
    x0, y0, x1, y1 = box_xyxy.tolist()
    margin = max(2.0, CROP_MARGIN * max(x1 - x0, y1 - y0))
    left, top = (int(np.clip(low - margin, 0, most - 1)) for low, most in ((x0, columns), (y0, rows)))
    right = int(np.clip(np.ceil(x1 + margin), left + 1, columns))
    bottom = int(np.clip(np.ceil(y1 + margin), top + 1, rows))
    inner = TILE - 2  # the line needs a pixel on each side
    scale = inner / max(right - left, bottom - top)
    width, height = (max(1, round(side * scale)) for side in (right - left, bottom - top))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    tile = np.full((TILE, TILE, 3), GROUND, dtype=np.uint8)
    dx, dy = (TILE - width) // 2, (TILE - height) // 2
    tile[dy : dy + height, dx : dx + width] = cv2.resize(
        image[top:bottom, left:right], (width, height), interpolation=method
    )
    to_x, to_y = width / (right - left), height / (bottom - top)
    first = dx + round((x0 - left) * to_x) - 1, dy + round((y0 - top) * to_y) - 1
    last = dx + round((x1 - left) * to_x), dy + round((y1 - top) * to_y)
    cv2.rectangle(tile, (first[0] - 1, first[1] - 1), (last[0] + 1, last[1] + 1), OUTLINE, 1)
    cv2.rectangle(tile, first, last, EDGE, 1)
    return tile


def _grid(tiles: Sequence[np.ndarray]) -> UInt8[np.ndarray, "H W 3"]:
    """Tiles in rows of `COLUMNS`."""
    columns, rows = min(COLUMNS, len(tiles)), -(-len(tiles) // COLUMNS)
    pitch = TILE + GAP
    grid = np.full((rows * pitch - GAP, columns * pitch - GAP, 3), GROUND, dtype=np.uint8)
    for place, tile in enumerate(tiles):
        y, x = (place // COLUMNS * pitch, place % COLUMNS * pitch)
        grid[y : y + TILE, x : x + TILE] = tile
    return grid
