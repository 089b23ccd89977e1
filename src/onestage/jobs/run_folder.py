"""The folder of a run: named or found, locked, with the settings that a resumed run goes on with."""

import json
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from onestage.data import dataset_name
from onestage.errors import UserError
from onestage.jobs.dataset import Request
from onestage.models.model_file import RunFolder
from onestage.recipes import as_toml
from onestage.settings import plain, read
from onestage.training.processes import World
from onestage.training.recipe import Recipe
from onestage.training.run_lock import sole_run
from onestage.whole_file import remove_leftovers, write_whole

BEGINNING = "beginning"  # the key of `Beginning.record` in data.json


def named_folder(
    out: str | os.PathLike[str] | None, resume: bool, world: World
) -> tuple[RunFolder | None, RunFolder | None]:
    """The run folder that the user named, if any, and once more if the run in it goes on; else it may hold none."""
    if out is None:
        if resume or world.may_restart:
            what = "--resume" if resume else "torchrun's --max-restarts"
            raise UserError(f"{what} goes on with the run in --out; say which folder")
        return None, None
    folder = RunFolder(Path(out))
    if not resume and not world.restarted:
        refuse_second_run(folder)  # before the data is looked through
    goes_on = resume or (world.restarted and folder.recipe.exists())
    return folder, folder if goes_on else None


def refuse_second_run(folder: RunFolder) -> None:
    """Raise a UserError if the folder holds a run, or a model that the run's would replace."""
    if folder.recipe.exists():
        raise UserError(f"{folder.root}: holds a run already; go on with it by --resume, or choose another --out")
    if folder.model.exists():
        raise UserError(f"{folder.model}: the run would overwrite this model; choose another --out, or move it away")


def take_folder(folder: RunFolder, until_the_end: ExitStack) -> None:
    """Lock a run folder, and remove what was being written when an earlier process was killed."""
    until_the_end.enter_context(sole_run(folder.root))
    shutil.rmtree(decoded_folder(folder), ignore_errors=True)  # the data may have changed since
    until_the_end.callback(shutil.rmtree, decoded_folder(folder), ignore_errors=True)
    for place in (folder.root, folder.checkpoint.parent, folder.replay(0).parent):
        remove_leftovers(place)


def decoded_folder(folder: RunFolder) -> Path:
    """Where decoded images, or shrunk ones, lie while they train."""
    return folder.root / "decoded"


def room_for_images(folder: RunFolder, gigabytes: float) -> int:
    """How many bytes of them may lie there: so many gigabytes, but half of what is free at most."""
    return min(round(gigabytes * 1e9), shutil.disk_usage(folder.root).free // 2)


def as_begun(begun: RunFolder | None, request: Request) -> tuple[Recipe | None, Request]:
    """The recipe of the run that goes on, if one does, and the request, filled from the one that it began with."""
    if begun is None:
        return None, request
    return _recipe_of_run(begun), request.filled_from(_request_of_run(begun))


def _recipe_of_run(folder: RunFolder) -> Recipe:
    if not folder.recipe.exists():
        raise UserError(f"{folder.root}: holds no run to resume (no recipe.json); check --out")
    try:
        return Recipe.from_dict(json.loads(folder.recipe.read_text()), str(folder.recipe))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder.recipe}: damaged; start another run") from error


def _request_of_run(folder: RunFolder) -> Request:
    """The data that a run began with; without its file, the usual."""
    values = _data_of_run(folder)
    return read(Request, {name: values[name] for name in values if name != BEGINNING}, str(folder.data))


def record_of_beginning(folder: RunFolder) -> dict[str, str | None]:
    """What a run began with, as `Beginning.record`; nothing of one of an earlier version."""
    record = _data_of_run(folder).get(BEGINNING)
    return record if isinstance(record, dict) else {}


def _data_of_run(folder: RunFolder) -> dict[str, Any]:
    if not folder.data.exists():
        return {}
    with suppress(ValueError, RecursionError):
        if isinstance(values := json.loads(folder.data.read_text()), dict):
            return values
    raise UserError(f"{folder.data}: damaged; delete it, and name splits and data options again")


def free_folder(data: str, detector: str) -> RunFolder:
    """The folder of a run that the user gave none: `runs/DATA-DETECTOR`, with a number where that exists."""
    name = f"{dataset_name(data)}-{detector}"
    folders = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in range(1, 10_000))
    return RunFolder(next(folder for folder in folders if not folder.exists()))


def write_settings(folder: RunFolder, recipe: Recipe, request: Request, beginning: dict[str, str | None]) -> None:
    """Write `data.json`, `recipe.toml`, then `recipe.json`, which says that the folder holds a run."""
    write_whole(folder.data, (json.dumps({**plain(request), BEGINNING: beginning}) + "\n").encode())
    write_whole(folder.recipe.with_suffix(".toml"), as_toml(recipe).encode())
    write_whole(folder.recipe, (json.dumps(recipe.as_dict(), indent=1) + "\n").encode())
