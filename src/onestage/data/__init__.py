"""Data sets: a folder goes in, one flat table comes out, and every fault is reported.

`read_dataset` finds out the format of a folder. A data set may be several folders joined with `+`, the later ones
relative to the parent of the first: `VOCdevkit/VOC2007+VOC2012`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from onestage.data.folder import DataFolder
from onestage.data.formats import FORMATS, Format
from onestage.data.formats.yolo import YoloSource
from onestage.data.lone_split import without_lone_split
from onestage.data.nothing_found import what_is_there
from onestage.data.predictions import without_predictions
from onestage.data.reading import Source
from onestage.data.rows import read_source
from onestage.data.seen_tables import read_unless_seen
from onestage.data.several_formats import Labelled, choose_format, without_images_of_others
from onestage.data.split_names import split_key
from onestage.data.splits import Splits, base_of, choose, named, part_of, read_for
from onestage.data.table import Table
from onestage.data.validate import Problem, errors, summary, validate_images
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.terminal import watched

__all__ = [
    "FORMATS",
    "Found",
    "Splits",
    "choose_splits",
    "errors",
    "find_datasets",
    "read_dataset",
    "summary",
    "validate_images",
]


class Found(NamedTuple):
    """A data set in one folder."""

    folder: DataFolder
    kind: str  # a key of `FORMATS`
    source: Source
    others: list[str]  # the formats that fit too
    skipped: list[str]  # folders and files of what a model found
    only_in_others: Labelled  # what the other formats alone label

    def describe(self) -> str:
        """One line: what was understood, and how to choose another format that fits."""
        choice = f"; --format {' or '.join(self.others)} reads it otherwise" if self.others else ""
        found = f"; what a model found is skipped ({', '.join(self.skipped[:3])})" if self.skipped else ""
        return f"{self.folder.root}: {self.source.about}{found}{choice}"


def find_datasets(path_spec: str | Path, format: str | None = None) -> list[Found]:
    """The data set in a folder, or those of folders that are joined with `+`.

    Raises:
        UserError: a folder is missing, or holds no data set of the format, or of any; with what it holds.
    """
    roots = dataset_roots(path_spec)
    return [_find(root, format) for root in watched(roots, "looking at the files", len(roots))]


def _find(root: Path, format: str | None) -> Found:
    folder = DataFolder(root)
    if format is not None and format not in FORMATS:
        raise UserError(f"--format {format}: no such format; there is {', '.join(FORMATS)}")
    wanted = FORMATS if format is None else {format: FORMATS[format]}
    rest, skipped = without_predictions(folder)
    fitting, refused = _fitting(rest, wanted)
    yolo = fitting.get("yolo")
    if skipped and (not fitting or (isinstance(yolo, YoloSource) and not yolo.files)):  # there is nothing besides
        rest, skipped = folder, []
        fitting, refused = _fitting(rest, wanted)
    if refused and not fitting:
        raise refused[0]
    if not fitting:
        raise UserError(f"{root}: {what_is_there(folder, wanted)}")
    kind, only_in_others = choose_format(rest, fitting)
    others = [name for name in fitting if name != kind]
    return Found(rest, kind, without_lone_split(fitting[kind]), others, skipped, only_in_others)


def _fitting(folder: DataFolder, formats: Mapping[str, Format]) -> tuple[dict[str, Source], list[UserError]]:
    """The data set of each format that fits a folder, and why others can't be read."""
    fitting: dict[str, Source] = {}
    refused: list[UserError] = []
    for name, one in formats.items():
        try:
            if (source := one.find(folder)) is not None:
                fitting[name] = source
        except UserError as error:  # a damaged or foreign file is no reason against the other formats
            refused.append(error)
    return fitting, refused


