"""Tables whose rows are tiles of images, and the tiling that suits a data set."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from onestage.data.decoded_images import DecodedImages
from onestage.data.table import OBJECT_COLUMNS, Table
from onestage.input_size import Resize, Stretch
from onestage.runtime.tiles import LEAST_SIDE, Tiling

# Share of the objects: with more, tiles cost more than they find. Photographs as COCO's are not cut: 41 % of their
# objects are below 32 x 32 pixels (cocodataset.org, detection evaluation), which is 17 at SSD300's input.
REACHED_BY_WHOLE_IMAGES = 0.5
SMALL_OBJECTS = 0.1  # share of the objects that may be smaller than what the detector reaches
LONG_OBJECTS = 0.01  # share of the objects that may be longer than the overlap without the whole image as a tile
LARGEST_OVERLAP = 1 / 3  # of a tile's side, unless more is asked for
MOST_ENLARGED = 2.0  # from a tile to the network's input: more shows nothing new
MOST_LARGER = 3.0  # a larger input's side over the usual one's: then memory and coarse maps speak for tiles
INPUT_MULTIPLE = 32  # of the sides of inputs, which maps down to stride 32 divide
PAIRS_AT_ONCE = 1 << 20  # of tiles and objects, which are held in memory
FAINT = 0.5  # of the side that a detector reaches: smaller objects are ignored where the whole image is a tile


def side_of_larger_input(table: Table, resize: Resize, least_object_side: float) -> tuple[int | None, str]:
    """Side of a larger square input that lets the detector reach nine of ten objects, and a line that says why.

    Objects are as large in it as in tiles, which cost more: neighbours share pixels. None where the usual input serves,
    is no square, or would have to grow more than `MOST_LARGER` times.
    """
    sides = np.sqrt(table.box_sizes_hw(resize).prod(axis=1))
    if not isinstance(resize, Stretch) or not len(sides):
        return None, ""
    reached = float((sides >= least_object_side).mean())
    larger = least_object_side / float(np.quantile(sides, SMALL_OBJECTS))
    if reached >= REACHED_BY_WHOLE_IMAGES or larger > MOST_LARGER:
        return None, ""
    enlarged = MOST_ENLARGED * float(np.median(table.image_sizes_hw.max(axis=1)))
    side = math.ceil(min(larger * resize.side, enlarged) / INPUT_MULTIPLE) * INPUT_MULTIPLE
    if side <= resize.side:
        return None, ""
    return side, (
        f"input of {side} x {side}: {float((sides * side / resize.side >= least_object_side).mean()):.0%} of the "
        f"objects are then {least_object_side:g} px or more, {reached:.0%} at {resize}; as large as in tiles, without "
        "their borders and what they share"
    )


def choose_tiling(
    table: Table,
    resize: Resize,
    least_object_side: float,
    side: int | Literal["auto"] = "auto",
    overlap: int | None = None,
) -> tuple[Tiling | None, str]:
    """The tiling for a data set, and a line that says why.

    Args:
        table: the training images.
        resize: how images, and so tiles, are brought to the detector's input.
        least_object_side: sides of objects that the detector reaches, pixels of its input; see `DetectorConfig`.
        side: of the tiles, pixels of the images. "auto": as large as it may be with nine of ten objects at a side that
            the detector reaches, though half as large as its input at least; no tiles where whole images serve.
        overlap: of neighbours, pixels. None: the length of nearly every object.
    """
    sizes = table.box_sizes_hw(None)
    if not len(sizes):
        if side == "auto":
            return None, "whole images, no tiles: there are no objects"
        return Tiling(side, side // 4 if overlap is None else overlap, whole=True), ""
    sides, longest = np.sqrt(sizes.prod(axis=1)), sizes.max(axis=1)
    in_input = np.sqrt(table.box_sizes_hw(resize).prod(axis=1))
    reached = float((in_input >= least_object_side).mean())
    said = f"{reached:.0%} of the objects are {least_object_side:g} px or more in the detector's input"
    if side == "auto":
        if reached >= REACHED_BY_WHOLE_IMAGES:
            return None, f"whole images, no tiles: {said}"
        small = float(np.quantile(sides, SMALL_OBJECTS))
        enlarged = min(least_object_side / small, MOST_ENLARGED)
        side = max(LEAST_SIDE, math.floor(_side_of_square(resize) / enlarged))
        if side >= table.image_sizes_hw.max():
            return None, f"whole images, no tiles, which would be no smaller: {said}"
    if overlap is None:
        nearly_all = float(np.quantile(longest, 1 - LONG_OBJECTS))
        overlap = min(math.ceil(nearly_all), int(side * LARGEST_OVERLAP))
    tiling = Tiling(side, overlap, whole=float((longest > overlap).mean()) > LONG_OBJECTS)
    scale = _side_of_square(resize) / side
    in_tiles = float((sides * scale >= least_object_side).mean())
    count = np.mean([len(tiling.windows_xyxy((height, width))) for height, width in table.image_sizes_hw.tolist()])
    return tiling, (
        f"tiles of {tiling}, {count:.3g} an image: {in_tiles:.0%} of the objects are then {least_object_side:g} px or "
        f"more in the detector's input, {reached:.0%} in whole images"
    )


def _side_of_square(resize: Resize) -> float:
    height, width = resize.image_hw((1000, 1000))
    return math.sqrt(height * width)


def image_tiles(table: Table, tiling: Tiling, decoded: DecodedImages) -> tuple[Table, Int64[np.ndarray, " R"]]:
    """Every tile of every image as a row of a table without objects, and the image that each row is of."""
    windows_xyxy, image = _windows(table, tiling)
    nothing = {name: getattr(table, name)[:0] for name in OBJECT_COLUMNS}
    first_object = np.zeros(len(image) + 1, dtype=np.int64)
    return replace(table, first_object=first_object, **nothing, **_rows(table, windows_xyxy, image, decoded)), image


def training_tiles(
    table: Table,
    tiling: Tiling,
    *,
    resize: Resize,
    least_object_side: float,
    visible: float = 0.5,
    empty: float = 0.2,
    decoded: DecodedImages,
) -> Table:
    """The tiles that train. Those without an object come last; each epoch shows some of them (`Table.spare_shown`).

    Args:
        visible: part of an object's area. Where a tile shows less of it, the object is ignored there; its box ends at
            the tile's border in any case.
        empty: share of an epoch's tiles that show no object.
    """
    windows_xyxy, image = _windows(table, tiling)
    row, object_row, boxes_xyxy, shown = _visible_objects(table, windows_xyxy, image)
    origin = windows_xyxy[row, :2].astype(np.float32)
    ignored = table.ignored[object_row] | (shown < visible)
    sizes_hw = (windows_xyxy[:, [3, 2]] - windows_xyxy[:, [1, 0]])[row]
    if tiling.whole:
        is_whole = (sizes_hw == table.image_sizes_hw[image[row]]).all(axis=1) & (np.bincount(image) > 1)[image[row]]
        resized = np.array([resize.image_hw((height, width)) for height, width in sizes_hw.tolist()]).reshape(-1, 2)
        sides = np.sqrt((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1) * (resized / sizes_hw).prod(axis=1))
        ignored |= is_whole & (sides < FAINT * least_object_side)
    has_objects = np.zeros(len(image), dtype=bool)
    has_objects[row[~ignored]] = True
    order = np.argsort(~has_objects, kind="stable")
    new_row = np.empty_like(order)
    new_row[order] = np.arange(len(order))
    by_row = np.argsort(new_row[row], kind="stable")
    counts = np.bincount(new_row[row], minlength=len(order))
    spare = int((~has_objects).sum())
    shown_spare = spare if spare == len(order) or empty >= 1 else round(empty / (1 - empty) * (len(order) - spare))
    boxes = (boxes_xyxy - np.tile(origin, 2))[by_row]
    return replace(
        table,
        **_rows(table, windows_xyxy[order], image[order], decoded),
        first_object=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xyxy=boxes.astype(np.float32),
        labels=table.labels[object_row][by_row],
        ignored=ignored[by_row],
        difficult=table.difficult[object_row][by_row],
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1).astype(np.float32),
        spare=spare,
        spare_shown=min(spare, shown_spare),
    )


def _windows(table: Table, tiling: Tiling) -> tuple[Int64[np.ndarray, "R 4"], Int64[np.ndarray, " R"]]:
    """The windows of all images, in their order, and the image of each."""
    windows_of = cache(tiling.windows_xyxy)  # most images have one size
    windows = [windows_of((height, width)) for height, width in table.image_sizes_hw.tolist()]
    if not windows:
        return np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(windows), np.repeat(np.arange(len(windows)), [len(one) for one in windows])


def _rows(
    table: Table, windows_xyxy: Int64[np.ndarray, "R 4"], image: Int64[np.ndarray, " R"], decoded: DecodedImages
) -> dict[str, Any]:
    """The columns of images for these tiles."""
    return {
        "image_paths": table.image_paths[image],
        "image_ids": table.image_ids[image],
        "image_sizes_hw": (windows_xyxy[:, [3, 2]] - windows_xyxy[:, [1, 0]]).astype(np.int32),
        "windows_xyxy": windows_xyxy.astype(np.int32),
        "whole_sizes_hw": table.image_sizes_hw[image],
        "decoded": decoded,
    }


def _visible_objects(
    table: Table, windows_xyxy: Int64[np.ndarray, "R 4"], image: Int64[np.ndarray, " R"]
) -> tuple[np.ndarray, np.ndarray, Float64[np.ndarray, "M 4"], Float64[np.ndarray, " M"]]:
    """For each tile and each object that it shows: row, object, the box that is shown (pixels of the image), and how
    much of its area that is."""
    counts = np.diff(table.first_object)[image]  # objects of each tile's image
    pairs_before = np.cumsum(counts) - counts
    parts = []
    for rows in np.split(np.arange(len(image)), np.flatnonzero(np.diff(pairs_before // PAIRS_AT_ONCE)) + 1):
        row = np.repeat(rows, counts[rows])
        first = table.first_object[:-1][image[row]]
        object_row = first + np.arange(len(row)) - (pairs_before[row] - pairs_before[rows[:1]])
        boxes, windows = table.boxes_xyxy[object_row].astype(np.float64), windows_xyxy[row]
        low, high = np.maximum(boxes[:, :2], windows[:, :2]), np.minimum(boxes[:, 2:], windows[:, 2:])
        seen = (high > low).all(axis=1)
        shown = (high - low)[seen].prod(axis=1) / (boxes[:, 2:] - boxes[:, :2])[seen].prod(axis=1)
        parts.append((row[seen], object_row[seen], np.concatenate([low, high], axis=1)[seen], shown))
    row, object_row, shown_xyxy, shown = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, object_row, shown_xyxy, shown
