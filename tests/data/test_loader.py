"""Batches depend on (seed, epoch, index) alone: not on workers, not on where a run was resumed."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import write_image

from onestage.data.augmentation.presets import SSD_PAPER
from onestage.data.loader import (
    BatchReader,
    batches_per_epoch,
    epoch_batches,
    epoch_order,
    evaluation_loader,
    stack_images,
    training_loader,
)
from onestage.data.table import Table, TableBuilder
from onestage.errors import UserError
from onestage.input_size import PADDING, KeepRatio, Stretch
from onestage.runtime.decode import ImageError
from onestage.structures import Batch, Categories


def a_table(root: Path, num_images: int = 7) -> Table:
    """Images of different sizes; image n has n % 3 objects, labelled 0, 1."""
    builder = TableBuilder(root, "train", "voc")
    for index in range(num_images):
        size_hw = (40 + index, 60)
        write_image(root / f"{index}.png", size_hw, seed=index)
        count = index % 3
        boxes_xyxy = np.array([[5, 6, 25, 30], [20, 10, 55, 38]][:count], dtype=np.float32).reshape(-1, 4)
        builder.add(
            path=f"{index}.png",
            image_id=str(index),
            size_hw=size_hw,
            boxes_xyxy=boxes_xyxy,
            labels=list(range(count)),
            ignored=[False, True][:count],
        )
    return builder.build(Categories.from_names(["cat", "dog"]))


def train(table: Table, count: int, **settings) -> list[Batch]:
    defaults = {"resize": Stretch(32), "augmentation": SSD_PAPER, "batch_size": 3, "seed": 5}
    loader = training_loader(table, **(defaults | settings))
    batches = list(islice(loader, count))
    loader.close()
    return batches


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.image_indices, other.image_indices)
        for targets, others in zip(one.targets, other.targets, strict=True):
            assert torch.equal(targets.boxes_xyxy, others.boxes_xyxy)
            assert torch.equal(targets.labels, others.labels)
            assert torch.equal(targets.ignored, others.ignored)


def test_image_replaced_by_one_of_another_size_ends_the_reading_with_its_name(tmp_path: Path) -> None:
    table = a_table(tmp_path)
    write_image(tmp_path / "3.png", (60, 43))  # it was 43 high and 60 wide
    message = r"3\.png: the image is 43x60, its annotation says 60x43; correct it"
    with pytest.raises(UserError, match=message):
        train(table, 3)
    with pytest.raises(UserError, match=message):
        list(evaluation_loader(table, resize=Stretch(32), batch_size=3))


def test_an_epoch_is_a_permutation_and_shows_every_image_before_one_comes_again(tmp_path: Path) -> None:
    order = epoch_order(a_table(tmp_path, 10), repeat=3, seed=1, epoch=4)
    assert sorted(order.tolist()) == list(range(30))
    for turn in range(3):
        assert sorted((order[10 * turn : 10 * turn + 10] % 10).tolist()) == list(range(10))


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    table = a_table(tmp_path, 20)
    orders = {tuple(epoch_order(table, 1, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_an_epoch_has_full_batches_and_at_least_one(tmp_path: Path) -> None:
    ten = a_table(tmp_path, 10)
    assert batches_per_epoch(ten, repeat=1, batch_size=4) == 2
    assert batches_per_epoch(ten, repeat=2, batch_size=4) == 5
    assert batches_per_epoch(a_table(tmp_path, 3), repeat=1, batch_size=4) == 1


def test_an_epoch_leaves_some_of_the_spare_rows_out_and_others_the_next_time(tmp_path: Path) -> None:
    table = replace(a_table(tmp_path, 10), spare=6, spare_shown=2)
    assert batches_per_epoch(table, repeat=1, batch_size=3) == 2
    shown = [epoch_order(table, 2, seed=0, epoch=epoch) % 10 for epoch in range(20)]
    for rows in shown:
        assert sorted(rows[:6])[:4] == sorted(rows[6:])[:4] == [0, 1, 2, 3]
        assert len(rows) == 12
    spare = np.concatenate(shown)
    assert set(spare[spare >= 4].tolist()) == {4, 5, 6, 7, 8, 9}


def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(tmp_path: Path) -> None:
    table = a_table(tmp_path)  # two batches an epoch
    whole = train(table, 8)
    assert_same(whole[3:], train(table, 5, start=(1, 1)))
    assert_same(whole[4:], train(table, 4, start=(2, 0)))


def test_a_resumed_run_reads_no_earlier_image(tmp_path: Path) -> None:
    table = a_table(tmp_path, num_images=6)
    for sample in epoch_order(table, 1, seed=5, epoch=0)[:3]:
        table.image_path(int(sample)).unlink()
    assert len(train(table, 1, start=(0, 1))) == 1


def test_a_repeated_image_is_augmented_anew(tmp_path: Path) -> None:
    first, second = train(a_table(tmp_path, num_images=1), 2, batch_size=1, repeat=2)
    assert not torch.equal(first.images, second.images)


def test_batches_are_raw_pixels_with_their_objects(tmp_path: Path) -> None:
    (batch,) = train(a_table(tmp_path), 1, batch_size=7, augmentation=None)
    assert batch.images.shape == (7, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert sorted(batch.image_indices.tolist()) == [0, 1, 2, 3, 4, 5, 6]
    for index, targets in zip(batch.image_indices.tolist(), batch.targets, strict=True):
        assert targets.labels.tolist() == [0, 1][: index % 3]
        assert targets.ignored.tolist() == [False, True][: index % 3]
        if index % 3:
            scale_x, scale_y = 32 / 60, 32 / (40 + index)
            expected = [5 * scale_x, 6 * scale_y, 25 * scale_x, 30 * scale_y]
            assert targets.boxes_xyxy[0].tolist() == pytest.approx(expected, rel=1e-6)


# Width, height and number of the images of COCO128, the first of COCO's train2017; sizes that come once are left out.
COCO_SIZES = {
    **{(640, 480): 35, (640, 427): 12, (480, 640): 9, (427, 640): 6, (640, 426): 5, (640, 428): 4, (500, 375): 3},
    **{(640, 425): 3, (640, 481): 2, (640, 360): 1, (640, 218): 1, (360, 640): 1, (600, 600): 1, (612, 612): 1},
    **{(500, 333): 1, (333, 500): 1, (640, 573): 1, (565, 640): 1, (640, 536): 1, (640, 327): 1},
}


@pytest.mark.parametrize("augmentation", [None, SSD_PAPER])
def test_images_of_one_ratio_go_together_so_that_little_is_padding(tmp_path: Path, augmentation) -> None:
    """RetinaNet's sizes, in batches of 16."""
    builder = TableBuilder(tmp_path, "train", "voc")
    nothing = np.zeros((0, 4), dtype=np.float32)
    for (width, height), count in COCO_SIZES.items():
        for number in range(12 * count):
            name, add = f"{width}-{height}-{number}", {"boxes_xyxy": nothing, "labels": [], "ignored": []}
            builder.add(path=f"{name}.png", image_id=name, size_hw=(height, width), **add)
    table, resize = builder.build(Categories.from_names(["cat"])), KeepRatio(800, 1333)
    reader = BatchReader(table, augmentation, resize)
    order = epoch_order(table, 1, seed=0, epoch=0).tolist()

    def padding(batches: Iterable[list[int]]) -> float:
        """The share of the batches' pixels in which no image lies."""
        pixels = padded = 0
        for batch in batches:
            sizes_hw = [reader.image_hw((0, sample)) for sample in batch]
            height, width = resize.input_hw(sizes_hw)
            pixels += sum(height * width for height, width in sizes_hw)
            padded += len(batch) * height * width
        return 1 - pixels / padded

    by_chance = [order[start : start + 16] for start in range(0, len(order) - 15, 16)]
    assert 0.4 < padding(by_chance) < 0.6
    assert 0 < padding(epoch_batches(reader, order, 0, 16, 0)) < 0.05


