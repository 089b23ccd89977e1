"""Tiles of images, and their detections as those of the image. A perfect detector takes the place of the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onestage.detectors import DETECTORS
from onestage.errors import UserError
from onestage.runtime.tiles import TileDetections, Tiling, merge_tiles

SIDE, OVERLAP = 100, 40
TILING = Tiling(SIDE, OVERLAP)
IMAGE_HW = (340, 340)
Box = tuple[int, int, int, int]


def seen_by_tiles(
    objects: Sequence[tuple[Box, int, float]],
    tiling: Tiling = TILING,
    image_hw: tuple[int, int] = IMAGE_HW,
    least_side: int = 1,
) -> TileDetections:
    """What a perfect detector finds: of every object the part that a tile shows, if it is so long and so high."""
    windows, found = tiling.windows_xyxy(image_hw), []
    for window in windows:
        parts = []
        for box, label, score in objects:
            low, high = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
            if (high - low).min() >= least_side:
                parts.append((*(low - window[:2]), *(high - window[:2]), score, label))
        rows = np.array(parts, dtype=np.float64).reshape(-1, 6)
        found.append((rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)))
    return TileDetections.of_tiles(windows, found)


def boxes_of(found: TileDetections) -> list[Box]:
    return sorted((int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in found.boxes_xyxy.tolist())


def placed(x: int, y: int, width: int, height: int) -> Box:
    return x, y, x + width, y + height


# --- windows


def test_tiles_cover_the_image_evenly_and_overlap_by_as_much_as_is_asked_for() -> None:
    windows = TILING.windows_xyxy((100, 340))
    assert windows.tolist() == [
        [0, 0, 100, 100],
        [60, 0, 160, 100],
        [120, 0, 220, 100],
        [180, 0, 280, 100],
        [240, 0, 340, 100],
    ]


def test_an_image_smaller_than_a_tile_is_one_tile_as_large_as_itself() -> None:
    assert Tiling(100, 20, whole=True).windows_xyxy((50, 80)).tolist() == [[0, 0, 80, 50]]


def test_the_whole_image_is_one_more_tile_where_that_is_asked_for() -> None:
    windows = Tiling(100, 20, whole=True).windows_xyxy((100, 180))
    assert windows.tolist() == [[0, 0, 100, 100], [80, 0, 180, 100], [0, 0, 180, 100]]


@given(
    st.integers(32, 200),
    st.integers(0, 100),
    st.integers(1, 900),
    st.integers(1, 900),
)
def test_no_pixel_is_left_out_and_neighbours_share_the_overlap(
    side: int, overlap: int, height: int, width: int
) -> None:
    tiling = Tiling(side, min(overlap, side // 2))
    windows = tiling.windows_xyxy((height, width))
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = np.unique(windows[:, [low, high]], axis=0)
        assert spans[0, 0] == 0
        assert spans[-1, 1] == length
        assert (spans[:-1, 1] - spans[1:, 0] >= tiling.overlap).all()
        assert (spans[:, 1] - spans[:, 0] == min(side, length)).all()


@pytest.mark.parametrize(("side", "overlap"), [(10, 0), (200_000, 0), (100, 51), (100, -1)])
def test_tiles_that_can_not_be_are_refused(side: int, overlap: int) -> None:
    with pytest.raises(UserError, match=f"tiles of {side} pixels that overlap by {overlap}: expected 32 to 100,000"):
        Tiling(side, overlap)


@pytest.mark.parametrize(
    "damaged",
    [7, {"side": 100}, {"side": 100.0, "overlap": 10, "whole": True}, {"side": 1, "overlap": 0, "whole": True}],
)
def test_damaged_tiles_in_a_header_are_refused(damaged: object) -> None:
    with pytest.raises(UserError):
        Tiling.from_header(damaged, "model.onnx")


# --- an object that a border cuts comes out once

SIZES = [(10, 10), (20, 35), (40, 40), (41, 12), (60, 60), (150, 20), (230, 25), (260, 260), (20, 280)]


@pytest.mark.parametrize("least_side", [1, 6])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_rectangle_comes_out_once_and_whole_wherever_it_lies(width: int, height: int, least_side: int) -> None:
    places = [(x, y) for x in range(IMAGE_HW[1] - width) for y in range(0, IMAGE_HW[0] - height, 37)]
    objects = [(placed(x, y, width, height), label, 0.9) for label, (x, y) in enumerate(places)]  # classes are apart
    found = merge_tiles(seen_by_tiles(objects, least_side=least_side), IMAGE_HW, 0.45)
    assert boxes_of(found) == sorted(box for box, _, _ in objects)


@pytest.mark.parametrize(("width", "height"), [(10, 10), (30, 20), (60, 20), (150, 20)])
def test_two_objects_that_touch_stay_two_wherever_they_touch(width: int, height: int) -> None:
    places = [(x, y) for x in range(IMAGE_HW[1] - 2 * width) for y in (0, 33, 95)]
    objects = [
        (placed(x + second * width, y, width, height), label, 0.9)
        for label, (x, y) in enumerate(places)
        for second in range(2)
    ]
    found = merge_tiles(seen_by_tiles(objects), IMAGE_HW, 0.45)
    assert boxes_of(found) == sorted(box for box, _, _ in objects)


def test_parallel_bars_over_three_tiles_stay_two() -> None:
    bars = [(5, 50, 300, 62), (5, 62, 300, 74)]
    assert boxes_of(merge_tiles(seen_by_tiles([(bar, 0, 0.9) for bar in bars]), IMAGE_HW, 0.45)) == bars


def test_an_object_in_front_of_a_larger_one_of_its_class_stays() -> None:
    objects = [(10, 10, 330, 330), (140, 130, 170, 165)]
    tiling = Tiling(SIDE, OVERLAP, whole=True)
    assert boxes_of(merge_tiles(seen_by_tiles([(box, 0, 0.9) for box in objects], tiling), IMAGE_HW, 0.45)) == objects


def test_the_whole_image_as_a_tile_takes_the_place_of_the_pieces() -> None:
    tiling, box = Tiling(SIDE, 10, whole=True), (20, 15, 310, 300)
    found = merge_tiles(seen_by_tiles([(box, 2, 0.8)], tiling), IMAGE_HW, 0.45)
    assert boxes_of(found) == [box]
    assert (found.scores.tolist(), found.labels.tolist()) == ([0.8], [2])


@given(
    st.integers(0, 299),
    st.integers(0, 299),
    st.integers(8, 200),
    st.integers(8, 200),
    st.sampled_from(sorted(DETECTORS)),
)
def test_any_rectangle_comes_out_once_with_the_post_processing_of_every_family(
    x: int, y: int, width: int, height: int, detector: str
) -> None:
    box = (x, y, min(x + width, 340), min(y + height, 340))
    selection = DETECTORS[detector].PAPERS_SELECTION
    found = merge_tiles(
        seen_by_tiles([(box, 0, 0.9)]), IMAGE_HW, selection.iou_threshold, class_agnostic=selection.class_agnostic
    )
    assert boxes_of(found) == [box]


@given(st.data())
def test_objects_apart_from_each_other_all_come_out(data: st.DataObject) -> None:
    """One in each cell of a grid, of any size and place in it."""
    objects = []
    for column in range(3):
        for row in range(3):
            x, y = (113 * place + data.draw(st.integers(0, 40)) for place in (column, row))
            width, height = (data.draw(st.integers(6, 70)) for _ in range(2))
            objects.append((x, y, x + width, y + height))
    found = merge_tiles(seen_by_tiles([(box, 0, 0.9) for box in objects]), IMAGE_HW, 0.45)
    assert boxes_of(found) == sorted(objects)


# --- scores and classes


def of_boxes(rows: Sequence[tuple[Box, float, int, Box]]) -> TileDetections:
    """From (box, score, label, window)."""
    boxes, scores, labels, seen = zip(*rows, strict=True)
    return TileDetections(
        np.array(boxes, dtype=np.float64),
        np.array(scores),
        np.array(labels),
        np.array(seen, dtype=np.float64),
        np.arange(len(rows)),
        np.zeros(len(rows), dtype=bool),
    )


LEFT, RIGHT = (0, 0, 100, 100), (60, 0, 160, 100)
TWO_TILES_HW = (100, 160)


def test_of_two_tiles_that_see_an_object_whole_the_better_score_stays() -> None:
    found = of_boxes([((65, 20, 90, 50), 0.6, 0, LEFT), ((66, 21, 91, 51), 0.7, 0, RIGHT)])
    merged = merge_tiles(found, TWO_TILES_HW, 0.45)
    assert (boxes_of(merged), merged.scores.tolist()) == ([(66, 21, 91, 51)], [0.7])


def test_a_whole_object_takes_the_place_of_a_piece_with_a_better_score_and_has_that_score() -> None:
    found = of_boxes([((80, 20, 100, 50), 0.9, 0, LEFT), ((80, 20, 115, 50), 0.6, 0, RIGHT)])
    merged = merge_tiles(found, TWO_TILES_HW, 0.45)
    assert (boxes_of(merged), merged.scores.tolist()) == ([(80, 20, 115, 50)], [0.9])


def test_a_piece_that_no_other_tile_sees_stays() -> None:
    found = of_boxes([((80, 20, 100, 50), 0.9, 0, LEFT)])
    assert boxes_of(merge_tiles(found, TWO_TILES_HW, 0.45)) == [(80, 20, 100, 50)]


def test_joined_pieces_have_the_score_and_class_of_the_best() -> None:
    found = of_boxes([((10, 20, 100, 50), 0.6, 3, LEFT), ((60, 20, 140, 50), 0.8, 3, RIGHT)])
    merged = merge_tiles(found, TWO_TILES_HW, 0.45)
    assert (boxes_of(merged), merged.scores.tolist(), merged.labels.tolist()) == ([(10, 20, 140, 50)], [0.8], [3])


def test_a_worse_box_beside_a_piece_is_not_joined_to_the_other_piece() -> None:
    good, worse = (10, 20, 100, 50), (20, 35, 100, 75)
    found = of_boxes([(good, 0.9, 0, LEFT), (worse, 0.05, 0, LEFT), ((60, 20, 140, 50), 0.8, 0, RIGHT)])
    assert boxes_of(merge_tiles(found, TWO_TILES_HW, 0.3)) == [(10, 20, 140, 50), worse]


def test_classes_are_apart_unless_merging_is_class_agnostic() -> None:
    found = of_boxes([((65, 20, 90, 50), 0.6, 0, LEFT), ((65, 20, 90, 50), 0.7, 1, RIGHT)])
    assert merge_tiles(found, TWO_TILES_HW, 0.45).labels.tolist() == [1, 0]
    assert merge_tiles(found, TWO_TILES_HW, 0.45, class_agnostic=True).labels.tolist() == [1]


def test_nothing_found_is_nothing_merged() -> None:
    nothing = TileDetections.of_tiles(
        TILING.windows_xyxy(IMAGE_HW), [(np.zeros((0, 4)), np.zeros(0), np.zeros(0))] * 25
    )
    assert len(merge_tiles(nothing, IMAGE_HW, 0.45).scores) == 0


@given(st.lists(st.tuples(st.integers(0, 24), st.integers(0, 2), st.floats(0.01, 1)), max_size=40))
def test_merged_detections_come_best_first_and_are_no_more_than_came(
    rows: list[tuple[int, int, float]],
) -> None:
    windows = TILING.windows_xyxy(IMAGE_HW)
    rng = np.random.default_rng(len(rows))
    found: list[tuple[Box, float, int, Box]] = []
    for tile, label, score in rows:
        x0, y0, x1, y1 = windows[tile].tolist()
        x, y = int(rng.integers(x0, x1 - 5)), int(rng.integers(y0, y1 - 5))
        box = (x, y, int(rng.integers(x + 4, x1 + 1)), int(rng.integers(y + 4, y1 + 1)))
        found.append((box, score, label, (x0, y0, x1, y1)))
    if found:
        merged = merge_tiles(of_boxes(found), IMAGE_HW, 0.45)
        assert (np.diff(merged.scores) <= 0).all()
        assert 1 <= len(merged.scores) <= len(found)
        assert merged.scores[0] == max(score for _, score, _, _ in found)


def test_many_detections_of_many_tiles_are_merged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [(placed(23 * n % 300, 31 * n % 290, 35, 45), n % 3, 0.5 + 0.01 * n) for n in range(30)]
    at_once = merge_tiles(seen_by_tiles(objects), IMAGE_HW, 0.45)
    monkeypatch.setattr("onestage.runtime.tiles.PAIRS_AT_ONCE", 100)
    in_parts = merge_tiles(seen_by_tiles(objects), IMAGE_HW, 0.45)
    for name, column in vars(at_once).items():
        np.testing.assert_array_equal(getattr(in_parts, name), column)
