"""How a run that has just ended compares with the one before, in one line; `onestage compare` says more."""

from __future__ import annotations

import heapq
from contextlib import suppress
from pathlib import Path

import numpy as np

from onestage.evaluation.comparison import compare_sides
from onestage.evaluation.measured import Measured
from onestage.models.model_file import RunFolder, read_tensors
from onestage.terminal import Display

LOOKED_AT = 10  # runs beside it, the newest
LARGEST_FILE = 64 << 20  # bytes: what takes longer to read than anyone waits for
MOST_DETECTIONS = 300_000  # of both runs; above, matching them takes seconds
MOST_WORK = 1 << 27  # of the resamples: about a second


def say_against_last_run(folder: Path, display: Display) -> None:
    """Say whether the run is better than the last one beside it that was tested on the same images and objects.

    In AP50, with its 95 % interval; nothing where there is no such run, or too much to compare in some two seconds.
    Never raises: what went wrong here is no reason to call a run that has ended failed.
    """
    with suppress(Exception):  # of files of other runs, which may be anything
        this = _measured(RunFolder(folder).measured)
        other = _last_beside(folder, this) if this is not None else None
        if this is None or other is None or len(this.found.scores) + len(other[1].found.scores) > MOST_DETECTIONS:
            return
        name, last = other
        comparison = compare_sides([[last], [this]], metrics=("AP50",), most_work=MOST_WORK)
        one = comparison.differences["AP50"][1][0]
        images = f"{comparison.images:,} images"
        words = {"equal": f"no difference that {images} can show", "too few": f"{images} are too few to tell"}
        display.say(f"against {name}: AP50 {one} points: {words.get(one.verdict, one.verdict)}")


def _last_beside(folder: Path, this: Measured) -> tuple[Path, Measured] | None:
    """The newest run in the same parent folder on the same test images, with its folder."""
    beside = (file for file in folder.absolute().parent.glob(f"*/{RunFolder(folder).measured.name}"))
    others = [file for file in beside if file.parent != folder.absolute() and (file.parent / "recipe.json").exists()]
    for file in heapq.nlargest(LOOKED_AT, others, key=lambda one: one.stat().st_mtime):
        with suppress(Exception):  # a damaged one hides no other
            measured = _measured(file)
            if measured is not None and _same_images(measured, this):
                return folder.parent / file.parent.name, measured
    return None


def _measured(file: Path) -> Measured | None:
    """The content of a file; None if it is large."""
    if file.stat().st_size > LARGEST_FILE:
        return None
    return Measured.from_file_content(*read_tensors(file), str(file))


def _same_images(a: Measured, b: Measured) -> bool:
    names = a.image_names == b.image_names and a.categories.names == b.categories.names
    return names and all(np.array_equal(vars(a.truth)[name], column) for name, column in vars(b.truth).items())
