"""Tiles as rows of a table: what trains, what is evaluated, and the tiling that suits a data set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from folders import write_image
from hypothesis import given
from hypothesis import strategies as st

from onestage.data import decoded_images
from onestage.data.augmentation.presets import MILD
from onestage.data.decoded_images import DecodedImages
from onestage.data.loader import training_loader
from onestage.data.table import Table, TableBuilder
from onestage.data.tiles import choose_tiling, image_tiles, side_of_larger_input, training_tiles
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Stretch
from onestage.runtime.decode import decode_image
from onestage.runtime.tiles import Tiling
from onestage.structures import Categories

Box = tuple[float, float, float, float]


def table_of(images: Sequence[tuple[tuple[int, int], Sequence[Box]]], root: Path = Path("nowhere")) -> Table:
    """Images by size and boxes; the label of an object is its place among them."""
    builder = TableBuilder(root, "train", "voc")
    for index, (size_hw, boxes) in enumerate(images):
        builder.add(
            path=f"{index}.png",
            image_id=str(index),
            size_hw=size_hw,
            boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            labels=list(range(len(boxes))),
            ignored=[False] * len(boxes),
        )
    return builder.build(Categories.from_names([f"class {n}" for n in range(20)]))


def tiles_of(table: Table, tiling: Tiling, visible: float = 0.5, empty: float = 0.0) -> Table:
    return training_tiles(
        table,
        tiling,
        resize=Stretch(100),
        least_object_side=16.0,
        visible=visible,
        empty=empty,
        decoded=DecodedImages(),
    )


# --- what trains


def test_a_tile_has_the_objects_that_it_shows_in_its_own_pixels() -> None:
    table = table_of([((100, 180), [(10, 20, 30, 60), (90, 10, 100, 30), (120, 0, 140, 100)])])
    tiles = tiles_of(table, Tiling(100, 20))  # from 0 and from 80
    assert tiles.windows_xyxy.tolist() == [[0, 0, 100, 100], [80, 0, 180, 100]]
    assert tiles.image_sizes_hw.tolist() == [[100, 100], [100, 100]]
    first, second = tiles.objects(0), tiles.objects(1)
    assert (first.boxes_xyxy.tolist(), first.labels.tolist()) == ([[10, 20, 30, 60], [90, 10, 100, 30]], [0, 1])
    assert (second.boxes_xyxy.tolist(), second.labels.tolist()) == ([[10, 10, 20, 30], [40, 0, 60, 100]], [1, 2])
    assert not tiles.ignored.any()


def test_an_object_ends_at_the_border_and_is_ignored_where_less_than_the_asked_part_is_left() -> None:
    table = table_of([((100, 180), [(70, 40, 110, 80)])])  # three quarters of it in both tiles
    for visible, ignored in ((0.7, False), (0.8, True)):
        tiles = tiles_of(table, Tiling(100, 20), visible=visible)
        assert tiles.boxes_xyxy.tolist() == [[70, 40, 100, 80], [0, 40, 30, 80]]
        assert tiles.ignored.tolist() == [ignored, ignored]
    assert tiles.spare == 2  # neither has an object that trains


def test_tiles_without_objects_come_last_and_an_epoch_shows_the_asked_share() -> None:
    table = table_of([((100, 1000), [(10, 10, 30, 30)]), ((100, 1000), [(910, 10, 930, 30)])])
    tiles = tiles_of(table, Tiling(100, 0), empty=0.5)
    assert (len(tiles), tiles.spare, tiles.spare_shown, tiles.rows_per_epoch) == (20, 18, 2, 4)
    assert tiles.windows_xyxy[:2].tolist() == [[0, 0, 100, 100], [900, 0, 1000, 100]]
    assert [tiles.image_name(row) for row in range(2)] == ["0.png", "1.png"]
    assert [len(tiles.objects(row).labels) for row in range(20)] == [1, 1] + [0] * 18


@pytest.mark.parametrize("images", [[((100, 300), [])], []])
def test_images_without_objects_are_all_shown(images: list[tuple[tuple[int, int], list[Box]]]) -> None:
    tiles = tiles_of(table_of(images), Tiling(100, 0))
    assert tiles.rows_per_epoch == len(tiles) == 3 * len(images)


def test_objects_too_small_in_the_whole_image_are_ignored_there_alone() -> None:
    table = table_of([((200, 200), [(10, 10, 24, 24), (60, 60, 160, 160)])])  # 7 and 50 px in the input
    tiles = tiles_of(table, Tiling(100, 20, whole=True))
    (whole,) = (row for row in range(len(tiles)) if tiles.windows_xyxy[row].tolist() == [0, 0, 200, 200])
    assert tiles.objects(whole).ignored.tolist() == [True, False]
    (corner,) = (row for row in range(len(tiles)) if tiles.windows_xyxy[row].tolist() == [0, 0, 100, 100])
    assert tiles.objects(corner).ignored.tolist() == [False, True]


def test_an_image_that_is_one_tile_keeps_its_small_objects() -> None:
    tiles = tiles_of(table_of([((90, 90), [(10, 10, 15, 15)])]), Tiling(100, 20, whole=True))
    assert (len(tiles), tiles.ignored.tolist()) == (1, [False])


@given(st.data())
def test_every_object_no_longer_than_the_overlap_is_whole_in_one_tile_or_more(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(40, 700)), data.draw(st.integers(40, 700))
    overlap = data.draw(st.integers(8, 50))
    boxes = []
    for _ in range(data.draw(st.integers(1, 8))):
        w, h = (data.draw(st.integers(1, min(overlap, side))) for side in (width, height))
        x, y = data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h))
        boxes.append((x, y, x + w, y + h))
    tiles = tiles_of(table_of([((height, width), boxes)]), Tiling(100, overlap))
    rows = np.repeat(np.arange(len(tiles)), np.diff(tiles.first_object))
    origin = np.tile(tiles.windows_xyxy[rows, :2], 2)
    for label, box in enumerate(boxes):
        of_it = tiles.labels == label
        assert box in {tuple(one) for one in (tiles.boxes_xyxy + origin)[of_it].astype(int).tolist()}


def test_a_resumed_run_sees_the_tiles_that_it_would_have_seen(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", (100, 1000), seed=1)
    tiles = tiles_of(
        table_of([((100, 1000), [(10, 10, 30, 30), (810, 10, 830, 30)])], tmp_path), Tiling(100, 0), empty=0.5
    )

    def batches(start: tuple[int, int], count: int) -> list[tuple[list[int], int]]:
        options = {"resize": Stretch(100), "augmentation": MILD, "batch_size": 2, "seed": 3}
        with closing(training_loader(tiles, **options, start=start)) as loader:
            return [(batch.image_indices.tolist(), int(batch.images.sum())) for batch in islice(loader, count)]

    straight = batches((0, 0), 12)  # two batches an epoch
    assert batches((1, 1), 5) == straight[3:8]
    shown = {row for rows, _ in straight for row in rows}
    assert {0, 1} < shown
    assert len(shown) > 6  # of the eight without objects others each time


# --- pixels


def test_pixels_of_a_tile_are_those_of_its_image_with_and_without_files_of_decoded_images(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", (120, 250), seed=1)
    whole = decode_image(tmp_path / "0.png")
    for decoded in (DecodedImages(), DecodedImages(tmp_path / "decoded", 10**9)):
        rows, image = image_tiles(table_of([((120, 250), [])], tmp_path), Tiling(100, 30), decoded)
        assert image.tolist() == [0] * len(rows)
        for row, (x0, y0, x1, y1) in enumerate(rows.windows_xyxy.tolist()):
            np.testing.assert_array_equal(rows.pixels(row), whole[y0:y1, x0:x1])
    assert [file.suffix for file in (tmp_path / "decoded").iterdir()] == [".npy"]


def test_a_decoded_image_is_not_decoded_again_and_a_changed_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    for seed, file in enumerate(files):
        write_image(file, (60, 80), seed=seed)
    images = [decode_image(file) for file in files]
    calls: list[Path] = []
    monkeypatch.setattr(decoded_images, "decode_image", lambda path, **_: calls.append(path) or decode_image(path))
    decoded = DecodedImages(tmp_path / "decoded", 10**9)
    for _ in range(3):
        for file, image in zip(files, images, strict=True):
            np.testing.assert_array_equal(decoded.read(file, max_pixels=10**6, bits=16), image)
    assert calls == files
    write_image(files[0], (61, 80), seed=5)
    np.testing.assert_array_equal(decoded.read(files[0], max_pixels=10**6, bits=16), decode_image(files[0]))


def test_an_image_that_was_replaced_by_one_of_another_size_is_named(tmp_path: Path) -> None:
    rows, _ = image_tiles(table_of([((120, 250), [])], tmp_path), Tiling(100, 30), DecodedImages())
    for size_hw, said in (((120, 260), "260x120"), ((90, 250), "250x90")):
        write_image(tmp_path / "0.png", size_hw, seed=1)
        with pytest.raises(UserError, match=rf"0\.png: the image is {said}, its annotation says 250x120; correct it"):
            rows.subset(indices=[1]).pixels(0)


def test_files_of_decoded_images_take_no_more_room_than_allowed(tmp_path: Path) -> None:
    decoded = DecodedImages(tmp_path / "decoded", max_bytes=40_000)
    for seed in range(5):
        write_image(tmp_path / f"{seed}.png", (60, 80), seed=seed)
        decoded.read(tmp_path / f"{seed}.png", max_pixels=10**6, bits=16)
    sizes = [file.stat().st_size for file in (tmp_path / "decoded").iterdir()]
    assert len(sizes) == 2  # of 14,400 bytes and a header each
    assert sum(sizes) <= 40_000


# --- the tiling that suits a data set


def squares(side: int, count: int = 10, apart: int = 60) -> list[Box]:
    return [(apart * n, 0, apart * n + side, side) for n in range(count)]


def test_large_objects_need_no_tiles() -> None:
    table = table_of([((640, 640), squares(40))])  # 18.75 px in an input of 300
    tiling, reason = choose_tiling(table, Stretch(300), 16.0)
    assert tiling is None
    assert reason == "whole images, no tiles: 100% of the objects are 16 px or more in the detector's input"


@pytest.mark.parametrize(("large", "tiles"), [(4, True), (5, False)])
def test_whole_images_serve_where_every_second_object_is_large_enough(large: int, tiles: bool) -> None:
    objects = [*squares(40, large), *((60 * n, 100, 60 * n + 20, 120) for n in range(10 - large))]
    assert (choose_tiling(table_of([((640, 640), objects)]), Stretch(300), 16.0)[0] is not None) == tiles


def test_tiles_are_as_large_as_small_objects_allow_and_overlap_by_a_whole_object() -> None:
    table = table_of([((1200, 1600), squares(20))])
    tiling, reason = choose_tiling(table, Stretch(300), 16.0)
    assert tiling == Tiling(375, 20)  # 300 * 20 / 16
    assert reason == (  # 1600: (1600 - 20) / (375 - 20) = 4.5 tiles in a row, 1200: 3.3
        "tiles of 375 px that overlap by 20, 20 an image: 100% of the objects are then 16 px or more in the detector's "
        "input, 0% in whole images"
    )


def test_the_smallest_tenth_of_the_objects_does_not_decide() -> None:
    table = table_of([((1200, 1600), [*squares(20, 19), (0, 100, 4, 104)])])
    assert choose_tiling(table, Stretch(300), 16.0)[0] == Tiling(375, 20)


def test_tiles_are_at_least_half_as_large_as_the_input() -> None:
    assert choose_tiling(table_of([((1200, 1600), squares(4))]), Stretch(300), 16.0)[0] == Tiling(150, 4)


def test_many_tiles_of_many_objects_are_gone_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [((500, 700), squares(20, 10 + n)) for n in range(3)] + [((500, 700), [])] * 2
    at_once = tiles_of(table_of(images), Tiling(100, 30))
    monkeypatch.setattr("onestage.data.tiles.PAIRS_AT_ONCE", 50)
    in_parts = tiles_of(table_of(images), Tiling(100, 30))
    for name in ("first_object", "boxes_xyxy", "labels", "ignored", "windows_xyxy"):
        np.testing.assert_array_equal(getattr(in_parts, name), getattr(at_once, name))


def test_long_objects_get_the_whole_image_as_one_more_tile() -> None:
    table = table_of([((1200, 1600), [*squares(20, 18), (0, 300, 900, 800)])])
    assert choose_tiling(table, Stretch(300), 16.0)[0] == Tiling(375, 125, whole=True)


def test_a_larger_input_has_nine_of_ten_objects_as_large_as_the_detector_needs() -> None:
    table = table_of([((640, 640), [*squares(16, 19), (0, 100, 4, 104)])])
    assert side_of_larger_input(table, Stretch(300), 16.0) == (  # 640 is the least, 32 * 20
        640,
        "input of 640 x 640: 95% of the objects are then 16 px or more, 0% at 300 x 300; as large as in tiles, without "
        "their borders and what they share",
    )


@pytest.mark.parametrize(
    ("image_hw", "side", "resize", "expected"),
    [
        ((640, 640), 12, Stretch(300), 864),  # 300 * 16 / (12 * 300 / 640) = 853, in steps of 32
        ((640, 640), 11, Stretch(300), None),  # 931 is more than three times 300
        ((640, 640), 40, Stretch(300), None),  # large enough as it is
        ((1200, 1600), 20, Stretch(300), None),  # 4 times as large: tiles
        ((300, 300), 12, Stretch(300), 416),
        ((300, 300), 7, Stretch(300), 608),  # 686 would show each pixel more than twice
        ((640, 640), 12, KeepRatio(300, 500), None),  # has no one side
    ],
)
def test_the_input_grows_where_tiles_are_not_needed(image_hw, side: int, resize, expected: int | None) -> None:
    assert side_of_larger_input(table_of([(image_hw, squares(side))]), resize, 16.0)[0] == expected


def test_without_objects_the_input_stays() -> None:
    assert side_of_larger_input(table_of([((640, 640), [])]), Stretch(300), 16.0) == (None, "")


def test_an_input_that_keeps_proportions_counts_by_its_shorter_side() -> None:
    table = table_of([((2400, 3200), squares(20))])
    assert choose_tiling(table, KeepRatio(800, 1333), 16.0)[0] == Tiling(1000, 20)


def test_a_side_that_is_asked_for_is_taken() -> None:
    table = table_of([((640, 640), squares(40))])
    assert choose_tiling(table, Stretch(300), 16.0, 200)[0] == Tiling(200, 40)
    assert choose_tiling(table, Stretch(300), 16.0, 200, 90)[0] == Tiling(200, 90)
    nothing = table_of([((640, 640), [])])
    assert choose_tiling(nothing, Stretch(300), 16.0)[0] is None
    assert choose_tiling(nothing, Stretch(300), 16.0, 200)[0] == Tiling(200, 50, whole=True)
