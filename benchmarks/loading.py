"""Images a second from the training loader on one core and on two: JPEG files of 500x375 to batches of 300x300.

    python benchmarks/loading.py [--seconds 1.2] [--rounds 5] [--json loading.json]

Readers and the process that takes the batches are bound to so many cores together; nothing else wants them, since
nothing is trained. Beside it torchvision's way: its v2 transforms in a DataLoader. Configurations run in turn, round
after round; a loader's first batches, which it reads ahead, do not count.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import augmentation
import cv2
import torch
import tyro
from side_by_side import Result, show, write_results
from torch.utils.data import DataLoader
from torchvision_ssd import Images, collate, ssd_transform

from onestage.data.augmentation.presets import SSD_PAPER
from onestage.data.loader import training_loader
from onestage.data.loader_workers import BATCHES_AHEAD
from onestage.data.table import Table
from onestage.input_size import Stretch

BATCH_SIZE = 8
GOAL = 1.9


@dataclass(frozen=True)
class Options:
    """What is measured."""

    images: int = 200
    seconds: float = 1.2
    """At least so long, each time."""
    rounds: int = 5
    image_size: int = 300
    json: Path | None = None


@dataclass(frozen=True)
class Configuration:
    """Who reads, and on how many cores."""

    whose: str
    workers: int
    cores: int


CONFIGURATIONS = (
    Configuration("onestage", 0, 1),
    Configuration("onestage", 0, 2),
    Configuration("onestage", 1, 1),
    Configuration("onestage", 1, 2),
    Configuration("onestage", 2, 2),
    Configuration("torchvision", 1, 1),
    Configuration("torchvision", 2, 2),
)
ONE_CORE, TWO_CORES = CONFIGURATIONS[2], CONFIGURATIONS[4]


def our_batches(table: Table, workers: int, image_size: int) -> Generator[Any, None, None]:
    return training_loader(
        table,
        resize=Stretch(image_size),
        augmentation=SSD_PAPER,
        batch_size=BATCH_SIZE,
        seed=0,
        workers=workers,
    )


def their_batches(table: Table, workers: int, image_size: int) -> Generator[Any, None, None]:
    loader = DataLoader(
        Images(table, ssd_transform(train=True)),
        BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        collate_fn=collate,
    )
    while True:
        yield from loader


@contextmanager
def bound_to(cores: int) -> Iterator[None]:
    """Within, this thread and what it starts run on so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def images_per_second(batches: Generator[Any, None, None], read_ahead: int, seconds: float) -> float:
    """The rate after the first batches, over at least so many seconds."""
    with closing(batches):
        for _ in range(read_ahead):
            next(batches)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            next(batches)
            count += 1
        return BATCH_SIZE * count / (time.perf_counter() - started)


def measure(table: Table, options: Options) -> dict[Configuration, float]:
    """Medians of the rounds."""
    makers: dict[str, Callable[[Table, int, int], Generator[Any, None, None]]] = {
        "onestage": our_batches,
        "torchvision": their_batches,
    }
    rates: dict[Configuration, list[float]] = {configuration: [] for configuration in CONFIGURATIONS}
    for _ in range(options.rounds):
        for one, found in rates.items():
            read_ahead = 2 * BATCHES_AHEAD * max(1, one.workers)
            with bound_to(one.cores):
                batches = makers[one.whose](table, one.workers, options.image_size)
                found.append(images_per_second(batches, read_ahead, options.seconds))
    return {one: statistics.median(found) for one, found in rates.items()}


def main(options: Options) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("this machine gives one core; the benchmark compares two with one")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = augmentation.write_images(Path(folder), augmentation.Options(images=options.images))
        rates = measure(table, options)
    scaling = rates[TWO_CORES] / rates[ONE_CORE]
    result = Result(
        name="Loading and augmenting training images",
        command="python benchmarks/loading.py",
        columns=("read by", "worker processes", "cores", "images/s"),
        rows=tuple((one.whose, str(one.workers), str(one.cores), f"{rate:.0f}") for one, rate in rates.items()),
        goals=(
            f"two workers on two cores against one on one: at least {GOAL:g} times; measured {scaling:.2f}: "
            f"{'met' if scaling >= GOAL else 'not met'}",
        ),
        notes=(
            f"Batches of {BATCH_SIZE}, the paper's augmentation, medians of {options.rounds} rounds of "
            f"{options.seconds:g} s. Without worker processes one thread reads, which `onestage train` does where "
            "there are four cores or fewer.",
        ),
    )
    show(result)
    write_results(options.json, [result])


if __name__ == "__main__":
    main(tyro.cli(Options))