def test_batches_of_like_shape_hold_every_image_once_and_are_resumed_anywhere(tmp_path: Path) -> None:
    table = a_table(tmp_path, num_images=70)  # 35 batches, so one window of 32 and one of 3
    reader, order = BatchReader(table, None, KeepRatio(32, 64)), epoch_order(table, 1, seed=3, epoch=0).tolist()
    whole = list(epoch_batches(reader, order, 0, 2, 0))
    assert sorted(sample for batch in whole for sample in batch) == list(range(70))
    for first in (1, 31, 32, 33, 34):
        assert list(epoch_batches(reader, order, 0, 2, first)) == whole[first:]
    one_shape = BatchReader(table, None, Stretch(32))
    assert list(epoch_batches(one_shape, order, 0, 2, 0)) == [order[at : at + 2] for at in range(0, 70, 2)]


def test_a_set_smaller_than_a_batch_gives_batches_of_the_whole_set(tmp_path: Path) -> None:
    batches = train(a_table(tmp_path, num_images=2), 3, batch_size=8)
    assert [sorted(batch.image_indices.tolist()) for batch in batches] == [[0, 1]] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_shows_every_image_once_in_order(tmp_path: Path, workers: int) -> None:
    batches = list(evaluation_loader(a_table(tmp_path), resize=Stretch(32), batch_size=3, workers=workers))
    assert [batch.image_indices.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]


