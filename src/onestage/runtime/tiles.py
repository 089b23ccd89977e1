"""Large images as overlapping tiles, and the detections of tiles as those of their image.

A tile is a window of an image, in the image's own pixels. Neighbours overlap, so that what is no longer than the
overlap lies whole in one of them. Two detections of different tiles are of one object where the parts of their boxes
that both tiles see agree. Then

- a box that ends at its tile's border, where the other tile goes on, is a piece: the other box takes its place;
- two pieces, each of which goes on in the other's tile, are joined: an object longer than the overlap;
- of two others, the one with the higher score stays, as in any non-maximum suppression.

All is arithmetic on arrays of N detections and P pairs of them; nothing goes through boxes one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from .errors import UserError

BORDER = 0.03  # of a tile's side: a box that ends so near to the border is taken to be cut by it
LEAST_SIDE, MOST_SIDE = 32, 100_000  # pixels
PAIRS_AT_ONCE = 1 << 22  # of detections and tiles, which are held in memory


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    Attributes:
        side: pixels of the image; a tile of an image that is smaller is as long as that.
        overlap: pixels that neighbours share at least.
        whole: the whole image is one more tile, for objects that are longer than the overlap.
    """

    side: int
    overlap: int
    whole: bool = False

    def __post_init__(self) -> None:
        if not LEAST_SIDE <= self.side <= MOST_SIDE or not 0 <= self.overlap <= self.side // 2:
            raise UserError(
                f"tiles of {self.side} pixels that overlap by {self.overlap}: expected {LEAST_SIDE} to {MOST_SIDE:,} "
                "pixels, of which at most half overlap"
            )

    def __str__(self) -> str:
        return f"{self.side} px that overlap by {self.overlap}" + (", and the whole image" if self.whole else "")

    @classmethod
    def from_header(cls, value: Any, name: str) -> Tiling | None:
        """The tiling in a model's header; None: none. A UserError for anything else, with the file's name."""
        if value is None:
            return None
        kinds = {"side": int, "overlap": int, "whole": bool}
        if not isinstance(value, dict) or {key: type(one) for key, one in value.items()} != kinds:
            raise UserError(f"{name}: the tiles in its header are damaged; use another copy")
        return cls(**value)

    def windows_xyxy(self, size_hw: tuple[int, int]) -> Int64[np.ndarray, "T 4"]:
        """The tiles of an image, row by row, evenly spaced; the whole image comes last, where it is one."""
        height, width = size_hw
        tops, lefts = (self._starts(length) for length in (height, width))
        y0, x0 = (axis.ravel() for axis in np.meshgrid(tops, lefts, indexing="ij"))
        windows = np.stack([x0, y0, np.minimum(x0 + self.side, width), np.minimum(y0 + self.side, height)], axis=1)
        if self.whole and len(windows) > 1:
            windows = np.concatenate([windows, [[0, 0, width, height]]])
        return windows

    def _starts(self, length: int) -> Int64[np.ndarray, " S"]:
        count = 1 if length <= self.side else -(-(length - self.overlap) // (self.side - self.overlap))
        return np.linspace(0, max(0, length - self.side), count).round().astype(np.int64)


@dataclass(frozen=True)
class TileDetections:
    """Detections of all tiles of an image, in its pixels."""

    boxes_xyxy: Float64[np.ndarray, "N 4"]
    scores: Float64[np.ndarray, " N"]
    labels: Int64[np.ndarray, " N"]
    seen_xyxy: Float64[np.ndarray, "N 4"]  # what the network saw of the image: the detection's tile
    row: Int64[np.ndarray, " N"]  # of the detections that were given; of joined pieces the one with the highest score
    joined: Bool[np.ndarray, " N"]  # of pieces, so what was seen is several tiles

    @classmethod
    def of_tiles(
        cls,
        windows_xyxy: Int64[np.ndarray, "T 4"],
        found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    ) -> TileDetections:
        """Of the boxes (in pixels of the tile, at its own size), scores and labels of each tile."""
        boxes, scores, labels = (np.concatenate(column) for column in zip(*found, strict=True))
        seen = np.repeat(windows_xyxy, [len(one[1]) for one in found], axis=0).astype(np.float64)
        boxes_xyxy = boxes.astype(np.float64) + np.tile(seen[:, :2], 2)
        row, joined = np.arange(len(scores)), np.zeros(len(scores), dtype=bool)
        return cls(boxes_xyxy, scores.astype(np.float64), labels.astype(np.int64), seen, row, joined)

    def at(self, rows: np.ndarray) -> TileDetections:
        """Some of them."""
        return TileDetections(*(column[rows] for column in vars(self).values()))


def merge_tiles(
    found: TileDetections, size_hw: tuple[int, int], iou_threshold: float, *, class_agnostic: bool = False
) -> TileDetections:
    """The detections of an image from those of its tiles, best first.

    Args:
        found: of each tile what its own non-maximum suppression left.
        size_hw: height and width of the image.
        iou_threshold: IoU of the parts that both tiles see, above which two detections are of one object.
        class_agnostic: detections of different classes may be of one object.
    """
    if class_agnostic:
        labels, found = found.labels, _with(found, labels=np.zeros_like(found.labels))
    found = _joined(found, size_hw, iou_threshold)
    found = _without_pieces(found, size_hw, iou_threshold)
    found = found.at(np.lexsort((-_areas(found.boxes_xyxy), -found.scores)))
    pairs = _pairs(found, size_hw, iou_threshold)
    found = found.at(_best_of_pairs(len(found.scores), np.minimum(pairs.a, pairs.b), np.maximum(pairs.a, pairs.b)))
    return _with(found, labels=labels[found.row]) if class_agnostic else found


@dataclass(frozen=True)
class _Pairs:
    """Pairs of detections that different tiles have of one object."""

    a: Int64[np.ndarray, " P"]
    b: Int64[np.ndarray, " P"]
    iou: Float64[np.ndarray, " P"]  # of the parts that both tiles see
    a_goes_on: Bool[np.ndarray, " P"]  # a ends at its tile's border, and b's tile goes on there
    b_goes_on: Bool[np.ndarray, " P"]

    def at(self, rows: np.ndarray) -> _Pairs:
        return _Pairs(*(column[rows] for column in vars(self).values()))


def _pairs(found: TileDetections, size_hw: tuple[int, int], iou_threshold: float) -> _Pairs:
    tiles, tile = _tiles(found)
    a, b = _in_both_tiles(found, tiles, tile)
    shared = _overlap(tiles[tile[a]], tiles[tile[b]])
    iou = _iou(_overlap(found.boxes_xyxy[a], shared), _overlap(found.boxes_xyxy[b], shared))
    same = iou > iou_threshold
    a, b, iou = a[same], b[same], iou[same]
    cut = _cut_sides(found, size_hw)
    a_goes_on, b_goes_on = (
        (cut[one] & _inside(tiles[tile[one]], tiles[tile[other]])).max(axis=1, initial=False)
        for one, other in ((a, b), (b, a))
    )
    return _Pairs(a, b, iou, a_goes_on, b_goes_on)


def _tiles(found: TileDetections) -> tuple[Float64[np.ndarray, "T 4"], Int64[np.ndarray, " N"]]:
    """What the network saw: each different part of the image, and the one of each detection.

    What joined pieces have seen is apart, since the whole image may be as large and another view of it.
    """
    seen = np.concatenate([found.seen_xyxy, found.joined[:, None]], axis=1)
    tiles, tile = np.unique(seen, axis=0, return_inverse=True)
    return tiles[:, :4], tile.reshape(-1)


def _in_both_tiles(
    found: TileDetections, tiles: Float64[np.ndarray, "T 4"], tile: Int64[np.ndarray, " N"]
) -> tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """All pairs of one class and two tiles, of which each box reaches into the other's tile."""
    first, counts, others = _neighbours(tiles)
    pairs_before = np.cumsum(counts[tile]) - counts[tile]
    parts = [np.zeros((2, 0), dtype=np.int64)]
    for rows in np.split(np.arange(len(tile)), np.flatnonzero(np.diff(pairs_before // PAIRS_AT_ONCE)) + 1):
        row = np.repeat(rows, counts[tile[rows]])
        place = np.arange(len(row)) - (pairs_before[row] - pairs_before[rows[:1]])
        other = others[first[tile[row]] + place]
        reaches = _meet(found.boxes_xyxy[row], tiles[other])
        parts.append(np.stack([row[reaches], other[reaches]]))
    detection, other = np.concatenate(parts, axis=1)
    own = tile[detection]
    # those that are seen by the same two tiles and have one class share a key
    key = (np.minimum(own, other) * len(tiles) + np.maximum(own, other)) * (found.labels.max(initial=0) + 1)
    key += found.labels[detection]
    first = own < other
    order = np.argsort(key[~first], kind="stable")
    second_key, second = key[~first][order], detection[~first][order]
    start, end = (np.searchsorted(second_key, key[first], side) for side in ("left", "right"))
    counts = end - start
    of_first = np.repeat(np.arange(len(counts)), counts)
    place = start[of_first] + np.arange(len(of_first)) - np.repeat(np.cumsum(counts) - counts, counts)
    return detection[first][of_first], second[place]


def _neighbours(
    tiles: Float64[np.ndarray, "T 4"],
) -> tuple[Int64[np.ndarray, " T"], Int64[np.ndarray, " T"], Int64[np.ndarray, " P"]]:
    """The tiles that share pixels with each tile, which are all that a box in it can reach: first, count, tiles."""
    parts, step = [np.zeros((2, 0), dtype=np.int64)], max(1, PAIRS_AT_ONCE // max(1, len(tiles)))
    for start in range(0, len(tiles), step):
        meets = _meet(tiles[start : start + step, None], tiles)  # (T, T)
        meets[np.arange(len(meets)), start + np.arange(len(meets))] = False
        parts.append(np.stack(meets.nonzero()) + np.array([[start], [0]]))
    tile, others = np.concatenate(parts, axis=1)
    counts = np.bincount(tile, minlength=len(tiles))
    return np.cumsum(counts) - counts, counts, others


def _joined(found: TileDetections, size_hw: tuple[int, int], iou_threshold: float) -> TileDetections:
    """With the pieces of an object in one box. A piece is joined to at most one of each other tile: the most alike."""
    pairs = _pairs(found, size_hw, iou_threshold)
    pairs = pairs.at(pairs.a_goes_on & pairs.b_goes_on)
    if not len(pairs.a):
        return found
    tile = _tiles(found)[1]
    best = [
        pairs.iou == _largest((one, tile[other]), pairs.iou) for one, other in ((pairs.a, pairs.b), (pairs.b, pairs.a))
    ]
    pairs = pairs.at(best[0] & best[1])
    group = np.arange(len(found.scores))
    while True:  # once for each tile that the longest object spans
        least = np.minimum(group[pairs.a], group[pairs.b])
        before = group.copy()
        np.minimum.at(group, pairs.a, least)
        np.minimum.at(group, pairs.b, least)
        if (group == before).all():
            break
    by_score = np.argsort(-found.scores, kind="stable")
    best_of_group = by_score[np.unique(group[by_score], return_index=True)[1]]  # in the order of the groups
    member = np.unique(group, return_inverse=True)[1].reshape(-1)
    merged = _with(found.at(best_of_group), joined=np.bincount(member) > 1)
    columns = {"boxes_xyxy": merged.boxes_xyxy.copy(), "seen_xyxy": merged.seen_xyxy.copy()}
    for name, column in columns.items():
        np.minimum.at(column[:, :2], member, getattr(found, name)[:, :2])
        np.maximum.at(column[:, 2:], member, getattr(found, name)[:, 2:])
    return _with(merged, **columns)


def _without_pieces(found: TileDetections, size_hw: tuple[int, int], iou_threshold: float) -> TileDetections:
    """Without the boxes that go on in another tile whose box is larger; the best of those gets the higher score."""
    pairs, areas = _pairs(found, size_hw, iou_threshold), _areas(found.boxes_xyxy)
    piece, longer = np.where(pairs.a_goes_on, (pairs.a, pairs.b), (pairs.b, pairs.a))
    is_one = (pairs.a_goes_on != pairs.b_goes_on) & (areas[longer] > areas[piece])
    piece, longer = piece[is_one], longer[is_one]
    order = np.lexsort((found.scores[longer], piece))  # of a piece the best comes last
    heir = np.arange(len(found.scores))
    heir[piece[order]] = longer[order]
    while (heir != heir[heir]).any():  # areas grow from heir to heir, so this ends
        heir = heir[heir]
    scores = found.scores.copy()
    np.maximum.at(scores, heir, found.scores)
    return _with(found, scores=scores).at(heir == np.arange(len(heir)))


def _best_of_pairs(
    count: int, better: Int64[np.ndarray, " P"], worse: Int64[np.ndarray, " P"]
) -> Bool[np.ndarray, " N"]:
    """Of rows, best first, those that are no worse one of a pair with a row that stays."""
    stays, waits = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    while waits.any():
        open_pairs = waits[better] & waits[worse]
        better, worse = better[open_pairs], worse[open_pairs]
        settled = waits.copy()
        settled[worse] = False
        stays |= settled
        waits &= ~settled
        waits[worse[settled[better]]] = False
    return stays


def _cut_sides(found: TileDetections, size_hw: tuple[int, int]) -> Bool[np.ndarray, "N 4"]:
    """The sides of each box that lie on the border of its tile, where the image goes on."""
    height, width = size_hw
    seen = found.seen_xyxy
    near = BORDER * np.tile((seen[:, 2:] - seen[:, :2]).min(axis=0, initial=np.inf), 2)  # joined pieces have seen more
    goes_on = np.concatenate([seen[:, :2] > 0, seen[:, 2:] < (width, height)], axis=1)
    return (np.abs(found.boxes_xyxy - seen) <= near) & goes_on


def _inside(tiles: Float64[np.ndarray, "P 4"], others: Float64[np.ndarray, "P 4"]) -> Bool[np.ndarray, "P 4"]:
    """The sides of each tile beyond which the other one goes on."""
    return np.concatenate([others[:, :2] < tiles[:, :2], others[:, 2:] > tiles[:, 2:]], axis=1)


def _largest(keys: tuple[np.ndarray, np.ndarray], values: Float64[np.ndarray, " P"]) -> Float64[np.ndarray, " P"]:
    """The largest value of all rows that have the same keys."""
    group = np.unique(np.stack(keys), axis=1, return_inverse=True)[1].reshape(-1)
    largest = np.zeros(group.max(initial=-1) + 1)
    np.maximum.at(largest, group, values)
    return largest[group]


def _overlap(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    low = np.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    return np.concatenate([low, np.maximum(np.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:]), low)], axis=-1)


def _meet(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    return (
        (a_xyxy[..., 0] < b_xyxy[..., 2])
        & (a_xyxy[..., 2] > b_xyxy[..., 0])
        & (a_xyxy[..., 1] < b_xyxy[..., 3])
        & (a_xyxy[..., 3] > b_xyxy[..., 1])
    )


def _areas(boxes_xyxy: np.ndarray) -> np.ndarray:
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(axis=-1)


def _iou(a_xyxy: Float64[np.ndarray, "P 4"], b_xyxy: Float64[np.ndarray, "P 4"]) -> Float64[np.ndarray, " P"]:
    both = _areas(_overlap(a_xyxy, b_xyxy))
    return both / np.maximum(_areas(a_xyxy) + _areas(b_xyxy) - both, 1e-9)


def _with(found: TileDetections, **columns: np.ndarray) -> TileDetections:
    return TileDetections(**{**vars(found), **columns})
