"""Train a detector on a folder of labelled images."""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import torch
from markupsafe import Markup

from onestage import html
from onestage.compute.device import Compute, choose_compute, same_bits_in_each_run
from onestage.compute.threads import loader_workers
from onestage.data import dataset_name
from onestage.data.decoded_images import DecodedImages
from onestage.data.table import Table
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.detectors import Detector, build, describe
from onestage.errors import UserError
from onestage.evaluation.pages import jpeg_url
from onestage.evaluation.report_tables import decimal
from onestage.evaluation.words import TrainedOn
from onestage.jobs.beginning import Beginning
from onestage.jobs.dataset import Request, open_for_training
from onestage.jobs.evaluate import evaluate_and_report
from onestage.jobs.last_run import say_against_last_run
from onestage.jobs.minutes import fitted_to_minutes
from onestage.jobs.recipe_choice import choose_recipe, keeps_best
from onestage.jobs.run_folder import (
    as_begun,
    decoded_folder,
    free_folder,
    named_folder,
    refuse_second_run,
    room_for_images,
    take_folder,
    write_settings,
)
from onestage.models.model_file import RunFolder, load_model
from onestage.recipes import Tile, named_recipe, tiles_for
from onestage.settings import flat
from onestage.terminal import Display, command_display, quiet
from onestage.texts import counted
from onestage.training.batch_size import find_batch_size
from onestage.training.experiment_logs import ExperimentLog, check_packages
from onestage.training.journal import read_log
from onestage.training.old_classes import OldClasses
from onestage.training.optimizer import freeze_untrained
from onestage.training.processes import World, joined_processes
from onestage.training.recipe import Recipe
from onestage.training.trainer import Trainer

THUMBNAIL_WIDTH = 480  # pixels, of the training images in a notebook


