"""The state from which a run goes on: the newest checkpoint, and the one before it in case the newest is damaged.

A checkpoint names its recipe, classes and data, so that a run does not go on with others by mistake.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from onestage.data.table import Table
from onestage.errors import UserError
from onestage.models.model_file import RunFolder, read_tensors, write_tensors
from onestage.settings import flat
from onestage.training.recipe import Recipe

# settings of a recipe that may differ when a run goes on
MAY_CHANGE = ("epochs", "steps", "minutes", "workers", "worker_start_method", "max_skipped_steps")

Parts = Mapping[str, Mapping[str, Tensor]]  # tensors by part ("model", "average", "optimizer") and name


@dataclass
class Position:
    """Where a run stands. A checkpoint's header holds it."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0  # time of training, without set-up and evaluations
    evaluations: int = 0  # number of the recipe's evaluations that are done or were passed over
    evaluation_seconds: float = 0.0  # time of all of them
    longest_evaluation_seconds: float = 0.0
    best_map_area: float = -1.0
    skipped_in_a_row: int = 0  # number of the latest steps whose loss or gradient was not finite


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that was read."""

    parts: Parts
    header: dict[str, Any]  # "position", and the run's `identity`
    warning: str | None  # why a newer checkpoint could not be used; None if there is none


def identity(recipe: Recipe, table: Table) -> dict[str, Any]:
    """The recipe, the classes and the training data of a run, JSON-able."""
    data = {"images": len(table), "objects": len(table.labels), "sha256": table.digest()}
    return {"recipe": recipe.as_dict(), "categories": list(table.categories.names), "data": data}


def save_state(folder: RunFolder, parts: Parts, header: Mapping[str, Any]) -> None:
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
    write_tensors(folder.checkpoint, tensors, header, keep_as=folder.previous_checkpoint)


def load_state(folder: RunFolder) -> SavedState:
    """The newest checkpoint that can be read; a UserError if there is none."""
    refusals: list[str] = []
    for file in (folder.checkpoint, folder.previous_checkpoint):
        try:
            tensors, header = read_tensors(file)
        except UserError as error:
            refusals.append(str(error))
            continue
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for key, tensor in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = tensor
        warning = f"{refusals[0]}; going on from the one before, {file.name}" if refusals else None
        return SavedState(parts, header, warning)
    raise UserError(f"{folder.root}: no checkpoint can be read ({'; '.join(refusals)}); start another run")


def check_identity(folder: RunFolder, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under other conditions: a UserError names the first that differs, and both values."""
    start = f"{folder.root}: this run can't go on so: its"
    if saved["categories"] != now["categories"]:
        names = [", ".join(one["categories"]) for one in (saved, now)]
        raise UserError(f"{start} classes are {names[0]}, now {names[1]}")
    if saved["data"] != now["data"]:
        sizes = [f"{one['images']:,} images, {one['objects']:,} objects" for one in (saved["data"], now["data"])]
        raise UserError(f"{start} training data has changed ({sizes[0]}, now {sizes[1]}); start another run")
    settings = flat(now["recipe"])
    for name, value in flat(saved["recipe"]).items():
        if name not in MAY_CHANGE and settings.get(name) != value:
            raise UserError(f"{start} {name} is {value}, now {settings.get(name)}; leave it, or start another run")
