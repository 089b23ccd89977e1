"""What the readers noted, as findings: one for each kind of problem."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from onestage.checks.findings import Example, Finding, Level
from onestage.data.folder import stem_of
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.texts import counted


class About(NamedTuple):
    """How a kind of problem is said."""

    level: Level
    noun: str  # of one thing, in the singular
    what: str  # what is said of it
    why: str
    mend: str


_LEFT_OUT = "they are left out, so what they show is not learned"
KINDS: dict[str, About] = {
    "annotation": About("error", "annotation", "that can't be read", _LEFT_OUT, "write them again with the tool"),
    "not-labelled": About(
        "notice", "task", "not labelled yet", "their images are left out", "label them, or go on without them"
    ),
    "several-annotations": About(
        "notice", "task", "with several annotations", "the first of each is taken", "delete those that are wrong"
    ),
    "predictions": About(
        "warning", "task", "without an annotation, but with predictions", "these are taken", "check what a model drew"
    ),
    "path": About("error", "file name", "leading outside of the data folder", _LEFT_OUT, "name files inside it"),
    "missing-image": About(
        "error",
        "annotation",
        "whose image is missing",
        "their objects are not learned",
        "add the images or delete these",
    ),
    "unreadable-image": About("error", "image", "that can't be read", _LEFT_OUT, "fetch them again, or delete them"),
    "size": About(
        "error",
        "image",
        "of other proportions than annotated",
        "every box in them is wrong",
        "take the image that was annotated, or annotate this one",
    ),
    "scale": About(
        "error",
        "image",
        "scaled after the annotation",
        "every box in them is too large or too small",
        "--rescale-boxes scales the boxes too",
    ),
    "class": About("error", "object", "of a class that is not listed", _LEFT_OUT, "correct the class, or list it"),
    "id": About("error", "id", "with nothing, or two things, of its name", _LEFT_OUT, "give each image its own id"),
    "box-not-finite": About("error", "box", "with a side that is no number", _LEFT_OUT, "give numbers, or delete them"),
    "box-outside": About("error", "box", "outside of the image", _LEFT_OUT, "correct them or delete them"),
    "box-empty": About(
        "warning", "box", "without area", "their pixels are ignored in training", "draw them again, or delete them"
    ),
    "box-clipped": About(
        "warning", "box", "reaching outside of the image", "they are clipped to its border", "look at some of them"
    ),
    "box-border": About(
        "notice", "box", "a little over the border, by rounding", "they are clipped to it", "nothing needs mending"
    ),
    "duplicate-object": About(
        "warning", "object", "there twice, with the same box and class", "one of each is left out", "delete one"
    ),
    "duplicate-image": About(
        "warning", "image", "listed or annotated twice", "one of each is left out", "list each image once"
    ),
    "extension": About(
        "notice", "image", "of another format than the name says", "they are read as what they are", "rename them"
    ),
    "background": About(
        "notice",
        "image",
        "without a label file",
        "they train as images without objects",
        "label those that show objects",
    ),
    "root-category": About("notice", "root category", "above the others", "it is no class", "nothing needs mending"),
    "not-downloaded": About("notice", "image", "of the tables not here", "they are left out", "download more"),
    "missing-folder": About("error", "folder", "named, but not here", _LEFT_OUT, "correct the name"),
    "other-file": About("notice", "file", "of something else", "it is passed over", "nothing needs mending"),
    "class-not-given": About("notice", "object", "without a class", "they are all of one class", "name their class"),
    "code-as-class": About(
        "warning", "split", "whose classes have no names", "they are called by their codes", "add the list of names"
    ),
    "area": About("notice", "object", "without an area", "that of their box is taken", "nothing needs mending"),
    "no-box": About("notice", "shape", "without a box (points, lines)", "they are no objects", "draw boxes for them"),
    "split": About(
        "notice", "folder", "without the split", "another that trains is taken, or nothing", "name another split"
    ),
}
CHANGES = {  # what a corrected copy does about a finding; nothing about the others
    "scale": "the boxes are scaled too",
    "box-empty": "ignored in their place",
    "box-clipped": "clipped to the border",
    "box-border": "clipped to the border",
    "extension": "kept under its name",
    "root-category": "left out of the classes",
    "overlap": "the first of the two is left out",
    "images-without-annotation": "not copied",
    **dict.fromkeys(
        (
            *("annotation", "path", "missing-image", "unreadable-image", "size", "class", "id", "box-not-finite"),
            *("box-outside", "duplicate-object", "duplicate-image", "no-box", "not-downloaded", "not-labelled"),
        ),
        "left out",
    ),
}
# kinds of which one problem is about many things
_SUMMED = {"background", "area", "no-box", "not-downloaded", "class-not-given"}
_SUMMED |= {"not-labelled", "several-annotations", "predictions"}
_UNKNOWN = About("warning", "problem", "of another kind", "see the examples", "mend what the line names")


def findings_of(problems: Mapping[str, Sequence[Problem]], tables: Mapping[str, Table]) -> list[Finding]:
    """One finding for each kind of problem; `problems` by split."""
    by_kind: dict[str, list[tuple[str, Problem]]] = defaultdict(list)
    for split, ones in problems.items():
        for problem in ones:
            by_kind[problem.kind].append((split, problem))
    rows = {split: _rows(table) for split, table in tables.items() if any(problems.values())}
    findings = []
    for kind, ones in by_kind.items():
        about = KINDS.get(kind, _UNKNOWN)
        examples = [Example(str(one), split, _row(rows.get(split, {}), one.file)) for split, one in ones]
        examples.sort(key=lambda example: example.image is None)  # those that can be shown first
        count = sum(_said_count(one) for _, one in ones)
        what = f"{counted(count, about.noun)} {about.what}"
        grave = any(one.severity == "error" for _, one in ones)
        level = "error" if grave else "notice" if about.level == "error" else about.level
        findings.append(Finding(kind, level, count, what, about.why, about.mend, examples))
    return findings


def _said_count(problem: Problem) -> int:
    """How many things a problem is about: the number that its message begins with, else 1."""
    numbered = re.match(r"([0-9][0-9,]*) ", problem.message) if problem.kind in _SUMMED else None
    return int(numbered[1].replace(",", "")) if numbered else 1


def _rows(table: Table) -> dict[str, int]:
    """Image name, id or stem -> row of the table."""
    rows: dict[str, int] = {}
    for index in range(len(table)):
        name = table.image_name(index)
        for key in (name, stem_of(name), f"id {table.image_id(index)}"):
            rows.setdefault(key, index)
    return rows


def _row(rows: Mapping[str, int], file: str) -> int | None:
    """The image that a file is about: itself, the one with its stem, or `FILE, image ID`."""
    _, separator, image_id = file.rpartition(", image ")
    keys = [f"id {image_id}"] if separator else [file, stem_of(file)]
    return next((rows[key] for key in keys if key in rows), None)
