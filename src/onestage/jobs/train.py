"""Train a detector on a folder of labelled pictures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onestage.data import choose_splits
from onestage.data.table import Table
from onestage.detectors import Detector, build, describe, detector_config
from onestage.errors import UserError
from onestage.jobs.dataset import open_dataset
from onestage.jobs.evaluate import evaluate_and_report
from onestage.recipes import default_recipe, named_recipe
from onestage.training.checkpoint import RunFolder, load_model
from onestage.training.logging import Display, read_log
from onestage.training.precision import Compute, choose_compute
from onestage.training.recipe import Recipe
from onestage.training.trainer import Trainer
from onestage.weights.imagenet import load_backbone_weights


@dataclass(frozen=True)
class TrainResult:
    """A finished run: where it lies and how good its best weights are."""

    folder: Path
    metrics: dict[str, Any]


def train(
    data: str | os.PathLike[str],
    *,
    detector: str | None = None,
    recipe: str | Recipe | None = None,
    out: str | os.PathLike[str] | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    backbone_weights: str | os.PathLike[str] | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    subset: float | None = None,
    seed: int | None = None,
    resume: bool = False,
    skip_bad_data: bool = False,
    device: str | None = None,
    settings: dict[str, Any] | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Train on a VOC, COCO or YOLO folder, keep the best weights, evaluate them and write the report.

    Args:
        data: the folder; several VOC years as `VOC2007+VOC2012`.
        detector: its name; None takes the recipe's, and without a recipe `ssd300-vgg16`.
        recipe: one by name or as a value; None makes one for the data.
        out: the run folder; None makes `runs/DATA-DETECTOR`.
        epochs, steps, minutes: the length, at most one; None keeps the recipe's.
        backbone_weights: "imagenet" (the default), "none", or a file.
        train_split, test_split: None takes the usual names.
        subset: train on some pictures only, a fraction below 1 or a count.
        seed: of the initial weights, the order and the augmentation.
        resume: go on with the run in `out`.
        skip_bad_data: leave out what is broken instead of stopping.
        device: None takes a GPU where there is one.
        settings: recipe fields by name; None values keep the recipe's.
        display: where to print.

    Raises:
        UserError: anything in the arguments or the data that the user can mend.
    """
    display = display or Display()
    data = os.fspath(data)
    if resume and out is None:
        raise UserError("--resume goes on with the run in --out; say which folder")
    train_table, test_table = _open_both(data, train_split, test_split, display, skip_bad_data)
    if subset is not None:
        train_table = train_table.subset(fraction=subset) if subset < 1 else train_table.subset(count=int(subset))
        display.say(f"training on a subset of {len(train_table):,} pictures")
    pretrained = str(backbone_weights) != "none"
    chosen = _choose_recipe(recipe, detector, train_table, pretrained, display)
    chosen = chosen.with_length(epochs=epochs, steps=steps, minutes=minutes)
    chosen = chosen.with_settings({**(settings or {}), "detector": detector, "seed": seed})
    folder = RunFolder(_run_folder(out, data, chosen.detector, resume))
    compute = choose_compute(device, chosen.precision)
    network = _build(chosen, train_table, None if resume else (backbone_weights or "imagenet"), display)
    display.say(_in_one_line(network, compute))
    workers = chosen.workers if chosen.workers is not None else usual_workers()
    tables = {"train": train_table, "test": test_table}
    trainer = Trainer(network, chosen, **tables, folder=folder, compute=compute, display=display, workers=workers)
    _start(trainer, resume)
    trainer.run()
    settings_shown = {"data": data, **chosen.as_dict()}
    best = load_model(folder.model)
    log = read_log(folder.log)
    metrics = evaluate_and_report(
        best, test_table, folder.root, compute=compute, display=display, log=log, settings=settings_shown
    )
    return TrainResult(folder.root, metrics)


def usual_workers() -> int:
    """Loader processes that pay: none on a small machine, whose cores the network needs and threads feed well."""
    cores = os.cpu_count() or 1
    return 0 if cores <= 4 else min(8, cores // 2)


def _open_both(
    data: str, train_split: str | None, test_split: str | None, display: Display, skip_bad_data: bool
) -> tuple[Table, Table]:
    if train_split is None or test_split is None:
        splits = choose_splits(data)
        if splits.note:
            display.say(splits.note)
        train_split, test_split = train_split or splits.train, test_split or splits.test
    if test_split != train_split:
        display.say(f"the weights that do best on {test_split} are kept: its AP is a little kind, so judge on others")
    train_table = open_dataset(data, train_split, display=display, skip_bad_data=skip_bad_data)
    categories = train_table.categories
    return train_table, open_dataset(
        data, test_split, display=display, skip_bad_data=skip_bad_data, categories=categories
    )


def _choose_recipe(
    recipe: str | Recipe | None, detector: str | None, table: Table, pretrained: bool, display: Display
) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return named_recipe(recipe)
    chosen, reasons = default_recipe(detector or "ssd300-vgg16", table, pretrained=pretrained)
    for reason in reasons:
        display.say(f"recipe: {reason}")
    return chosen


def _build(recipe: Recipe, table: Table, backbone_weights: str | os.PathLike[str] | None, display: Display) -> Detector:
    """The network with fresh weights by the recipe's seed, and a backbone from `backbone_weights` if not None."""
    torch.manual_seed(recipe.seed)
    config = detector_config(recipe.detector).adjusted(recipe.network_settings())
    if recipe.quick_start:
        config = config.with_quick_start()
    network = build(recipe.detector, len(table.categories), config=config)
    if backbone_weights is not None:
        display.say(str(load_backbone_weights(network, os.fspath(backbone_weights))))
    return network


def _in_one_line(network: Detector, compute: Compute) -> str:
    about = describe(network)
    width_by_height = f"{about.input_hw[1]} x {about.input_hw[0]}"
    return (
        f"{about.name}: {about.parameters / 1e6:.1f} M parameters; at {width_by_height} {about.gmacs:.2f} GMACs, "
        f"{about.anchors:,} anchors; {compute.device}, {compute.reason}"
    )


def _start(trainer: Trainer, resume: bool) -> None:
    """Make the run folder, or go on from its checkpoint."""
    folder, display = trainer.folder, trainer.display
    if resume:
        trainer.resume()
        display.say(f"{folder.root}: resumed at step {trainer.position.step}")
    else:
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.recipe.write_text(json.dumps(trainer.recipe.as_dict(), indent=1) + "\n")
    display.say(f"run folder: {folder.root}; Ctrl-C saves and stops, --resume goes on")


def _run_folder(out: str | os.PathLike[str] | None, data: str, detector: str, resume: bool) -> Path:
    if out is None:
        name = f"{Path(data).resolve().name}-{detector}"
        folders = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in range(1, 10_000))
        return next(folder for folder in folders if not folder.exists())
    folder = Path(out)
    holds_a_run = RunFolder(folder).recipe.exists()
    if resume and not holds_a_run:
        raise UserError(f"{folder}: holds no run to resume (no recipe.json); check --out")
    if holds_a_run and not resume:
        raise UserError(f"{folder}: holds a run already; go on with it by --resume, or choose another --out")
    return folder
