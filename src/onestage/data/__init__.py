"""Data sets: folders in, one flat table out, and every fault of them told.

`read_dataset` finds out what kind a folder is. A data set's name may join several folders with `+`, the later ones
relative to the parent of the first: `VOCdevkit/VOC2007+VOC2012`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from onestage.data.coco import coco_splits, read_coco
from onestage.data.table import Table
from onestage.data.validate import Problem, drop_bad, errors, summary, validate_images
from onestage.data.voc import ALL, read_voc, voc_splits, write_voc
from onestage.data.yolo import SETTINGS, read_yolo, yolo_splits
from onestage.errors import UserError
from onestage.runtime.decode import ImageError, ImageHeader, decode_image, read_header
from onestage.structures import Categories

__all__ = [
    "ImageError",
    "ImageHeader",
    "Problem",
    "Splits",
    "Table",
    "choose_splits",
    "decode_image",
    "drop_bad",
    "errors",
    "read_dataset",
    "read_header",
    "read_voc",
    "summary",
    "validate_images",
    "write_voc",
]

Reader = Callable[[str | Path, str, Categories | None], tuple[Table, list[Problem]]]
SplitLister = Callable[[str | Path], list[str]]
KINDS: dict[str, tuple[Reader, SplitLister]] = {
    "voc": (read_voc, voc_splits),
    "coco": (read_coco, coco_splits),
    "yolo": (read_yolo, yolo_splits),
}


@dataclass(frozen=True)
class Splits:
    """Which splits train and test a model; `note` is a line to tell where the choice is not the usual one, else ""."""

    train: str
    test: str
    note: str = ""


def dataset_kind(root: str | Path) -> str:
    """The kind of a data folder: "voc", "coco" or "yolo".

    Raises:
        UserError: the folder is not there, or is none of them.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder of a VOC, COCO or YOLO data set")
    if any((root / name).is_file() for name in SETTINGS):
        return "yolo"
    if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
        return "voc"
    if coco_splits(root):
        return "coco"
    raise UserError(
        f"{root}: not a data set; expected Annotations and JPEGImages (VOC), annotations/instances_SPLIT.json (COCO) "
        f"or data.yaml (YOLO)"
    )


def read_dataset(
    path_spec: str | Path, split: str, categories: Categories | None = None
) -> tuple[Table, list[Problem]]:
    """Read one split of a data set, of several folders where they are joined with `+`.

    Args:
        path_spec: a folder, or folders joined with `+`.
        split: a split's name, or the beginning of the only one that begins so ("val" for "val2017").
        categories: the classes that labels refer to, by name (a trained model's); None takes the data set's own.

    Returns:
        The table of everything usable, and all that was wrong: an error names what is not in the table. The images
        themselves are looked at by `validate_images`.

    Raises:
        UserError: no such folder, kind or split, or nothing usable in it.
    """
    tables: list[Table] = []
    problems: list[Problem] = []
    roots = dataset_roots(path_spec)
    for root in roots:
        read, list_splits = KINDS[dataset_kind(root)]
        known = list_splits(root)
        name = _resolve(split, known)
        if name is None:
            if len(roots) == 1:
                raise UserError(f"{root}: no split {split}; there is {', '.join(known)}")
            message = f"has no split {split} (there is {', '.join(known)}); nothing of it is used"
            problems.append(Problem(str(root), None, message, "split", "notice"))
            continue
        table, found = read(root, name, categories)
        tables.append(table)
        problems.extend(found if len(roots) == 1 else (replace(p, file=f"{root.name}/{p.file}") for p in found))
    if not tables:
        raise UserError(f"{path_spec}: none of its folders has the split {split}")
    table = _join(tables)
    if len(table) == 0:
        why = "; ".join(str(problem) for problem in errors(problems)[:3])
        raise UserError(f"{path_spec}, {split}: no usable image in it: {why}".removesuffix(": "))
    return table, problems


def choose_splits(path_spec: str | Path) -> Splits:
    """The splits to train and to test on: trainval or train, and test or val, by the data set's own names.

    `trainval` holds `val`, so where only `val` can test, `train` trains. With a single split both are that one.

    Raises:
        UserError: no such folder, or none of the splits is known.
    """
    known: list[str] = []
    for root in dataset_roots(path_spec):
        known.extend(KINDS[dataset_kind(root)][1](root))
    test = _first(known, ("test", "val", "valid"))
    candidates = ("train", "trainval") if test is not None and test.startswith("val") else ("trainval", "train")
    train = _first(known, candidates) or _first(known, (ALL,))
    if train is None and test is None and len(set(known)) != 1:
        raise UserError(f"{path_spec}: which split trains? There is {', '.join(known) or 'none'}; name one train")
    train, test = train or test or known[0], test or train or known[0]
    if train == test:
        note = f"{path_spec} has only the split {train}: it trains and tests, so its figures tell memory, not skill"
        return Splits(train, test, note)
    if train == "trainval" and test.startswith("val"):
        return Splits(train, test, f"{path_spec}: {test} is part of {train}, so its figures flatter")
    return Splits(train, test)


def dataset_roots(path_spec: str | Path) -> list[Path]:
    """The folders that a data set's name joins."""
    if Path(path_spec).is_dir() or "+" not in str(path_spec):
        return [Path(path_spec)]
    first, *others = (part for part in str(path_spec).split("+") if part)
    parent = Path(first).parent
    return [Path(first), *(Path(other) if Path(other).is_dir() else parent / other for other in others)]


def _resolve(split: str, known: list[str]) -> str | None:
    if split in known:
        return split
    beginning = [name for name in known if name.startswith(split) and name[len(split) :].isdigit()]
    return beginning[0] if len(beginning) == 1 else None


def _first(known: list[str], candidates: tuple[str, ...]) -> str | None:
    """The first candidate that is a known split, or begins one as `train` begins `train2017`; the newest of several."""
    for candidate in candidates:
        if candidate in known:
            return candidate
        years = sorted(name for name in known if name.startswith(candidate) and name[len(candidate) :].isdigit())
        if years:
            return years[-1]
    return None


def _join(tables: list[Table]) -> Table:
    """One table; VOC folders without class lists know only the classes they hold, so these are united by name."""
    if len(tables) == 1:
        return tables[0]
    if len({table.categories for table in tables}) > 1 and all(table.kind == "voc" for table in tables):
        union = Categories.from_names(sorted({name for table in tables for name in table.categories.names}))
        tables = [table.with_categories(union) for table in tables]
    return tables[0].join(*tables[1:])
