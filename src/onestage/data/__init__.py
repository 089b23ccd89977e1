"""Data sets: a folder goes in, one flat table comes out, and every fault is reported.

`read_dataset` finds out the format of a folder. A data set may be several folders joined with `+`, the later ones
relative to the parent of the first: `VOCdevkit/VOC2007+VOC2012`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from onestage.data.coco import coco_splits, read_coco
from onestage.data.table import Table
from onestage.data.validate import Problem, errors, summary, validate_images
from onestage.data.voc import ALL, is_voc, read_voc, voc_splits
from onestage.data.yolo import is_yolo, read_yolo, yolo_splits
from onestage.errors import UserError
from onestage.structures import Categories

__all__ = ["KINDS", "choose_splits", "dataset_kind", "errors", "read_dataset", "summary", "validate_images"]


class Kind(NamedTuple):
    """A format of data sets."""

    read: Callable[[str | Path, str, Categories | None], tuple[Table, list[Problem]]]  # as `read_dataset`, one folder
    splits: Callable[[str | Path], list[str]]  # the names of a folder's splits
    fits: Callable[[Path], object]  # true for a folder of this format
    expected: str  # what such a folder holds, for messages


KINDS: dict[str, Kind] = {  # a new format needs a line here; of several that fit, the first counts
    "yolo": Kind(read_yolo, yolo_splits, is_yolo, "data.yaml (YOLO)"),
    "voc": Kind(read_voc, voc_splits, is_voc, "Annotations and JPEGImages (VOC)"),
    "coco": Kind(read_coco, coco_splits, coco_splits, "annotations/instances_SPLIT.json (COCO)"),
}


class Splits(NamedTuple):
    """The splits that train and test a model, and a line to print if the choice is unusual, else ""."""

    train: str
    test: str
    note: str = ""


def dataset_kind(root: str | Path) -> str:
    """The format of a data folder, a key of `KINDS`; a folder that is missing or has none is a `UserError`."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of a VOC, COCO or YOLO data set")
    for name, kind in KINDS.items():
        if kind.fits(root):
            return name
    *others, last = sorted(kind.expected for kind in KINDS.values())
    raise UserError(f"{root}: not a data set; expected {', '.join(others)} or {last}")


def read_dataset(
    path_spec: str | Path, split: str, categories: Categories | None = None
) -> tuple[Table, list[Problem]]:
    """Read one split of a data set: the table of everything usable, and everything that was wrong.

    What an error names is not in the table. `validate_images` checks the images themselves.

    Args:
        path_spec: a folder, or folders joined with `+`.
        split: the name of a split; the year may be left out if there is only one ("val" for "val2017").
        categories: the classes that labels refer to, by name (those of a trained model); None takes the data set's own.

    Raises:
        UserError: no such folder, format or split, or nothing usable in it.
    """
    tables: list[Table] = []
    problems: list[Problem] = []
    roots = dataset_roots(path_spec)
    for root in roots:
        kind = KINDS[dataset_kind(root)]
        known = kind.splits(root)
        names = _splits_named(known, split)
        if len(names) == 1:
            table, found = kind.read(root, names[0], categories)
            tables.append(table)
            problems += found if len(roots) == 1 else [replace(one, file=f"{root.name}/{one.file}") for one in found]
        elif len(roots) == 1:
            raise UserError(f"{root}: no split {split}; there is {', '.join(known)}")
        else:
            message = f"has no split {split} (there is {', '.join(known)}); nothing of it is used"
            problems.append(Problem(str(root), None, message, "split", "notice"))
    if not tables:
        raise UserError(f"{path_spec}: none of its folders has the split {split}")
    if len({table.categories for table in tables}) > 1 and all(table.kind == "voc" for table in tables):
        # VOC folders without class lists know only the classes they hold, so these are united by name.
        union = Categories.from_names(sorted({name for table in tables for name in table.categories.names}))
        tables = [table.with_categories(union) for table in tables]
    table = tables[0] if len(tables) == 1 else tables[0].join(*tables[1:])
    if len(table) == 0:
        why = "; ".join(str(problem) for problem in errors(problems)[:3])
        raise UserError(f"{path_spec}, {split}: no usable image in it: {why}".removesuffix(": "))
    return table, problems


def choose_splits(path_spec: str | Path) -> Splits:
    """The splits to train and to test on: trainval or train, and test or val, by the names in the data set.

    `trainval` holds `val`, so if only `val` can test, `train` trains. A single split does both. No folder, or one whose
    splits have no usual names, is a `UserError`.
    """
    known = [split for root in dataset_roots(path_spec) for split in KINDS[dataset_kind(root)].splits(root)]
    to_test = _splits_named(known, "test", "val", "valid")
    usual = ("train", "trainval") if to_test and to_test[-1].startswith("val") else ("trainval", "train")
    to_train = _splits_named(known, *usual, ALL)
    usable = to_train or to_test or (known if len(set(known)) == 1 else [])
    if not usable:
        raise UserError(f"{path_spec}: which split trains? There is {', '.join(known) or 'none'}; name one train")
    train, test = usable[-1], (to_test or usable)[-1]
    note = ""
    if train == test:
        note = f"{path_spec} has only the split {train}: it trains and tests, so its figures show memory, not skill"
    elif train == "trainval" and test.startswith("val"):
        note = f"{path_spec}: {test} is part of {train}, so its figures flatter"
    return Splits(train, test, note)


def dataset_roots(path_spec: str | Path) -> list[Path]:
    """The folders that a data set joins with `+`."""
    if Path(path_spec).is_dir() or "+" not in str(path_spec):
        return [Path(path_spec)]
    first, *others = (part for part in str(path_spec).split("+") if part)
    parent = Path(first).parent
    return [Path(first), *(Path(other) if Path(other).is_dir() else parent / other for other in others)]


def _splits_named(known: list[str], *names: str) -> list[str]:
    """The splits of the first name that has any: itself, else with a year (`train2017` for `train`), newest last."""
    for name in names:
        years = sorted(split for split in known if split.startswith(name) and split[len(name) :].isdigit())
        if found := [name] if name in known else years:
            return found
    return []
