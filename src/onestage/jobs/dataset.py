"""Open a data set for a job: read it, check every image and object, and leave out bad data if the user asks for it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from onestage.checks import quick_findings
from onestage.data import Found, Splits, choose_splits, find_datasets, read_dataset, unite
from onestage.data.split_names import split_key
from onestage.data.splits import HELD_OUT, KEPT, base_of, part_of, read_for
from onestage.data.table import Table
from onestage.data.validate import Problem, drop_bad, errors, significant_bits, summary, validate_images
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.terminal import Display
from onestage.texts import counted, one_line

Given = tuple[str | None, str | None, str | None]  # the splits that a user named to train, to choose and to test


@dataclass(frozen=True)
class Request:
    """Which images a user asks a run to use, and how to read them.

    Attributes:
        splits: None takes the usual ones.
        subset: train on some images only: a count, or as a float a fraction up to 1.0.
        options: how the data is read.
    """

    splits: Given = (None, None, None)
    subset: int | float | None = None
    options: DataOptions = AS_IT_IS

    def __post_init__(self) -> None:
        subset = self.subset
        if subset is not None and not (subset > 0 and (subset <= 1 or subset % 1 == 0)):  # NaN is neither
            raise UserError(f"--subset {subset}: expected a number of images, or a fraction up to 1.0")
        # Those of the command line are of a class made at run time, which can't be sent to other ranks.
        object.__setattr__(self, "options", DataOptions(**vars(self.options)))

    def filled_from(self, before: "Request") -> "Request":
        """The same request; what it leaves open is as before."""
        train, val, test = (now or then for now, then in zip(self.splits, before.splits, strict=True))
        own = {one.name: getattr(self.options, one.name) for one in fields(DataOptions)}
        own = {name: value for name, value in own.items() if value != getattr(AS_IT_IS, name)}
        subset = before.subset if self.subset is None else self.subset
        return Request((train, val, test), subset, replace(before.options, **own))


def open_dataset(
    data: str,
    split: str,
    *,
    display: Display,
    options: DataOptions = AS_IT_IS,
    categories: Categories | None = None,
    found: list[Found] | None = None,
) -> Table:
    """The table of one split of a data set, which is described on the display with its problems.

    `categories` are the classes of a model; None takes the data's. `found`: see `read_dataset`.

    Raises:
        UserError: no such data, no image left to use, or bad data that is not to be skipped, with a summary of it.
    """
    table, problems = read_dataset(data, split, categories, options, found)
    problems = [*problems, *validate_images(table)]
    display.say(table.describe())
    table = without_bad(table, problems, display, options)
    if len(table) == 0:
        raise UserError(f"{data}, {split}: no image is left to use")
    return table


def without_bad(table: Table, problems: list[Problem], display: Display, options: DataOptions) -> Table:
    """The table without what an error names, if bad data is to be skipped; else a UserError with all problems.

    Nothing is left of a set whose boxes all mean something else, as fractions or corners: that is always an error.
    """
    bad = errors(problems)
    if misread := [one for one in bad if one.kind == "box-outside" and one.object_number is None]:
        raise UserError(*map(str, misread))
    if bad and not options.skip_bad_data:
        raise UserError(*_refusal(problems))
    if problems:
        display.say(*summary(problems))
    if bad:
        objects = sum(problem.object_number is not None for problem in bad)
        display.say(f"left out: {counted(len(bad) - objects, 'image')} and {counted(objects, 'object')}")
        table = drop_bad(table, problems)
    return table


def _refusal(problems: list[Problem]) -> list[str]:
    """All problems as lines; one line if they are one and the same."""
    mend = "mend the data, or leave these out with --skip-bad-data"
    first, *others = problems
    if all((one.kind, one.message, one.object_number) == (first.kind, first.message, None) for one in problems):
        return [f"{first.file}{f' and {len(others):,} more' if others else ''}: {first.message}; {mend}"]
    return [*summary(problems), mend]


def say_what_was_found(data: str, display: Display, options: DataOptions = AS_IT_IS) -> list[Found]:
    """Print what the annotations of each folder were taken for, and give it."""
    found = find_datasets(data, options.format)
    for one in found:
        display.say(one.describe())
    return found


def open_for_training(data: str, request: Request, hold_out: bool, *, display: Display) -> dict[str, Table]:
    """The images that train, choose the weights and test, as "train", "val" and "test", with one list of classes.

    Args:
        hold_out: hold images out to choose the weights, where the data has no split for that.

    Raises:
        UserError: as `open_dataset`; or no object is left to train on.
    """
    options, subset = request.options, request.subset
    found = say_what_was_found(data, display, options)
    splits = _choose_splits(data, request.splits, hold_out, options, found)
    if splits.note:
        display.say(splits.note)
    names = dict.fromkeys((splits.train, splits.choose, splits.test))
    bases = dict.fromkeys(base_of(name) for name in names)
    unused = list(dict.fromkeys(split for one in found for split in _unused(one.source.splits, bases)))
    if unused:
        display.say(f"not used: {', '.join(unused[:5])}{', ...' if unused[5:] else ''} (--train-split names a split)")
    whole = {base: open_dataset(data, base, display=display, options=options, found=found) for base in bases}
    tables = {name: part_of(whole[base_of(name)], name, options.test_fraction) for name in names}
    categories = unite([table.categories for table in tables.values()])
    bits = significant_bits(tables[splits.train])
    if bits < 16:
        display.say(f"images of 16 bits have values of {bits} bits: their highest 8 are taken, here and by the model")
    tables = {name: table.with_categories(categories).with_bits(bits) for name, table in tables.items()}
    splits = _without_unlabelled(splits, tables, request, display)
    display.say(_who_does_what(splits, tables, hold_out))
    for serious in quick_findings(tables):
        display.say(f"{serious.level}: {serious.what} [{serious.code}]; {serious.mend}")
    train = tables[splits.train]
    if subset is not None:
        is_fraction = isinstance(subset, float) and subset <= 1
        train = train.subset(fraction=subset) if is_fraction else train.subset(count=int(subset))
        display.say(f"training on a subset of {counted(len(train), 'image')}")
    if train.ignored.all():  # or there are none
        raise UserError(
            f"{data}, {train.split}: {counted(len(train), 'image')} without an object to learn from (ignored ones do "
            "not count); look at the labels, or name another --train-split"
        )
    return {"train": train, "val": tables[splits.choose], "test": tables[splits.test]}


def _without_unlabelled(splits: Splits, tables: dict[str, Table], request: Request, display: Display) -> Splits:
    """The splits, but for a val and a test without any object, unless the user named them; `tables` has their images.

    A part of the training images is then held out to choose the weights, and what chooses them tests.
    """
    train, choose, test, _ = splits
    if request.splits[1] is None and train == base_of(train) and not len(tables[choose].labels):
        kept, held_out = f"{train}:{KEPT}", f"{train}:{HELD_OUT}"
        display.say(f"{choose}: none of its images has an object, so it is not used, and a part of {train} is held out")
        whole = tables.pop(train)
        tables |= {part: part_of(whole, part, request.options.test_fraction) for part in (kept, held_out)}
        tables.pop(choose, None)
        train, choose, test = kept, held_out, held_out if test == choose else test
    if request.splits[2] is None and test != choose and not len(tables[test].labels):
        display.say(f"{test}: none of its images has an object, so it is not used, and {choose} tests")
        del tables[test]
        test = choose
    return splits._replace(train=train, choose=choose, test=test)


def _unused(known: Sequence[str], bases: Collection[str]) -> list[str]:
    """The splits of a folder that nothing reads; a trainval, and its parts where it is read, are no loss."""
    read = {split for base in bases for split in read_for(known, base)}
    no_loss = {"train", "val", "trainval"} if "trainval" in map(split_key, bases) else {"trainval"}
    return [split for split in known if split not in read and split_key(split) not in no_loss]


def _choose_splits(data: str, given: Given, hold_out: bool, options: DataOptions, found: list[Found]) -> Splits:
    """The splits that were given; the usual ones for the rest."""
    train, val, test = given
    if train and test:
        return Splits(train, val or test, test)
    usual = choose_splits(data, options, hold_out=hold_out, found=found)
    if train and not val and base_of(usual.choose) == train:
        train = usual.train  # without the images that are held out of it
    choose = val or (test if test and usual.choose == usual.test and not hold_out else usual.choose)
    return Splits(
        train or usual.train, choose, test or (choose if usual.test == usual.choose else usual.test), usual.note
    )


def _who_does_what(splits: Splits, tables: Mapping[str, Table], hold_out: bool) -> str:
    train, choose, test = (f"{counted(len(tables[name]), 'image')} ({name})" for name in splits[:3])
    if not hold_out:
        return f"{train} train, the last weights are kept, {test} test them"
    if splits.choose != splits.test:
        return f"{train} train, {choose} choose the best weights, {test} test them at the end"
    kindly = "so they look a little better than they are; add a test split"
    return f"{train} train, {choose} choose the best weights and test them, {kindly}"


def table_lines(tables: Mapping[str, Table], input_sizes: Mapping[str, np.ndarray] | None = None) -> list[str]:
    """What is in each split, as a table of text: images, objects, classes, and sizes where they are given.

    `input_sizes`: height and width of the objects at a detector's input, by split.
    """
    names = next(iter(tables.values())).categories.names
    rows: list[tuple[str, list[object]]] = [
        ("images", [len(table) for table in tables.values()]),
        ("objects", [len(table.labels) for table in tables.values()]),
        ("ignored objects", [int(table.ignored.sum()) for table in tables.values()]),
    ]
    counts = [np.bincount(table.labels, minlength=len(names)).tolist() for table in tables.values()]
    rows += [(one_line(name)[:40], [one[label] for one in counts]) for label, name in enumerate(names)]
    if input_sizes is not None:
        sides = [np.sqrt(input_sizes[split].prod(axis=1)) for split in tables]
        for part, percent in (("smallest", 0), ("median", 50), ("largest", 100)):
            found = [f"{np.percentile(side, percent):.0f} px" if len(side) else "-" for side in sides]
            rows.append((f"{part} at input", [*found]))
    width = max(len(name) for name, _ in rows)
    lines = [f"{'':{width}}  " + "".join(f"{split[:12]:>13}" for split in tables)]
    written = ((name, [f"{one:,}" if isinstance(one, int) else str(one) for one in values]) for name, values in rows)
    return lines + [f"{name:{width}}  " + "".join(f"{value:>13}" for value in values) for name, values in written]
