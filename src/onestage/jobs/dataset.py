"""Open a data set for a job: read it, check every image and object, and stop or go on by the user's choice."""

from __future__ import annotations

from onestage.data import read_dataset
from onestage.data.table import Table
from onestage.data.validate import drop_bad, errors, summary, validate_images
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.terminal import Display


def open_dataset(
    data: str, split: str, *, display: Display, skip_bad_data: bool, categories: Categories | None = None
) -> Table:
    """The table of one split, free of bad images and objects.

    Args:
        data: a VOC, COCO or YOLO folder.
        split: its split.
        display: where the set is described and what was wrong with it is said.
        skip_bad_data: go on without what is bad.
        categories: the classes a model knows; None takes the data set's own.

    Raises:
        UserError: no such data, nothing usable in it, or bad data without `skip_bad_data`: a summary of all of it.
    """
    table, problems = read_dataset(data, split, categories)
    problems = [*problems, *validate_images(table)]
    display.say(table.describe())
    if problems:
        if errors(problems) and not skip_bad_data:
            raise UserError(f"{summary(problems)}\nmend the data, or leave these out with --skip-bad-data")
        display.say(summary(problems))
    if errors(problems):
        objects = sum(problem.object_number is not None for problem in errors(problems))
        images = len(errors(problems)) - objects
        display.say(f"left out, as --skip-bad-data asks: {images} images and {objects} objects")
        table = drop_bad(table, problems)
    if len(table) == 0:
        raise UserError(f"{data}, {split}: no image is left to use")
    return table