def test_an_empty_table_evaluates_to_no_batch_and_refuses_to_train(tmp_path: Path) -> None:
    table = a_table(tmp_path, num_images=0)
    assert list(evaluation_loader(table, resize=Stretch(32), batch_size=3)) == []
    with pytest.raises(UserError, match="no images to train on"):
        train(table, 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    table = a_table(tmp_path)
    table.image_path(4).write_bytes(b"<html>")
    with pytest.raises(ImageError, match=r"4\.png") as caught:
        list(evaluation_loader(table, resize=Stretch(32), batch_size=3, workers=workers))
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_reading_thread_reaches_the_training_loop(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        train(a_table(tmp_path), 1, seed=-1)


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_the_loader_ends_its_thread_and_its_processes(tmp_path: Path, workers: int) -> None:
    table = a_table(tmp_path)
    threads = threading.active_count()
    train(table, 2, workers=workers)
    deadline = time.monotonic() + 10  # a queue's feeder thread of multiprocessing ends a moment after its queue
    while (threading.active_count() > threads or multiprocessing.active_children()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads
    assert multiprocessing.active_children() == []


def test_images_of_other_proportions_lie_in_the_upper_left_corner_of_one_batch(tmp_path: Path) -> None:
    resize = KeepRatio(shortest=40, longest=64)
    images = [np.full((40, 60, 3), 200, np.uint8), np.full((50, 40, 3), 100, np.uint8)]
    stacked = stack_images(images, resize)
    assert stacked.shape == (2, 64, 64, 3)  # 50 and 60, to the next multiples of 32
    assert (stacked[0, :40, :60] == 200).all()
    assert (stacked[1, :50, :40] == 100).all()
    assert (stacked[0, 40:] == PADDING).all()
    assert (stacked[1, :, 40:] == PADDING).all()


def test_images_of_one_size_are_stacked_as_they_are() -> None:
    images = [np.full((32, 64, 3), value, np.uint8) for value in (1, 2)]
    assert (stack_images(images, KeepRatio(32, 64)) == np.stack(images)).all()


def test_a_batch_of_images_that_keep_their_proportions_trains_with_boxes_in_its_pixels(tmp_path: Path) -> None:
    (batch, *_) = train(a_table(tmp_path), 1, resize=KeepRatio(40, 80), augmentation=None)
    height, width = batch.images.shape[2:]
    assert height % 32 == 0
    assert width % 32 == 0
    for targets in batch.targets:
        assert (targets.boxes_xyxy[:, 2] <= width).all()
        assert (targets.boxes_xyxy[:, 3] <= height).all()
