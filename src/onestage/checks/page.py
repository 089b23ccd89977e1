"""The page of a checkup: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from onestage.checks.all_objects import AllObjects, all_objects
from onestage.checks.checkup import Checkup
from onestage.checks.findings import LEVELS, Finding
from onestage.checks.plots import heat_map, objects_histogram, ratio_histogram, size_histogram
from onestage.checks.shown import Shown, show
from onestage.evaluation.pages import page_template
from onestage.texts import counted

LINES = 3  # of a finding's examples that are not drawn


class ClassRow(NamedTuple):
    """A class in the table of classes."""

    name: str
    objects: list[int]  # by split
    images: int
    median_size: str


def write_page(path: Path, checkup: Checkup) -> None:
    """Write the page: what is in the data, the findings with examples, sheets of objects by class, plots."""
    objects = all_objects(checkup)
    names = next(iter(checkup.tables.values())).categories.names
    findings = sorted(checkup.findings, key=lambda one: LEVELS.index(one.level))
    shown = show(checkup, findings, objects, names)
    counts = [np.diff(table.first_object) for table in checkup.tables.values()]
    page = page_template("onestage.checks").render(
        data=checkup.data,
        about=checkup.about,
        detector=checkup.detector,
        summary=_summary(findings),
        splits=_split_rows(checkup),
        split_names=list(checkup.tables),
        classes=_class_rows(checkup, objects, names),
        findings=[_finding(number, one, shown) for number, one in enumerate(findings)],
        sheets=shown.sheets,
        more_classes=shown.more_classes,
        plots=[
            ("Where the centres of objects lie", heat_map(objects.boxes_xyxy, objects.image_sizes_hw)),
            ("Sizes of objects", size_histogram(objects.sizes)),
            ("Shapes of objects", ratio_histogram(objects.boxes_xyxy)),
            ("Objects in an image", objects_histogram(np.concatenate(counts))),
        ],
    )
    path.write_text(page, encoding="utf-8")


def _summary(findings: Sequence[Finding]) -> str:
    """How many findings there are of each level."""
    counts = Counter(one.level for one in findings)
    parts = [counted(counts[level], level) for level in LEVELS if counts[level]]
    return ", ".join(parts) or "nothing found"


def _split_rows(checkup: Checkup) -> list[tuple[str, int, int, int]]:
    """(split, images, objects, ignored), and the sum if there are several."""
    rows = [(split, len(table), len(table.labels), int(table.ignored.sum())) for split, table in checkup.tables.items()]
    if len(rows) > 1:
        _, images, objects, ignored = zip(*rows, strict=True)
        rows.append(("all", sum(images), sum(objects), sum(ignored)))
    return rows


def _class_rows(checkup: Checkup, objects: AllObjects, names: Sequence[str]) -> list[ClassRow]:
    """The classes, those with the most objects first."""
    by_split = np.zeros((len(checkup.tables), len(names)), dtype=np.int64)
    np.add.at(by_split, (objects.splits, objects.labels), 1)
    places = np.unique(np.stack([objects.labels, objects.splits, objects.images]), axis=1)
    images = np.bincount(places[0], minlength=len(names))
    ends = np.cumsum(by_split.sum(axis=0))
    sizes = np.split(objects.sizes[np.argsort(objects.labels, kind="stable")], ends[:-1]) if len(names) else []
    return [
        ClassRow(names[int(label)], by_split[:, label].tolist(), int(images[label]), _median(sizes[label]))
        for label in np.argsort(-by_split.sum(axis=0), kind="stable")
    ]


def _median(sizes: Float[np.ndarray, " N"]) -> str:
    sizes = sizes[np.isfinite(sizes)]
    return f"{np.median(sizes):.0f}" if len(sizes) else "–"


def _finding(number: int, finding: Finding, shown: Shown) -> dict[str, Any]:
    """A finding as the template takes it: its drawn examples, and the first lines of the others."""
    drawn, lines = [], []
    for index, example in enumerate(finding.examples):
        if (url := shown.drawn.get((number, index))) is not None:
            drawn.append((url, example.text))
        elif len(lines) < LINES:
            lines.append(example.text)
    more = len(finding.examples) - len(drawn) - len(lines)
    return {"finding": finding, "drawn": drawn, "lines": lines, "more": more}
