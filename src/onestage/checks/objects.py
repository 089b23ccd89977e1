"""Boxes: small ones at the detector's input, ones that cover the image, images without any, anchors that miss them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onestage.anchors import anchor_coverage
from onestage.checks.findings import Example, Finding
from onestage.data.table import Table
from onestage.texts import counted

SMALL = 8.0  # pixels at the detector's input: less is hardly seen
ACCIDENT = 2.0  # pixels there: hardly drawn on purpose
COVERS = 0.98  # of the image's area
MANY_EMPTY = 0.3  # of the images: so many without objects look unlabelled
LOW_COVERAGE = 0.9  # of the objects that an anchor meets


def check_objects(
    tables: Mapping[str, Table], sizes: Mapping[str, np.ndarray], detector: str, shapes: Sequence[Any]
) -> list[Finding]:
    """Findings about the boxes. `sizes` are those of `Table.box_sizes_hw`, `shapes` of `checkup._fitted`."""
    return [
        *check_empty(tables),
        *_small(tables, sizes, detector),
        *_covering(tables),
        *_anchors(sizes, detector, shapes),
    ]


def check_empty(tables: Mapping[str, Table]) -> Iterator[Finding]:
    """Findings about images without objects."""
    for split, table in tables.items():
        counts = np.diff(table.first_object)
        empty = np.flatnonzero(counts == 0)
        if table.ignored.all():  # or there are none at all
            what = f"{split}: no objects in {counted(len(table), 'image')}"
            why, mend = "there is nothing to learn or to measure", "check that the labels were exported"
            yield Finding("no-objects", "error", len(table), what, why, mend, [Example(what, split, 0)])
        elif len(empty):
            level = "warning" if len(empty) > MANY_EMPTY * len(table) else "notice"
            unlabelled = "; so many look unlabelled" if level == "warning" else ""
            what = f"{split}: {len(empty):,} of {len(table):,} images without objects{unlabelled}"
            why = "they train as background; where they do show objects, these are taught to be background"
            mend = "look at some; delete those that were not labelled"
            examples = [Example(table.image_name(index), split, int(index)) for index in empty]
            yield Finding("images-without-objects", level, len(empty), what, why, mend, examples)


def _small(tables: Mapping[str, Table], sizes: Mapping[str, np.ndarray], detector: str) -> Iterator[Finding]:
    side = {split: np.sqrt(size.prod(axis=1)) for split, size in sizes.items()}
    count, total = sum(int((one < SMALL).sum()) for one in side.values()), sum(map(len, side.values()))
    if not count:
        return
    examples = []
    for split, table in tables.items():
        rows = np.flatnonzero(~table.ignored)[np.argsort(side[split])][:8]
        examples += [
            _example(table, split, row, f"{size:.1f} px")
            for row, size in zip(rows.tolist(), np.sort(side[split]), strict=False)
            if size < SMALL
        ]
    what = f"{count:,} of {counted(total, 'object')} under {SMALL:.0f} px at the input of {detector}"
    why = "of so few pixels little is seen, so they are mostly missed"
    mend = "train with a larger input or tiles (--image-size, --tile auto), which it takes by itself for most of them"
    if any((one < ACCIDENT).any() for one in side.values()):
        mend = f"delete those under {ACCIDENT:.0f} px, which are mostly clicks by accident; for the others {mend}"
    yield Finding("small-objects", "warning" if count > 0.05 * total else "notice", count, what, why, mend, examples)


def _covering(tables: Mapping[str, Table]) -> Iterator[Finding]:
    examples, count = [], 0
    for split, table in tables.items():
        areas = np.repeat(table.image_sizes_hw.prod(axis=1, dtype=np.float64), np.diff(table.first_object))
        wh = table.boxes_xyxy[:, 2:] - table.boxes_xyxy[:, :2]
        rows = np.flatnonzero(wh.prod(axis=1) >= COVERS * areas)
        count += len(rows)
        examples += [_example(table, split, row, "covers the image") for row in rows[:8].tolist()]
    if count:
        what = f"{counted(count, 'box')} that cover the whole image"
        why, mend = "such boxes are often a class of the image and no object", "look at some of them"
        yield Finding("covering-boxes", "notice", count, what, why, mend, examples)


def _example(table: Table, split: str, row: int, text: str) -> Example:
    image = int(np.searchsorted(table.first_object, row, side="right")) - 1
    place = int(row - table.first_object[image])
    name = table.categories.names[table.labels[row]]
    return Example(f"{table.image_name(image)}: {name}, {text}", split, image, (place,))


def _anchors(sizes: Mapping[str, np.ndarray], detector: str, shapes: Sequence[Any]) -> Iterator[Finding]:
    all_sizes = np.concatenate(list(sizes.values()))
    if not shapes or not len(all_sizes):
        return
    papers, datas = (anchor_coverage(all_sizes, one) for one in shapes)
    if papers >= LOW_COVERAGE:
        return
    what = f"the paper's anchors of {detector} meet {papers:.1%} of the objects (IoU 0.5 of their shapes)"
    why = "an object that no anchor meets is learned from its best anchor alone"
    mend = f"training makes anchors from the data where they meet more: {datas:.1%}"
    groups = (("under 16 px", 0, 16), ("16 to 64 px", 16, 64), ("above 64 px", 64, np.inf))
    side = np.sqrt(all_sizes.prod(axis=1))
    lines = []
    for name, low, high in groups:
        chosen = all_sizes[(side >= low) & (side < high)]
        if len(chosen):
            met, met_after = (f"{anchor_coverage(chosen, one):.1%}" for one in shapes)
            lines.append(f"{name}: {len(chosen):,} objects, {met} met; with anchors from the data {met_after}")
    missed = round((1 - papers) * len(all_sizes))
    level = "warning" if datas < LOW_COVERAGE else "notice"
    yield Finding("anchors", level, missed, what, why, mend, [Example(line) for line in lines])
