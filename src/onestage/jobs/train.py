"""Train a detector on a folder of labelled pictures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
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
from onestage.training.run_lock import sole_run
from onestage.training.trainer import Trainer
from onestage.weights.imagenet import load_backbone_weights
from onestage.whole_file import write_whole


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
    save_minutes: float = 5.0,
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
        resume: go on with the run in `out`, by its own recipe; its length may be changed.
        skip_bad_data: leave out what is broken instead of stopping.
        device: None takes a GPU where there is one.
        save_minutes: between two checkpoints; there is one at every evaluation besides.
        settings: recipe fields by name; None values keep the recipe's.
        display: where to print.

    Raises:
        UserError: anything in the arguments or the data that the user can mend.
    """
    display = display or Display()
    data = os.fspath(data)
    if resume and out is None:
        raise UserError("--resume goes on with the run in --out; say which folder")
    run = _recipe_of_run(RunFolder(Path(out))) if resume and out is not None else None
    if run is None and out is not None:
        _refuse_second_run(RunFolder(Path(out)))  # before the data is looked through
    tables = _open_both(data, train_split, test_split, subset, display, skip_bad_data)
    pretrained = str(backbone_weights) != "none"
    chosen = _choose_recipe(recipe, run, detector, tables["train"], pretrained, display)
    chosen = chosen.with_length(epochs=epochs, steps=steps, minutes=minutes)
    chosen = chosen.with_settings({**(settings or {}), "detector": detector, "seed": seed})
    folder = RunFolder(_run_folder(out, data, chosen.detector))
    with sole_run(folder.root):
        if run is None:
            _refuse_second_run(folder)
        compute = choose_compute(device, chosen.precision)
        network = _build(chosen, tables["train"], None if resume else (backbone_weights or "imagenet"), display)
        display.say(_in_one_line(network, compute))
        workers = chosen.workers if chosen.workers is not None else usual_workers()
        how = {"folder": folder, "compute": compute, "display": display, "save_minutes": save_minutes}
        trainer = Trainer(network, chosen, **tables, **how, workers=workers)
        _start(trainer, resume)
        trainer.run()
        log, shown = read_log(folder.log), {"data": data, **chosen.as_dict()}
        settings_of_report = {"compute": compute, "display": display, "log": log, "settings": shown}
        metrics = evaluate_and_report(load_model(folder.model), tables["test"], folder.root, **settings_of_report)
    return TrainResult(folder.root, metrics)


def usual_workers() -> int:
    """Loader processes that pay: none on a small machine, whose cores the network needs and threads feed well."""
    cores = os.cpu_count() or 1
    return 0 if cores <= 4 else min(8, cores // 2)


def _open_both(
    data: str,
    train_split: str | None,
    test_split: str | None,
    subset: float | None,
    display: Display,
    skip_bad_data: bool,
) -> dict[str, Table]:
    """What to train on and what to test on: "train", "test"."""
    if train_split is None or test_split is None:
        splits = choose_splits(data)
        if splits.note:
            display.say(splits.note)
        train_split, test_split = train_split or splits.train, test_split or splits.test
    if test_split != train_split:
        display.say(f"the weights that do best on {test_split} are kept: its AP is a little kind, so judge on others")
    train = open_dataset(data, train_split, display=display, skip_bad_data=skip_bad_data)
    test = open_dataset(data, test_split, display=display, skip_bad_data=skip_bad_data, categories=train.categories)
    if subset is not None:
        train = train.subset(fraction=subset) if subset < 1 else train.subset(count=int(subset))
        display.say(f"training on a subset of {len(train):,} pictures")
    return {"train": train, "test": test}


def _choose_recipe(
    recipe: str | Recipe | None,
    run: Recipe | None,
    detector: str | None,
    table: Table,
    pretrained: bool,
    display: Display,
) -> Recipe:
    """The one that was named or given; else that of the run that goes on; else one made for the data."""
    if recipe is not None:
        chosen = recipe if isinstance(recipe, Recipe) else named_recipe(recipe)
        return chosen if run is None else replace(chosen, epochs=run.epochs, steps=run.steps, minutes=run.minutes)
    if run is not None:
        return run
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
    """Begin a run, or go on from its checkpoint. `recipe.json` says that a folder holds a run, so it comes last."""
    folder, display = trainer.folder, trainer.display
    if resume:
        trainer.resume()
        display.say(f"{folder.root}: resumed at step {trainer.position.step}")
    else:
        trainer.save()
    write_whole(folder.recipe, (json.dumps(trainer.recipe.as_dict(), indent=1) + "\n").encode())
    display.say(f"run folder: {folder.root}; Ctrl-C saves and stops, --resume goes on")


def _refuse_second_run(folder: RunFolder) -> None:
    if folder.recipe.exists():
        raise UserError(f"{folder.root}: holds a run already; go on with it by --resume, or choose another --out")


def _recipe_of_run(folder: RunFolder) -> Recipe:
    if not folder.recipe.exists():
        raise UserError(f"{folder.root}: holds no run to resume (no recipe.json); check --out")
    try:
        return Recipe.from_dict(json.loads(folder.recipe.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder.recipe}: damaged; start another run") from error


def _run_folder(out: str | os.PathLike[str] | None, data: str, detector: str) -> Path:
    if out is not None:
        return Path(out)
    name = f"{Path(data).resolve().name}-{detector}"
    folders = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in range(1, 10_000))
    return next(folder for folder in folders if not folder.exists())
