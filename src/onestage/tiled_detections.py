"""What of an image goes through the network, the image or its tiles; and its detections from those of its parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8

from onestage.errors import UserError
from onestage.input_size import Resize, SizeHW, resize_image
from onestage.postprocess import to_original
from onestage.runtime.tiles import TileDetections, Tiling, merge_tiles
from onestage.selection import Selection
from onestage.structures import Detections


def changed_tiling(own: Tiling | None, tile: int | str | None, overlap: int | None = None) -> Tiling | None:
    """A model's tiling with what a user asks for: "auto" or None keeps it, "none" is none, a number the tiles' side.

    An overlap that is left open is the model's, else a fifth of the side. The whole image is one more tile where the
    model's own tiles have it: one that was not trained so sees small objects at a size that it does not know.

    Raises:
        UserError: an overlap without tiles, or tiles that can't be.
    """
    if tile not in (None, "auto", "none") and not isinstance(tile, int):
        raise UserError(f"tile {tile}: expected auto, none, or a number of pixels")
    if tile == "none" or (own is None and not isinstance(tile, int)):
        if overlap is not None:
            raise UserError(f"tile overlap {overlap}: there are no tiles; give their side, too")
        return None
    side = tile if isinstance(tile, int) else own.side if own is not None else 0
    if overlap is None:
        overlap = min(own.overlap, side // 2) if own is not None else side // 5
    return Tiling(side, overlap, own is not None and own.whole)


def windows_of(tiling: Tiling | None, size_hw: SizeHW) -> Int64[np.ndarray, "T 4"]:
    """The tiles of an image of this size; without a tiling, the whole image."""
    height, width = size_hw
    return np.array([[0, 0, width, height]]) if tiling is None else tiling.windows_xyxy(size_hw)


def count_windows(tiling: Tiling | None, sizes_hw: Int[np.ndarray, "I 2"]) -> int:
    """How many tiles images of these sizes have together; without a tiling, one each."""
    if tiling is None:
        return len(sizes_hw)
    sizes, counts = np.unique(sizes_hw, axis=0, return_counts=True)
    of_each = (len(tiling.windows_xyxy((height, width))) for height, width in sizes.tolist())
    return sum(tiles * count for tiles, count in zip(of_each, counts.tolist(), strict=True))


@dataclass(frozen=True)
class _Tiles(Sequence[Any]):
    """Tiles of an image, each resized when it is asked for: together they are often several times as large."""

    image: UInt8[np.ndarray, "H W 3"]
    windows_xyxy: Int64[np.ndarray, "T 4"]
    resize: Resize

    def __len__(self) -> int:
        return len(self.windows_xyxy)

    def __getitem__(self, place: Any) -> UInt8[np.ndarray, "h w 3"]:
        x0, y0, x1, y1 = self.windows_xyxy[place].tolist()
        return resize_image(self.image[y0:y1, x0:x1], self.resize.image_hw((y1 - y0, x1 - x0)))


@dataclass(frozen=True)
class PreparedImage:
    """An image, or its tiles, resized for the network."""

    pixels: Sequence[UInt8[np.ndarray, "h w 3"]]  # RGB, each at most as large as the network's input
    original_hw: SizeHW  # before resizing
    windows_xyxy: Int64[np.ndarray, "T 4"]  # what each shows of the image, in its pixels

    @classmethod
    def of(cls, image: UInt8[np.ndarray, "H W 3"], tiling: Tiling | None, resize: Resize) -> PreparedImage:
        """An image cut and resized; tiles that are together larger than it are resized one by one, as they are used."""
        size_hw = image.shape[0], image.shape[1]
        windows_xyxy = windows_of(tiling, size_hw)
        tiles = _Tiles(image, windows_xyxy, resize)
        x0, y0, x1, y1 = windows_xyxy[0].tolist()
        larger = len(tiles) * math.prod(resize.image_hw((y1 - y0, x1 - x0))) > math.prod(size_hw)
        return cls(tiles if larger and len(tiles) > 1 else list(tiles), size_hw, windows_xyxy)


def kept_in_tiles(selection: Selection, evaluations: Selection, tiling: Tiling | None) -> Selection:
    """What to keep of each tile for `of_image`: all that evaluations keep, too.

    Tiles merged above other thresholds would give other boxes.
    """
    least = min(selection.score_threshold, evaluations.score_threshold)
    return selection if tiling is None else selection.changed(score_threshold=least)


def of_image(
    found: Sequence[Detections],
    windows_xyxy: Int64[np.ndarray, "T 4"],
    size_hw: SizeHW,
    resize: Resize,
    selection: Selection,
) -> Detections:
    """The detections of an image, in its pixels, from those of its tiles, in pixels of the network's input.

    The tiles' may have lower scores than `selection` keeps (`kept_in_tiles`). Of several tiles there may be more than
    `selection.max_detections`: that many a tile.
    """
    sizes_hw = (windows_xyxy[:, [3, 2]] - windows_xyxy[:, [1, 0]]).tolist()
    boxes = [to_original(one.boxes_xyxy, resize, (h, w)) for one, (h, w) in zip(found, sizes_hw, strict=True)]
    if len(found) == 1:
        return replace(found[0], boxes_xyxy=boxes[0]).filter(score=selection.score_thresholds)
    arrays = [
        (boxes_xyxy.numpy(), one.scores.numpy(), one.labels.numpy())
        for boxes_xyxy, one in zip(boxes, found, strict=True)
    ]
    merged = merge_tiles(
        TileDetections.of_tiles(windows_xyxy, arrays),
        size_hw,
        selection.iou_threshold,
        class_agnostic=selection.class_agnostic,
    )
    columns = torch.from_numpy(merged.boxes_xyxy).float(), torch.from_numpy(merged.scores).float()
    whole = replace(found[0], boxes_xyxy=columns[0], scores=columns[1], labels=torch.from_numpy(merged.labels))
    return whole.filter(score=selection.score_thresholds)
