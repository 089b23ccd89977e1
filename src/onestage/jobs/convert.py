"""Write a data set of any format that is read as VOC, COCO or YOLO."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from onestage.data import find_datasets, read_dataset, unite
from onestage.data.reading import ALL
from onestage.data.splits import held_out_images, in_order, splits_of_joined
from onestage.data.table import Table
from onestage.data.validate import validate_images
from onestage.data.writing import WRITERS
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.errors import UserError
from onestage.jobs.dataset import say_what_was_found, without_bad
from onestage.structures import Categories
from onestage.terminal import Display, command_display
from onestage.texts import counted

NEW_SPLITS = ("train", "val", "test")


def convert(
    data: str | os.PathLike[str],
    *,
    to: Literal["voc", "coco", "yolo"],
    out: str | os.PathLike[str],
    split: str | Sequence[float] = (),
    rename: Sequence[str] = (),
    copy: bool = False,
    data_options: DataOptions = AS_IT_IS,
    display: Display | None = None,
) -> Path:
    """Write all splits of a data set in another format, and give the new folder.

    Args:
        data: a folder or an annotation file, or several joined with `+`.
        out: a new or empty folder.
        split: parts of new splits train, val and test, instead of the data's own, as "0.8,0.1,0.1"; similar images
            stay together.
        rename: other names of classes, as "OLD=NEW"; classes that get the same name become one.
        copy: copy the images; else they are the same files under a second name, where the disk can do that.

    Raises:
        UserError: no such data, bad data that is not to be skipped, or `out` has files.
    """
    display, data, folder = command_display(display), os.fspath(data), Path(out)
    if to not in WRITERS:
        raise UserError(f"--to {to}: expected {', '.join(WRITERS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: has files already; name a new folder with --out")
    parts = _parts(split)
    say_what_was_found(data, display, data_options)
    tables = read_all_splits(data, display, data_options)
    if rename:
        new_names = _new_names(rename, next(iter(tables.values())).categories)
        tables = {name: table.with_renamed_classes(new_names) for name, table in tables.items()}
    if parts:
        tables = _split_again(list(tables.values()), parts)
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[to](tables, folder, copy=copy)
    for name, table in tables.items():
        display.say(f"{folder}, {name}: {counted(len(table), 'image')}, {counted(len(table.labels), 'object')}")
        if to == "yolo" and table.ignored.any():
            left_out = counted(int(table.ignored.sum()), "ignored object")
            display.say(f"{name}: {left_out} left out, since YOLO has no word for them")
    images = sum(len(table) for table in tables.values())
    display.say(f"written: {folder} as {to.upper()}, {images:,} images of {data}, in {display.took}")
    return folder


def _parts(split: str | Sequence[float]) -> list[float]:
    try:
        parts = [float(part) for part in (split.split(",") if isinstance(split, str) else split)]
    except ValueError:
        parts = [0.0]
    if parts and (len(parts) not in (2, 3) or not min(parts) > 0 or not abs(sum(parts) - 1) <= 1e-6):
        raise UserError(f"--split {split}: expected two or three parts of train, val, test with the sum 1: 0.8,0.1,0.1")
    return parts


def _new_names(rename: Sequence[str], categories: Categories) -> dict[str, str]:
    """Old name -> new name of the classes to rename."""
    found = {}
    for one in rename:
        old = next((name for name in categories.names if one.startswith(f"{name}=")), None)
        new = "" if old is None else one[len(old) + 1 :].strip()
        if old is None or not new:
            listed = ", ".join(categories.names[:10]) + (", ..." if len(categories) > 10 else "")
            raise UserError(f"--rename {one}: expected OLD=NEW, where OLD is one of {listed}")
        found[old] = new
    return found


def read_all_splits(data: str, display: Display, options: DataOptions = AS_IT_IS) -> dict[str, Table]:
    """Every split of a data set, checked, train first, all with one list of classes."""
    folders, tables, problems = find_datasets(data, options.format), {}, []
    for split in in_order(splits_of_joined([one.source.splits for one in folders])):
        table, found = read_dataset(data, split, None, options, folders)
        tables[split] = table
        problems.append([*found, *validate_images(table)])
    categories = unite([table.categories for table in tables.values()])
    several = len({table.categories for table in tables.values()}) > 1
    for (split, table), found in zip(tables.items(), problems, strict=True):
        kept = without_bad(table, found, display, options)
        tables[split] = kept.with_categories(categories) if several else kept
    return {"train" if split == ALL else split: table for split, table in tables.items()}


def _split_again(tables: list[Table], parts: Sequence[float]) -> dict[str, Table]:
    """All images as new splits; those that are in several splits come once."""
    table = tables[0] if len(tables) == 1 else tables[0].join(*tables[1:])
    _, first = np.unique(table.image_paths, return_index=True)
    rest = table.subset(indices=np.sort(first).tolist())
    found: dict[str, Table] = {}
    start = 0.0
    for name, part in reversed(list(zip(NEW_SPLITS, parts, strict=False))[1:]):
        out = held_out_images(rest, part, start)
        found[name] = rest.subset(indices=np.flatnonzero(out).tolist()).renamed(name)
        rest, start = rest.subset(indices=np.flatnonzero(~out).tolist()), start + part
    return {NEW_SPLITS[0]: rest.renamed(NEW_SPLITS[0]), **dict(reversed(found.items()))}