def read_dataset(
    path_spec: str | Path,
    split: str,
    categories: Categories | None = None,
    options: DataOptions = AS_IT_IS,
    found: list[Found] | None = None,
) -> tuple[Table, list[Problem]]:
    """Read one split of a data set: the table of everything usable, and everything that was wrong.

    What an error names is not in the table. `validate_images` checks the images themselves.

    Args:
        path_spec: a folder or an annotation file, or several joined with `+`.
        split: the name of a split; the year may be left out if there is only one ("val" for "val2017"). Of a split
            X, "X:held-out" is the part that is held out, and "X:kept" the rest. A joined folder without the split that
            trains gives the one that it trains on itself.
        categories: the classes that labels refer to, by name (those of a trained model); None takes the data set's own.
        found: what `find_datasets` gave, if it was asked already.

    Raises:
        UserError: no such folder, format or split, or nothing usable in it.
    """
    if base_of(split) != split:
        table, problems = read_dataset(path_spec, base_of(split), categories, options, found)
        return part_of(table, split, options.test_fraction), problems
    tables: list[Table] = []
    problems: list[Problem] = []
    found = found or find_datasets(path_spec, options.format)
    for folder, kind, source, *_, only_in_others in found:
        root, known = folder.root, source.splits
        names = read_for(known, split) if len(found) > 1 else named(known, split)
        if len(names) == 1:
            if names != named(known, split):
                message = f"has no split {split}: {names[0]} is taken for it"
                problems.append(Problem(str(root), None, message, "split", "notice"))
            read = partial(read_source, source, folder, kind, names[0], categories, options)
            table, faults = read_unless_seen(folder, (kind, names[0], categories, options), read)
            table, unread = without_images_of_others(table, only_in_others)
            tables.append(table)
            faults = [*unread, *faults]
            problems += faults if len(found) == 1 else [replace(one, file=f"{root.name}/{one.file}") for one in faults]
        elif len(found) == 1:
            raise UserError(f"{root}: no split {split}; there is {', '.join(known)}{_for_val(split, known)}")
        else:
            message = f"has no split {split} (there is {', '.join(known)}); nothing of it is used"
            problems.append(Problem(str(root), None, message, "split", "notice"))
    if not tables:
        raise UserError(f"{path_spec}: none of its folders has the split {split}")
    if len({table.categories for table in tables}) > 1 and categories is None:
        union = unite([table.categories for table in tables])
        tables = [table.with_categories(union) for table in tables]
    table = tables[0] if len(tables) == 1 else tables[0].join(*tables[1:])
    if len(table) == 0:
        why = "; ".join(str(problem) for problem in errors(problems)[:3])
        raise UserError(f"{path_spec}, {split}: no usable image in it: {why}".removesuffix(": "))
    return table, problems


def unite(lists: list[Categories]) -> Categories:
    """One list of all classes: the first, where it has them all; else in the order of the lists, or sorted as they are.

    Folders without class lists know only the classes that they hold.
    """
    names = list(dict.fromkeys(name for one in lists for name in one.names))
    if len(names) == len(lists[0]):
        return lists[0]
    in_order = all(list(one.names) == sorted(one.names) for one in lists)
    return Categories.from_names(sorted(names) if in_order else names)


def choose_splits(
    path_spec: str | Path,
    options: DataOptions = AS_IT_IS,
    *,
    hold_out: bool = True,
    found: list[Found] | None = None,
) -> Splits:
    """The splits to train on, to choose the best weights on, and to test on; see `splits.choose`."""
    known = [split for one in found or find_datasets(path_spec, options.format) for split in one.source.splits]
    return choose(known, str(path_spec), hold_out)


def _for_val(split: str, known: Sequence[str]) -> str:
    """What to say to those who ask for a val that the data does not have, as training held some images out."""
    with suppress(UserError):
        if split_key(split) == "val" and base_of(held_out := choose(known, "").choose) != held_out:
            return f", and {held_out}, the images that training holds out of it"
    return ""


def dataset_roots(path_spec: str | Path) -> list[Path]:
    """The folders that a data set joins with `+`; a plus sign may also be part of a name, as what is there tells."""
    whole = Path(path_spec)
    if whole.exists() or "+" not in str(whole):
        return [whole]
    named = [whole.parent / name for name in whole.name.split("+") if name]
    return _joined(str(whole).split("+"), None) or named or [whole]


def dataset_name(path_spec: str | Path) -> str:
    """The name of the folder, or those of joined ones with `+` between, for titles and new folders."""
    return "+".join(root.resolve().name for root in dataset_roots(path_spec)) or "data"


def _joined(words: list[str], beside: Path | None) -> list[Path] | None:
    """The folders that words between plus signs name; None where one is not there.

    The later ones are `beside` the first, or named from here.
    """
    if not any(words):
        return []
    for count in range(1, len(words) + 1):
        name = "+".join(words[:count])
        for path in [folder / name for folder in (beside, Path()) if folder is not None and name]:
            if path.exists() and (rest := _joined(words[count:], beside or path.parent)) is not None:
                return [path, *rest]
    return None
