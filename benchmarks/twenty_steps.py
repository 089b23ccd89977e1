"""Every named detector at its full size: 20 training steps, a measurement and a prediction on a real data set.

    python benchmarks/twenty_steps.py BCCD
    python benchmarks/twenty_steps.py BCCD --detectors m2det800-vgg16 --batch-size 1 --frozen-backbone

The 20 steps are on the same images, from fresh weights, with the recipe made for the data, so that the loss must
fall. A few test images are measured and predicted.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table as Screen

from onestage.compute.device import choose_compute
from onestage.data import choose_splits
from onestage.data_options import DataOptions
from onestage.detectors import DETECTORS, build
from onestage.inference.predictor import load
from onestage.jobs.dataset import open_dataset
from onestage.models.model_file import RunFolder
from onestage.recipes import default_recipe
from onestage.terminal import Display
from onestage.training.trainer import Trainer


@dataclass(frozen=True)
class Options:
    """What to run."""

    data: Annotated[str, tyro.conf.Positional]  # a VOC, COCO or YOLO folder
    detectors: tuple[str, ...] = tuple(DETECTORS)
    batch_size: int = 2
    steps: int = 20
    frozen_backbone: bool = False  # trains the rest: less time, and batches of 1 (its batch norms need 2)
    test_images: int = 4


def run(name: str, options: Options, folder: Path) -> tuple[float, float, float, float, int]:
    """Mean loss of the first and of the last four steps, images a second, AP50, number of detections."""
    splits, display = choose_splits(options.data, hold_out=False), Display(Console(quiet=True))
    train = open_dataset(options.data, splits.train, display=display, options=DataOptions(skip_bad_data=True))
    test = open_dataset(
        options.data, splits.test, display=display, options=DataOptions(skip_bad_data=True), categories=train.categories
    )
    test = test.subset(count=options.test_images)
    recipe, _ = default_recipe(name, train, pretrained=False)
    recipe = replace(recipe, batch_size=options.batch_size, workers=0).with_length(steps=options.steps)
    if options.frozen_backbone:
        recipe = replace(recipe, frozen=("backbone.",))
    torch.manual_seed(recipe.seed)
    detector = build(name, len(train.categories), config=recipe.network)
    compute = choose_compute("cpu", "auto")
    trainer = Trainer(
        detector, recipe, train=train, val=test, folder=RunFolder(folder), compute=compute, display=display, workers=0
    )
    batches = trainer.batches()
    batch = next(batches)
    detector.train()
    started = time.perf_counter()
    losses = [trainer.step(batch).total for _ in range(options.steps)]
    seconds = time.perf_counter() - started
    with trainer.open_journal() as journal:
        map_area = trainer.evaluate_and_keep(journal) or 0.0
    found = load(folder, device="cpu")([test.image_path(index) for index in range(len(test))])
    rate = options.steps * options.batch_size / seconds
    return float(np.mean(losses[:4])), float(np.mean(losses[-4:])), rate, map_area, sum(map(len, found))


def main(options: Options) -> None:
    screen = Screen("detector", "loss, first 4 steps", "last 4", "images/s", "AP50", "detections")
    for name in options.detectors:
        with tempfile.TemporaryDirectory() as folder:
            first, last, rate, map_area, count = run(name, options, Path(folder))
        if not last < first:
            raise SystemExit(f"{name}: the loss went from {first:.3f} to {last:.3f}")
        screen.add_row(name, f"{first:.3f}", f"{last:.3f}", f"{rate:.2f}", f"{map_area:.3f}", str(count))
        print(f"{name}: loss {first:.3f} -> {last:.3f}, {rate:.2f} images/s", flush=True)
    Console().print(screen)


if __name__ == "__main__":
    main(tyro.cli(Options))
