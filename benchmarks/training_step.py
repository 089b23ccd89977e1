"""Where the time of a training step goes, on a folder of pictures with full augmentation.

    python benchmarks/training_step.py NEU-DET --detectors ssd300-vgg16 ssd300-tf_efficientnet_lite0

Each detector with the recipe that `onestage train` would make for the folder, from random weights (the speed is that of
trained ones); medians over the steps after the warm-up. Run it on an idle machine.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table as Screen
from torch import nn

from onestage.data import choose_splits, read_dataset
from onestage.data.loader import training_loader
from onestage.data.table import Table
from onestage.detectors import build, detector_config
from onestage.recipes.default import default_recipe
from onestage.structures import Batch
from onestage.training.optimizer import AveragedWeights, build_optimizer, freeze, train_mode
from onestage.training.precision import Compute, Precision, choose_compute, keep_freed_memory

PARTS = ("wait for data", "forward", "loss", "backward", "update")


@dataclass(frozen=True)
class Options:
    """Time training steps."""

    data: Annotated[str, tyro.conf.Positional]
    detectors: tuple[str, ...] = ("ssd300-vgg16", "ssd300-tf_efficientnet_lite0")
    batch_size: int | None = None  # the recipe's if not given
    train_stem: bool = False  # train the backbone's first layers, too
    precision: Precision = "auto"
    warm_up: int = 5
    steps: int = 15


def time_steps(name: str, table: Table, options: Options, compute: Compute) -> tuple[int, list[list[float]]]:
    """The batch size, and the seconds of every part of every step."""
    recipe, _ = default_recipe(name, table, pretrained=not options.train_stem)
    recipe = replace(recipe, batch_size=options.batch_size or recipe.batch_size)
    config = detector_config(name).adjusted(recipe.network_settings())
    config = config.with_quick_start() if recipe.quick_start else config
    detector = build(name, len(table.categories), config=config)
    compute.place(detector)
    if not recipe.train_stem:
        freeze(detector, tuple(f"backbone.{stem}" for stem in detector.backbone.stem))
    optimizer, average = build_optimizer(detector, recipe), AveragedWeights(detector, recipe.ema_decay or 0.998)
    train_mode(detector)
    batches = training_loader(
        table,
        resize=detector.resize,
        augmentation=recipe.augmentation,
        batch_size=recipe.batch_size,
        seed=0,
    )

    def step(batches: Iterator[Batch]) -> Iterator[float]:
        """The time after each part."""
        batch = next(batches)
        yield time.perf_counter()
        with compute.autocast():
            predictions = detector(batch.images)
        yield time.perf_counter()
        sums = detector.losses(predictions, batch.targets, (batch.images.shape[2], batch.images.shape[3]))
        loss = (sums.classification + sums.box) / sums.num_positives.clamp(min=1)
        yield time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        yield time.perf_counter()
        nn.utils.clip_grad_norm_(detector.parameters(), 5.0, foreach=True)
        optimizer.step()
        average.update(detector, 1)
        yield time.perf_counter()

    seconds: list[list[float]] = []
    for _ in range(options.warm_up + options.steps):
        times = [time.perf_counter(), *step(batches)]
        seconds.append([after - before for before, after in itertools.pairwise(times)])
    batches.close()
    return recipe.batch_size, seconds[options.warm_up :]


def main(options: Options) -> None:
    keep_freed_memory()
    compute = choose_compute("cpu", options.precision)
    table, _ = read_dataset(options.data, choose_splits(options.data).train)
    screen = Screen("detector", "batch", *(f"{part}, ms" for part in PARTS), "pictures/s", title=compute.reason)
    for name in options.detectors:
        batch_size, seconds = time_steps(name, table, options, compute)
        parts = [f"{1000 * statistics.median(column):.0f}" for column in zip(*seconds, strict=True)]
        rate = batch_size / statistics.median(map(sum, seconds))
        screen.add_row(name, str(batch_size), *parts, f"{rate:.1f}")
    Console().print(screen)


if __name__ == "__main__":
    main(tyro.cli(Options))
