"""The state from which a run goes on: the newest checkpoint, and the one before it in case the newest is damaged.

A checkpoint names its recipe, classes and data, so that a run does not go on with others by mistake.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from onestage.data.table import Table
from onestage.detectors import Normalization
from onestage.errors import UserError
from onestage.models.model_file import RunFolder, read_tensors, write_tensors
from onestage.settings import flat, plain, read
from onestage.training.recipe import Recipe

# settings of a recipe that may differ when a run goes on
MAY_CHANGE = ("epochs", "steps", "minutes", "accumulate", "workers", "worker_start_method", "max_skipped_steps")

Parts = Mapping[str, Mapping[str, Tensor]]  # tensors by part ("model", "average", "optimizer") and name


@dataclass
class Position:
    """Where a run stands. A checkpoint's header holds it."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0  # time of training, without set-up and evaluations
    set_up_seconds: float = 0.0  # time before the first step, of each process that went on with the run
    evaluations: int = 0  # number of the recipe's evaluations that are done or were passed over
    evaluation_seconds: float = 0.0  # time of all of them
    longest_evaluation_seconds: float = 0.0
    best_map_area: float = -1.0
    skipped_in_a_row: int = 0  # number of the latest steps whose loss or gradient was not finite


@dataclass(frozen=True)
class SplitFacts:
    """What a checkpoint remembers of a split."""

    images: int
    objects: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.images:,} images, {self.objects:,} objects"


@dataclass(frozen=True)
class Identity:
    """What stays the same when a run goes on."""

    recipe: dict[str, Any]  # `Recipe.as_dict`
    categories: tuple[str, ...]
    data: SplitFacts  # of the split that trains
    val: SplitFacts
    test: SplitFacts


@dataclass(frozen=True)
class Header(Identity):
    """What a checkpoint holds beside tensors."""

    position: Position
    normalization: Normalization  # of the input; it may be that of the weights from which the run started
    scaler: dict[str, Any]  # of float16's losses


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that was read."""

    parts: Parts
    header: Header
    warning: str | None  # why a newer checkpoint could not be used; None if there is none


def identity(recipe: Recipe, train: Table, val: Table, test: Table) -> Identity:
    """The recipe, the classes and the data of a run."""
    facts = [SplitFacts(len(table), len(table.labels), table.digest()) for table in (train, val, test)]
    return Identity(recipe.as_dict(), train.categories.names, *facts)


def save_state(folder: RunFolder, parts: Parts, header: Header) -> None:
    """Write a checkpoint and keep the one before; at every moment one of them can be read.

    A UserError if a number in it is not finite, or if it can't be written.
    """
    tensors = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{name}: not finite, so no checkpoint was written; the one before is whole. Start again with a "
                "smaller --learning-rate"
            )
    write_tensors(folder.checkpoint, tensors, plain(header), keep_as=folder.previous_checkpoint)


def load_state(folder: RunFolder) -> SavedState:
    """The newest checkpoint that can be read; a UserError if there is none."""
    refusals: list[str] = []
    for file in (folder.checkpoint, folder.previous_checkpoint):
        try:
            parts, header = _read(file)
        except UserError as error:
            refusals.append(str(error))
            continue
        warning = f"{refusals[0]}; going on from the one before, {file.name}" if refusals else None
        return SavedState(parts, header, warning)
    raise UserError(f"{folder.root}: no checkpoint can be read ({'; '.join(refusals)}); start another run")


def _read(file: Path) -> tuple[Parts, Header]:
    """A UserError if the file is missing, damaged, or something else than a checkpoint of this version."""
    tensors, header = read_tensors(file)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    try:
        for key, tensor in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = tensor
        own = {name: value for name, value in header.items() if name not in ("format", "sha256")}
        return parts, read(Header, own, "header")
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: no checkpoint of this version of onestage") from error


def check_identity(folder: RunFolder, saved: Identity, now: Identity) -> None:
    """Refuse to go on with a run under other conditions: a UserError names the first that differs, and both values."""
    start = f"{folder.root}: this run can't go on so: its"
    if saved.categories != now.categories:
        raise UserError(f"{start} classes are {', '.join(saved.categories)}, now {', '.join(now.categories)}")
    splits = (("training", saved.data, now.data), ("validation", saved.val, now.val), ("test", saved.test, now.test))
    for split, before, after in splits:
        if before != after:
            now_has = f"now {after}" if str(after) != str(before) else "as many now, but names, sizes or boxes differ"
            raise UserError(
                f"{start} {split} data has changed ({before}, {now_has}); put it back, or start another run"
            )
    settings = flat(now.recipe)
    for name, value in flat(saved.recipe).items():
        if name not in MAY_CHANGE and settings.get(name) != value:
            raise UserError(f"{start} {name} is {value}, now {settings.get(name)}; leave it, or start another run")
