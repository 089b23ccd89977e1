"""Open a data set for a job: read it, check every image and object, and leave out bad data if the user asks for it."""

from onestage.data import read_dataset
from onestage.data.table import Table
from onestage.data.validate import drop_bad, errors, summary, validate_images
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.terminal import Display


def open_dataset(
    data: str, split: str, *, display: Display, skip_bad_data: bool, categories: Categories | None = None
) -> Table:
    """The table of one split of a data set, which is described on the display with its problems.

    `skip_bad_data` leaves bad images and objects out. `categories` are the classes of a model; None takes the data's.

    Raises:
        UserError: no such data, no image left to use, or bad data without `skip_bad_data`, with a summary of it.
    """
    table, problems = read_dataset(data, split, categories)
    problems = [*problems, *validate_images(table)]
    display.say(table.describe())
    bad = errors(problems)
    if bad and not skip_bad_data:
        raise UserError(f"{summary(problems)}\nmend the data, or leave these out with --skip-bad-data")
    if problems:
        display.say(summary(problems))
    if bad:
        objects = sum(problem.object_number is not None for problem in bad)
        display.say(f"left out, as --skip-bad-data asks: {len(bad) - objects} images and {objects} objects")
        table = drop_bad(table, problems)
    if len(table) == 0:
        raise UserError(f"{data}, {split}: no image is left to use")
    return table
