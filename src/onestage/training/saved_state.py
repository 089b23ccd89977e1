"""The state that a run goes on from: the newest checkpoint, and the one before it in case the newest is damaged.

A checkpoint says which run it is of, so that a run is not gone on with by mistake on other data or another recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from onestage.data.table import Table
from onestage.errors import UserError
from onestage.models.model_file import RunFolder, read_tensors, write_tensors
from onestage.training.recipe import Recipe

# fields of a recipe, from one start of a run to the next
MAY_CHANGE = ("epochs", "steps", "minutes", "workers", "worker_start_method", "max_skipped_steps")


@dataclass
class Position:
    """Where a run stands; what a checkpoint's header holds."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0  # of training: without set-up and evaluations
    evaluations: int = 0  # how many of the recipe's are done or were passed over
    evaluation_seconds: float = 0.0  # of all of them
    longest_evaluation_seconds: float = 0.0
    best_map_area: float = -1.0
    skipped_in_a_row: int = 0  # steps whose loss or gradient was not finite


@dataclass(frozen=True)
class SavedState:
    """A checkpoint that was read.

    Attributes:
        parts: tensors by part ("model", "average", "optimizer") and name.
        header: "position", and what `identity` says.
        warning: what was wrong with a newer one that could not be used; None where nothing was.
    """

    parts: dict[str, dict[str, Tensor]]
    header: dict[str, Any]
    warning: str | None


def identity(recipe: Recipe, table: Table) -> dict[str, Any]:
    """What makes a run that run, JSON-able: its recipe, its classes, its training data."""
    data = {"images": len(table), "objects": len(table.labels), "sha256": table.digest()}
    return {"recipe": recipe.as_dict(), "categories": list(table.categories.names), "data": data}


def check_finite(parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse to put numbers into a checkpoint that no run could go on from.

    Raises:
        UserError: the first tensor with a NaN or an infinity.
    """
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UserError(
                    f"{part}, {name}: not finite, so no checkpoint was written; the one before is whole. Start again "
                    "with a smaller --learning-rate"
                )


def save_state(folder: RunFolder, parts: Mapping[str, Mapping[str, Tensor]], header: Mapping[str, Any]) -> None:
    """Write a checkpoint. The one before is kept too, and at every moment one of them can be read.

    Raises:
        UserError: the disk is full, or can't be written.
    """
    tensors = {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
    write_tensors(folder.checkpoint, tensors, header, keep_as=folder.previous_checkpoint)


def load_state(folder: RunFolder) -> SavedState:
    """The newest checkpoint that can be read.

    Raises:
        UserError: there is none.
    """
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
    """Refuse to go on with a run under other conditions.

    Raises:
        UserError: the first thing that differs, with both values.
    """
    differs = f"{folder.root}: this run can't go on so:"
    if saved["categories"] != now["categories"]:
        names, names_now = (", ".join(one["categories"]) for one in (saved, now))
        raise UserError(f"{differs} its classes are {names}, now {names_now}")
    if saved["data"] != now["data"]:
        size, size_now = (_size(one["data"]) for one in (saved, now))
        raise UserError(f"{differs} its training data has changed ({size}, now {size_now}); start another run")
    as_json = json.loads(json.dumps(now["recipe"]))
    for name, value in saved["recipe"].items():
        if name not in MAY_CHANGE and as_json.get(name) != value:
            raise UserError(f"{differs} its {name} is {value}, now {as_json.get(name)}; leave it, or start another run")


def _size(data: Mapping[str, Any]) -> str:
    return f"{data['images']:,} images, {data['objects']:,} objects"
