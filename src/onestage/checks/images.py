"""The images themselves: ones that no annotation names, EXIF turns that boxes may not follow, 16 bits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from onestage.checks.findings import Example, Finding
from onestage.data import Found
from onestage.data.table import Table
from onestage.data.validate import Checked, checked_images, significant_bits
from onestage.runtime.decode import ImageError
from onestage.texts import counted

LOOKED_AT = 200  # images whose pixels are read
CLEARLY = 1.25  # times as strong are the edges at the boxes' sides where they are on the objects
# orientation -> how fractions (x0, y0, x1, y1) of the stored image come to lie in the upright one (EXIF 2.32, 4.6.4)
_UPRIGHT = {
    2: lambda x0, y0, x1, y1: (1 - x1, y0, 1 - x0, y1),
    3: lambda x0, y0, x1, y1: (1 - x1, 1 - y1, 1 - x0, 1 - y0),
    4: lambda x0, y0, x1, y1: (x0, 1 - y1, x1, 1 - y0),
    5: lambda x0, y0, x1, y1: (y0, x0, y1, x1),
    6: lambda x0, y0, x1, y1: (1 - y1, x0, 1 - y0, x1),
    7: lambda x0, y0, x1, y1: (1 - y1, 1 - x1, 1 - y0, 1 - x0),
    8: lambda x0, y0, x1, y1: (y0, 1 - x1, y1, 1 - x0),
}


def check_images(found: Sequence[Found], tables: Mapping[str, Table]) -> list[Finding]:
    """Findings about the images of all splits."""
    return [*_without_annotation(found, tables), *check_turned(tables), *_deep(tables)]


def _headers(tables: Mapping[str, Table]) -> Iterator[tuple[str, int, Checked]]:
    """Split, row and header of every image that can be read."""
    for split, table in tables.items():
        for index, check in enumerate(checked_images(table.root, table.image_names(), table.max_pixels)):
            if not isinstance(check, str):
                yield split, index, check


def _without_annotation(found: Sequence[Found], tables: Mapping[str, Table]) -> Iterator[Finding]:
    names = ((os.path.abspath(table.root), table.image_names()) for table in tables.values())
    used = {f"{root}/{name}" for root, of_table in names for name in of_table}
    unused = [
        f"{image if len(found) == 1 else f'{one.folder.root.name}/{image}'}: no {one.kind} annotation names it"
        for one in found
        if one.folder.only is None
        for image in one.folder.images
        if f"{os.path.abspath(one.folder.root)}/{image}" not in used and image not in one.only_in_others
    ]
    others = " or ".join(sorted({other for one in found for other in one.others}))
    if unused:
        what = f"{counted(len(unused), 'image')} without an annotation, used by no split"
        why = "nothing is learned from them, not even as background"
        mend = "label them and export them again, or leave them out" + (
            f"; --format {others} may read them" if others else ""
        )
        examples = [Example(text) for text in unused]
        yield Finding("images-without-annotation", "notice", len(unused), what, why, mend, examples)


def check_turned(tables: Mapping[str, Table]) -> Iterator[Finding]:
    """Whether boxes follow their images where EXIF turns them."""
    turned = [
        (split, index, check.orientation)
        for split, index, check in _headers(tables)
        if check.orientation in _UPRIGHT and len(tables[split].objects(index).labels)
    ]
    if not turned:
        return
    chosen = turned[:: max(1, len(turned) // LOOKED_AT)]
    edges = np.array([_edges(tables[split], index, orientation) for split, index, orientation in chosen])
    upright, stored = edges.sum(axis=0)
    examples = [
        Example(f"{tables[split].image_name(index)}: EXIF orientation {orientation}", split, index)
        for split, index, orientation in chosen
    ]
    if stored > CLEARLY * upright:
        what = f"{counted(len(turned), 'image')} turned by EXIF orientation, whose boxes do not follow"
        why = "the boxes fit the image as it is stored, but images are read upright: every box is beside its object"
        mend = "turn the images upright in their pixels and delete the EXIF tag, or annotate them again"
        yield Finding("exif-ignored", "error", len(turned), what, why, mend, examples)
    else:
        what = f"{counted(len(turned), 'image')} turned by EXIF orientation; the boxes fit when upright"
        why, mend = "other programs may read them unturned", "nothing needs mending"
        yield Finding("exif", "notice", len(turned), what, why, mend, examples)


def _edges(table: Table, index: int, orientation: int) -> tuple[float, float]:
    """Mean gradient along the sides of the boxes: as they are, and as if they were drawn on the stored image."""
    try:
        image = table.pixels(index, min_side=128)
    except ImageError:
        return 0.0, 0.0
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gradient = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    height, width = table.image_sizes_hw[index].tolist()
    fractions = table.objects(index).boxes_xyxy / (width, height, width, height)
    as_stored = np.array([_UPRIGHT[orientation](*box) for box in fractions.tolist()])
    return _along(gradient, fractions), _along(gradient, as_stored)


def _along(gradient: np.ndarray, fractions_xyxy: np.ndarray) -> float:
    (height, width), total = gradient.shape, 0.0
    size = np.array([width, height, width, height])
    for x0, y0, x1, y1 in np.round(fractions_xyxy * size).clip(0, size).astype(int):
        sides = (
            gradient[y0:y1, min(x0, width - 1)],
            gradient[y0:y1, max(x1 - 1, 0)],
            gradient[min(y0, height - 1), x0:x1],
            gradient[max(y1 - 1, 0), x0:x1],
        )
        total += sum(float(side.mean()) for side in sides if len(side))
    return total


def _deep(tables: Mapping[str, Table]) -> Iterator[Finding]:
    deep = [(split, index) for split, index, check in _headers(tables) if check.bits == 16]
    if not deep:
        return
    bits = {split: significant_bits(tables[split]) for split, _ in deep}
    listed = ", ".join(f"{count} bits in {split}" for split, count in bits.items())
    what = f"{counted(len(deep), 'image')} of 16 bits a pixel, whose values take {listed}"
    why, mend = "their highest 8 bits are taken, as of the training images", "nothing needs mending"
    examples = [Example(tables[split].image_name(index), split, index) for split, index in deep]
    yield Finding("16-bit", "notice", len(deep), what, why, mend, examples)