@dataclass(frozen=True)
class TrainResult:
    """A finished run: where it lies and how good its best weights are."""

    folder: Path
    metrics: dict[str, Any]

    def _repr_html_(self) -> str:
        """What a notebook shows: the figures, the way to the report, and the first training images."""
        voc, coco = self.metrics["voc"], self.metrics["coco"]
        figures = {"AP50 (VOC, area)": voc["map_area"], "AP (COCO)": coco["AP"], "AP75 (COCO)": coco["AP75"]}
        files = RunFolder(self.folder)
        link = Markup('<a href="{}">{}</a>').format(quote(os.fspath(files.report)), files.report)
        notes, title = [link], f"{self.folder}, measured on {self.metrics['images']:,} images"
        if (batches := cv2.imread(os.fspath(files.batches))) is not None:
            scale = min(1.0, THUMBNAIL_WIDTH / batches.shape[1])
            small = cv2.resize(batches[..., ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            notes.append(
                Markup('<img src="{}" alt="training images as the network sees them">').format(jpeg_url(small))
            )
        return html.table(title, ("", ""), [(name, decimal(value)) for name, value in figures.items()], notes)


@dataclass(frozen=True)
class Plan:
    """What the main rank finds out before a run, for all ranks.

    Attributes:
        folder: where the run lies, or will.
        train, val, test: the images that train, that choose the weights, and that give the figures.
        request: the data that the user asked for.
        recipe: the run's recipe; its batch size may still be found by trial.
        usual: the recipe before the user's changes.
        resume: True if the folder holds the run, which goes on.
    """

    folder: RunFolder
    train: Table
    val: Table
    test: Table
    request: Request
    recipe: Recipe
    usual: Recipe
    resume: bool

    def __post_init__(self) -> None:
        self.recipe.postprocessing.check_classes(len(self.train.categories))


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
    start_from: str | os.PathLike[str] | None = None,
    old_classes: OldClasses = "drop",
    train_split: str | None = None,
    val_split: str | None = None,
    test_split: str | None = None,
    subset: int | float | None = None,
    seed: int | None = None,
    resume: bool = False,
    data_options: DataOptions = AS_IT_IS,
    device: str | None = None,
    save_minutes: float = 5.0,
    log_to: Sequence[str | ExperimentLog] = (),
    settings: dict[str, Any] | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Train on a folder of labelled images, keep the best weights, evaluate them and write the report.

    Where torchrun started this process, it trains together with the others.

    Args:
        data: the folder, or its annotation file; several VOC years as `VOC2007+VOC2012`.
        detector: a detector's name, or `FAMILY-hf-hub:USER/NAME` on timm's weights of a hub, with which it then
            starts; None takes the recipe's, that of `start_from`, else `DEFAULT_DETECTOR`.
        recipe: a recipe's name or value; None makes one for the data.
        out: the run folder; None makes `runs/DATA-DETECTOR`.
        epochs, steps, minutes: the length, given by at most one of them; None keeps the recipe's. Minutes are those of
            this call, with reading the data, evaluations and the report.
        backbone_weights: "imagenet" (the default), "none", a file, or `hf-hub:USER/NAME` of timm's weights on a hub.
        start_from: a trained detector whose layers are taken as far as they fit: see `open_start`, `take_layers`.
        old_classes: what becomes of its classes that the data lacks. "drop": they are gone. "label": they stay
            classes, and what it sees of them in the training images is taken for objects, where it is sure.
        train_split, val_split, test_split: what trains, what chooses the weights, what gives the figures; None takes
            the usual names, and holds images out where there are none.
        subset: train on some images only: a count, or as a float a fraction up to 1.0.
        seed: seed of the initial weights, the order and the augmentation.
        resume: go on with the run in `out`, by its own recipe and with its own data; its length may be changed.
        data_options: how the data is read.
        device: None takes a GPU where there is one.
        save_minutes: minutes between two checkpoints; there is one at every evaluation too.
        log_to: experiment logs that get the numbers of `log.csv` too, and images: "tensorboard", "wandb", "mlflow", or
            an object with the parts of `ExperimentLog`, which is what takes the place of callbacks.
        settings: settings of the recipe, by the names of `Recipe.with_settings`; None keeps one. A `batch_size` of
            "auto" is found by trial; a `tile` may be "auto" too. Without one, a recipe that is made for the data weighs
            tiles against a larger input.
        display: where to print.

    Raises:
        UserError: anything in the arguments or the data that the user can mend.
    """
    begun_at = time.monotonic()
    data, beginning = os.fspath(data), Beginning(backbone_weights, start_from, old_classes)
    changes, by_trial, tiles = _asked(settings or {}, detector, seed, resume)
    with joined_processes(device) as world, ExitStack() as until_the_end:
        display = command_display(display if world.is_main else quiet())

        def plan_run() -> Plan:
            changes["detector"] = _check_request(log_to, detector, beginning, by_trial, save_minutes, world)
            folder, begun = named_folder(out, resume, world)
            resumed, request = as_begun(begun, Request((train_split, val_split, test_split), subset, data_options))
            named = named_recipe(recipe, changes["detector"]) if isinstance(recipe, str) else recipe
            beginning.open(begun, changes["detector"], named)
            tables = open_for_training(data, request, keeps_best(changes, named or resumed), display=display)
            fit = partial(fitted_to_minutes, minutes=minutes, device=world.device or device, ranks=world.size)
            usual = choose_recipe(named, resumed, changes, tables["train"], beginning, tiles, fit, display)
            tables = beginning.with_old_classes(tables, world.device or device, display)
            chosen = usual.with_length(epochs=epochs, steps=steps, minutes=minutes).with_settings(changes)
            folder = folder or free_folder(data, chosen.detector)
            return Plan(folder, **tables, request=request, recipe=chosen, usual=usual, resume=begun is not None)

        plan = world.on_main(plan_run)
        world.on_main(lambda: take_folder(plan.folder, until_the_end))
        trainer = _trained(plan, beginning, by_trial, device, save_minutes, tuple(log_to), world, display, begun_at)
        return TrainResult(plan.folder.root, _evaluate_kept(trainer, plan, data))


def _asked(
    settings: dict[str, Any], detector: str | None, seed: int | None, resume: bool
) -> tuple[dict[str, Any], bool, tuple[Tile | None, int | None]]:
    """The changes of the recipe; True if the batch size is found by trial; the tiles, which a new run finds out."""
    changes = {**settings, "detector": detector, "seed": seed}
    tiles = changes.get("tile"), changes.get("tile_overlap")
    by_trial = changes.get("batch_size") == "auto"
    changes |= {"batch_size": None} if by_trial else {}
    if not resume:
        changes |= {"tile": None, "tile_overlap": None}
    elif changes.get("tile") == "auto":
        changes["tile"] = None  # as it was found out
    return changes, by_trial, tiles


def _check_request(
    log_to: Sequence[str | ExperimentLog],
    detector: str | None,
    beginning: Beginning,
    by_trial: bool,
    save_minutes: float,
    world: World,
) -> str | None:
    """The detector that was asked for, which has its plain name now.

    Raises:
        UserError: what can be told before the data is read, as missing packages, an unknown detector.
    """
    check_packages(log_to)
    if not save_minutes >= 0:  # NaN is not
        raise UserError(f"--save-minutes {save_minutes:g}: expected 0 or more")
    if world.size > 1 and by_trial:
        raise UserError("--batch-size auto is tried by one process; find it so, then give torchrun the number")
    detector = beginning.named_detector(detector)
    if detector is not None:
        with torch.device("meta"):
            build(detector, num_classes=1)
    return detector


def _trained(
    plan: Plan,
    beginning: Beginning,
    by_trial: bool,
    device: str | None,
    save_minutes: float,
    log_to: tuple[str | ExperimentLog, ...],
    world: World,
    display: Display,
    begun_at: float,
) -> Trainer:
    """Train to the end of the recipe; before, the run folder gets its first checkpoint, or has that to go on from."""
    if not plan.resume:
        world.on_main(lambda: refuse_second_run(plan.folder))  # again: only now is the folder locked
    world.begin_run()
    recipe = plan.recipe
    compute = choose_compute(world.device or device, recipe.precision)
    if recipe.deterministic:
        same_bits_in_each_run(compute.device)
    network = _network(plan, beginning, world, display)
    display.say(_summary(network, compute, world))
    if by_trial and not plan.resume:
        freeze_untrained(network, recipe)
        recipe = find_batch_size(network, compute, recipe=recipe, limit=len(plan.train), say=display.say)
    trainer = Trainer(
        network,
        recipe,
        **_tables(plan, recipe),
        folder=plan.folder,
        compute=compute,
        display=display,
        workers=recipe.workers if recipe.workers is not None else loader_workers(world.processes_here),
        save_minutes=save_minutes,
        world=world,
        log_to=log_to,
        usual=plan.usual,
        kept_classes=beginning.kept_classes,
        begun_at=begun_at,
    )
    if plan.resume:
        trainer.resume()
        ended = "" if trainer.progress < 1 else ", which ends it: only its evaluation is made anew"
        display.say(f"{plan.folder.root}: resumed at step {trainer.position.step}{ended}")
    else:
        trainer.save()
        world.on_main(lambda: beginning.save(plan.folder))
    world.on_main(lambda: write_settings(plan.folder, recipe, plan.request, beginning.record))
    display.say(f"run folder: {plan.folder.root}; Ctrl-C saves and stops, --resume goes on")
    trainer.run()
    return trainer


def _tables(plan: Plan, recipe: Recipe) -> dict[str, Table]:
    """What trains (tiles or shrunk images, if asked for), chooses and tests; decoded images are kept meanwhile."""
    folder, room = decoded_folder(plan.folder), room_for_images(plan.folder, recipe.cache_tiles)
    decoded, train = DecodedImages(folder, room), plan.train.with_difficult(recipe.train_difficult)
    if recipe.shrink_images is not None:
        train = train.with_smaller_images(recipe.shrink_images, folder / "shrunk", room)
    return {
        "train": tiles_for(train, recipe, decoded),
        "val": replace(plan.val, decoded=decoded),
        "test": replace(plan.test, decoded=decoded),
    }


def _network(plan: Plan, beginning: Beginning, world: World, display: Display) -> Detector:
    """The detector of a run, with the weights that it begins with; a resumed run's come from its checkpoint."""
    recipe, categories = plan.recipe, plan.train.categories
    torch.manual_seed(recipe.seed)
    network = build(recipe.detector, len(categories), config=recipe.network)
    network.evaluation_selection, network.input_bits = recipe.postprocessing, plan.train.bits
    network.tiling = recipe.tiling
    if not plan.resume:  # the other ranks get the weights from the main one when they are connected
        world.on_main(lambda: display.say(*beginning.put_into(network, categories)))
        network.normalize.set(world.from_main(network.normalization))
    return network


def _summary(network: Detector, compute: Compute, world: World) -> str:
    about = describe(network)
    height, width = about.input_hw
    processes = f"; {world.size} processes" if world.size > 1 else ""
    return (
        f"{about.name}: {about.parameters / 1e6:.1f} M parameters; at {width} x {height} {about.gmacs:.2f} GMACs, "
        f"{about.anchors:,} anchors; {compute.device}, {compute.reason}{processes}"
    )


def _evaluate_kept(trainer: Trainer, plan: Plan, data: str) -> dict[str, Any]:
    """Measure the weights that were kept, write `metrics.json` and the report, and compare with the last run."""
    folder, world, val, test = trainer.folder, trainer.world, plan.val, plan.test
    last = trainer.recipe.keep == "last"
    chosen_by = "none: the last weights" if last else f"{val.split} ({len(val):,} images)"
    learned = np.bincount(plan.train.labels[~plan.train.ignored], minlength=len(test.categories))
    of_these = len(np.intersect1d(plan.train.image_paths, test.image_paths)) if plan.train.root == test.root else 0
    trained_on = TrainedOn(
        len(plan.train), learned, "" if last else val.split, len(val), val.split == test.split, of_these
    )
    metrics = evaluate_and_report(
        world.on_main(lambda: load_model(folder.model)),
        test,
        folder.root,
        compute=trainer.compute,
        display=trainer.display,
        settings={"data": data, "split": test.split, "weights chosen on": chosen_by, **flat(trainer.recipe.as_dict())},
        log=read_log(folder.log) if world.is_main else (),
        world=world,
        trained_on=trained_on,
        unlabelled=trainer.kept_classes,
    )
    since = "since it was resumed" if plan.resume else "in all"
    trainer.display.say(
        f"trained on {counted(len(plan.train), 'image')} of {dataset_name(data)}: {trainer.epoch:.1f} epochs, "
        f"{trainer.position.step:,} steps, {trainer.display.took} {since}: {folder.root}"
    )
    if world.is_main:
        say_against_last_run(folder.root, trainer.display)
    return metrics
