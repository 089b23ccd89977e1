"""Each warning comes once in its situation, with its numbers, and not in a healthy run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from onestage.data.table import Table, TableBuilder
from onestage.selection import Selection
from onestage.structures import Categories
from onestage.training import watch as watch_module
from onestage.training.recipe import Recipe
from onestage.training.watch import Watch, grows, images_of_class, memory_mb

NAMES = ("ant", "bee", "cat")
SGD = Recipe(steps=100, batch_size=16, optimizer="sgd", learning_rate=0.01)
ADAMW = replace(SGD, optimizer="adamw", learning_rate=0.001)


def table_of(images: list[list[int]], names: Iterable[str] = NAMES, ignored: Iterable[int] = ()) -> Table:
    """One image a list of labels; `ignored`: the labels whose objects are."""
    builder = TableBuilder(Path("nowhere"), "trainval", "voc")
    for index, labels in enumerate(images):
        builder.add(
            path=f"{index}.jpg",
            image_id=str(index),
            size_hw=(100, 100),
            boxes_xyxy=np.tile([0.0, 0.0, 10.0, 10.0], (len(labels), 1)),
            labels=labels,
            ignored=[label in set(ignored) for label in labels],
        )
    return builder.build(Categories.from_names(names))


class Run:
    """A run of a hundred images of every class, 16 a step, unless the test says otherwise."""

    def __init__(
        self,
        recipe: Recipe = SGD,
        table: Table | None = None,
        *,
        usual: Recipe | None = None,
        steps_per_epoch: int = 100,
    ) -> None:
        self.said: list[str] = []
        table = table or table_of([[0, 1, 2]] * 100)
        self.watch = Watch(recipe, table, steps_per_epoch, usual=usual, report=self.said.append)

    def steps(
        self,
        count: int,
        *,
        labels: Iterable[int] = (0, 1, 2),
        positives: float = 30.0,
        waited_s: float = 0.0,
        spent_s: float = 1.0,
    ) -> None:
        given = torch.tensor(list(labels), dtype=torch.int64)
        for _ in range(count):
            self.watch.step(given, positives, waited_s, spent_s, 16)

    def warning(self) -> str:
        """The one that was given."""
        (said,) = self.said
        assert said.startswith("warning: ")
        assert "\n" not in said
        return said


def test_a_healthy_run_gets_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "memory_mb", lambda: 2000.0)
    run = Run(usual=SGD)
    for _ in range(10):
        run.steps(100, waited_s=0.2)
        run.watch.epoch()
    assert run.said == []


# --- positives


def test_boxes_that_meet_no_anchor_in_fifty_steps_are_reported_once() -> None:
    run = Run()
    run.steps(49, positives=0)
    run.steps(1, positives=1)  # begins anew
    run.steps(49, positives=0)
    assert run.said == []
    run.steps(200, positives=0)
    assert "no anchor met a box in 50 steps, though 150 objects came" in run.warning()
    assert "--anchor-sizes" in run.warning()


def test_an_epoch_shorter_than_fifty_steps_is_enough_but_one_of_a_step_is_not() -> None:
    short, tiny = Run(steps_per_epoch=20), Run(steps_per_epoch=1)
    short.steps(19, positives=0)
    tiny.steps(4, positives=0)
    assert short.said == tiny.said == []
    short.steps(1, positives=0)
    tiny.steps(1, positives=0)
    assert "in 20 steps" in short.warning()
    assert "in 5 steps" in tiny.warning()


def test_batches_without_objects_are_no_trouble_of_the_anchors_and_reported_after_an_epoch_of_them() -> None:
    run = Run(steps_per_epoch=300)
    run.steps(299, positives=0, labels=())
    assert run.said == []
    run.steps(400, positives=0, labels=())
    assert "not one object in the images of 300 steps" in run.warning()


# --- classes


def test_the_images_of_a_class_count_once_and_ignored_objects_not_at_all() -> None:
    assert images_of_class(table_of([[0, 0, 1], [], [0], [2, 1]], ignored=[2])).tolist() == [2, 2, 0]
    assert images_of_class(table_of([])).tolist() == [0, 0, 0]


def test_classes_that_the_split_has_not_are_reported_before_the_first_step_and_not_again() -> None:
    run = Run(table=table_of([[0, 2]] * 100, ignored=[2]))
    assert "split 'trainval' has no objects of 2 of 3 classes ('bee', 'cat')" in run.warning()
    run.steps(100, labels=[0])
    run.watch.epoch()
    assert len(run.said) == 1


def test_more_objects_than_detections_are_kept_is_reported_before_the_first_step() -> None:
    recipe = replace(SGD, postprocessing=Selection(max_detections=4))
    assert not Run(recipe, table_of([[0, 1, 2, 0]])).said
    assert Run(recipe, table_of([[0, 1, 2, 0, 2], [0, 1]])).said == [
        "warning: a training image or tile has 5 objects, but at most 4 detections of one are kept, so others can't be "
        "found: use --postprocessing.max-detections 10"
    ]


def test_of_many_classes_the_first_five_are_named() -> None:
    run = Run(table=table_of([[0]], names=[f"c{number}" for number in range(9)]))
    assert "8 of 9 classes ('c1', 'c2', 'c3', 'c4', 'c5' and 3 more)" in run.warning()


def test_a_class_that_never_comes_in_a_whole_epoch_is_reported_once() -> None:
    run = Run(steps_per_epoch=6)
    run.steps(5, labels=[0])  # the end of an epoch that a resumed run began in
    run.watch.epoch()
    run.steps(1, labels=[1])
    assert run.said == []
    run.watch.epoch()
    run.steps(6, labels=[0])
    run.watch.epoch()
    # each of the hundred images has one
    assert "no object of 1 of 3 classes ('cat') came in 6 steps, though 100 images have one" in run.warning()


def test_a_rare_class_is_missed_only_after_its_image_was_due_five_times() -> None:
    run = Run(table=table_of([[0, 1]] * 15 + [[2]]), steps_per_epoch=1)
    for _ in range(4):
        run.steps(1, labels=[0, 1])
        run.watch.epoch()
    assert run.said == []
    run.steps(1, labels=[0, 1])
    run.watch.epoch()
    assert "('cat') came in 5 steps, though 1 image has one" in run.warning()


# --- learning rate


@pytest.mark.parametrize(
    ("recipe", "usual", "warning"),
    [
        (SGD, SGD, None),
        (replace(SGD, learning_rate=0.04), SGD, None),
        (replace(SGD, learning_rate=0.05), SGD, "learning rate 0.05 for 16 images a step is 5 times the recipe's"),
        (replace(SGD, learning_rate=0.002), SGD, "is 1/5 of the recipe's"),
        # in proportion: 2 images are an eighth of 16, so 0.00125
        (replace(SGD, batch_size=2), SGD, "scaled in proportion, 0.0013 for 2"),
        (replace(SGD, batch_size=2, learning_rate=0.00125), SGD, None),
        # by the root: a quarter of the images takes half the rate
        (replace(ADAMW, batch_size=4), ADAMW, None),
        (replace(ADAMW, batch_size=4, learning_rate=0.01), ADAMW, "is 20 times .* by the square root, 0.0005 for 4"),
        (replace(ADAMW, learning_rate=1.0), SGD, None),  # of another optimizer: not comparable
        (replace(SGD, learning_rate=1.0), None, None),
        (replace(SGD, batch_size=800), SGD, "for 100 images a step"),  # 62.5 of 16 at 100, which is all there are
    ],
)
def test_a_rate_is_reported_where_it_is_over_four_times_off_the_one_for_the_batch(
    recipe: Recipe, usual: Recipe | None, warning: str | None
) -> None:
    run = Run(recipe, usual=usual)
    if warning is None:
        assert run.said == []
    else:
        assert re.search(warning, run.warning())


# --- loading


def test_a_network_that_waits_for_images_is_reported_with_both_paces() -> None:
    run = Run()
    run.steps(10, waited_s=30.0, spent_s=31.0)  # the start
    run.steps(49, waited_s=0.2, spent_s=0.5)
    assert run.said == []
    run.steps(300, waited_s=0.2, spent_s=0.5)
    # 16 images in 0.5 s, of which 0.3 s are the network's
    assert "waits 40% of the time for images: 32 images/s read, 53.3 could be trained" in run.warning()
    assert "--workers" in run.warning()


def test_one_hiccup_of_the_disk_is_not_reported() -> None:
    run = Run()
    run.steps(35)
    run.steps(1, waited_s=600.0, spent_s=601.0)
    run.steps(200)
    assert run.said == []


def test_clocks_that_stand_still_are_no_trouble() -> None:
    still, waiting = Run(), Run()
    still.steps(100, spent_s=0.0)
    assert still.said == []
    waiting.steps(100, waited_s=1.0, spent_s=1.0)
    assert "waits 100% of the time for images: 16 images/s read, many more could be trained" in waiting.warning()


# --- memory


def run_with_memory(monkeypatch: pytest.MonkeyPatch, megabytes: Iterable[float | None]) -> Run:
    """A first epoch of 100 steps, then some of one; memory is as given from the third on."""
    values = list(megabytes)
    given = iter(values)
    monkeypatch.setattr(watch_module, "memory_mb", lambda: next(given))
    monkeypatch.setattr(watch_module, "MEASURING_COST", math.inf)  # no pause after a look, however slow the machine
    run = Run()
    run.steps(99)
    for _ in range(len(values) + 2):
        run.steps(1)
        run.watch.epoch()
    return run


def test_memory_that_grows_every_epoch_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with_memory(monkeypatch, (2000.0 + 40 * epoch for epoch in range(20)))
    # the third epoch is the first that is looked at, five of 40 MB on 2,000 are 10 %
    assert "grew by 40 MB an epoch, from 2,000 MB after epoch 3 to 2,200 MB after epoch 8" in run.warning()


@pytest.mark.parametrize(
    "megabytes",
    [
        [2000.0] * 5 + [2600.0] * 20,  # one jump
        [2000.0, 2300.0, 2450.0, 2525.0, 2560.0, 2580.0, 2590.0, 2595.0, 2597.0],  # levels off
        [2000.0 + 5 * epoch for epoch in range(60)],  # too little
        [9000.0 + 15 * epoch for epoch in range(6)],  # under 5 % so far
        [2000.0, 2200.0] * 20,  # to and fro
        [None] * 20,  # can't be read
        [2000.0 - 50 * epoch for epoch in range(20)],
    ],
)
def test_memory_that_does_not_grow_steadily_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, megabytes: list[float | None]
) -> None:
    assert run_with_memory(monkeypatch, megabytes).said == []


def test_a_slow_leak_of_a_large_process_is_found_over_more_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    # 30 MB on 9,000 are 1/300 an epoch: five per cent take 15 epochs
    run = run_with_memory(monkeypatch, (9000.0 + 30 * epoch for epoch in range(40)))
    assert "from 9,000 MB after epoch 3 to 9,450 MB after epoch 18" in run.warning()


def test_a_leak_that_begins_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    level = [2000.0, 2600.0] + [2600.0] * 20  # a jump, and long nothing
    run = run_with_memory(monkeypatch, level + [2600.0 + 100 * epoch for epoch in range(1, 6)])
    assert "grew by 80 MB an epoch, from 2,600 MB after epoch 23 to 3,000 MB after epoch 28" in run.warning()


def test_a_leak_is_found_under_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = 30 * np.random.default_rng(0).standard_normal(50)
    run = run_with_memory(monkeypatch, (2000.0 + 20 * epoch + float(noise[epoch]) for epoch in range(50)))
    assert "memory of this process and its readers grew" in run.warning()


def test_noise_is_seldom_taken_for_growth() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):  # each span by itself; level memory with a deviation of 5 %
        values = 2000 + 100 * rng.standard_normal(6)
        alarms += grows([(epoch, float(value)) for epoch, value in enumerate(values)])
    assert alarms <= 3


def test_epochs_of_a_few_steps_are_not_looked_at_before_a_hundred_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    grown: Callable[[], float] = chain(range(2000, 9000, 100), repeat(9000)).__next__
    monkeypatch.setattr(watch_module, "memory_mb", lambda: float(grown()))
    run = Run(steps_per_epoch=2)
    for _ in range(49):
        run.steps(2)
        run.watch.epoch()
    assert run.said == []


def test_measuring_takes_no_more_than_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    measured: list[float] = []

    def measure() -> float:
        nonlocal now
        measured.append(now)
        now += 0.5
        return 2000.0

    monkeypatch.setattr(watch_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(watch_module, "memory_mb", measure)
    run = Run()
    for _ in range(12):
        run.steps(100)
        now += 20.0
        run.watch.epoch()
    # half a second allows the next after 50 more: from 60 (the third epoch) on, the third after it
    assert measured == [60.0, 120.5, 181.0, 241.5]


def test_the_memory_of_this_process_is_read_and_a_failure_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 50 < (memory_mb() or 0.0) < 50_000

    def refuse(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert memory_mb() is None
