"""The one validator between an annotation file and anything that uses it.

Readers collect a `Problem` a fault instead of stopping; `validate_images` then looks at every image. An error stops a
run unless bad data is skipped; a notice is only told. What happens to the thing is the same everywhere:

| kind | severity | what happens |
|---|---|---|
| annotation | error | can't be read: its image (or, with an object's number, only the object) is left out |
| path | error | a file name that leads out of the data folder is not followed; its image is left out |
| missing-image | error | the image is left out |
| unreadable-image | error | damaged, cut off, too large, not an image: left out by `drop_bad` |
| no-size | error | an annotation without the image's size: its image is left out |
| size | error | the image's true (upright) size is not the annotation's: left out by `drop_bad` |
| class | error | a class that the list lacks: the object is left out, the nearest class named |
| id | error | a COCO id that is no id or taken, or names no image: what it stands for is left out |
| box-not-finite, box-empty | error | NaN, infinite; reversed or without area: the object is left out |
| box-outside | error | outside the image, or more than 2 px beyond its border: the object is left out |
| box-border | notice | at most 2 px beyond the border (rounding): clipped |
| duplicate-object | notice | the same class and box once more in one image: left out |
| duplicate-image | notice | an image listed again in a split: left out |
| extension | notice | a PNG called .jpg and the like: read as what it is |
| background | notice | YOLO images without a label file: train as background |
| area | notice | COCO objects without a usable area: their boxes' is taken |
| split | notice | one of several joined folders lacks the split: nothing of it is used |

So nothing is dropped in silence, and a table holds nothing that an error names, once `drop_bad` went over it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from typing import Literal

import numpy as np

from onestage.data.table import Table, TableBuilder
from onestage.runtime.decode import check_image
from onestage.runtime.image_header import EXTENSIONS, MAX_PIXELS, ImageError
from onestage.structures import Categories

BORDER_TOLERANCE = 2.0  # pixels that a box may reach beyond its image by rounding
BORDER_NOISE = 0.05  # pixels; what the decimals of a file lose, clipped without a word

Severity = Literal["error", "notice"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Problem:
    """One fault of a data set; `str` gives the line to show.

    Attributes:
        file: the annotation or the image, relative to its table's root where the data set allows.
        object_number: the object within the file, counted from 1; None where the fault is the whole file's.
        message: what was read, what was expected, what mends it.
        kind: a row of the table in this module's docstring.
        severity: an error stops a run, a notice is only told.
    """

    file: str
    object_number: int | None
    message: str
    kind: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = self.file if self.object_number is None else f"{self.file}, object {self.object_number}"
        return f"{place}: {self.message}"


class ImageObjects:
    """The objects of one image as a reader meets them: the good are kept, the others reported."""

    def __init__(self, file: str, size_hw: tuple[int, int], problems: list[Problem]) -> None:
        self.file, self.size_hw, self.problems = file, size_hw, problems
        self._boxes_xyxy: list[Box] = []
        self._labels: list[int] = []
        self._ignored: list[bool] = []
        self._areas: list[float] = []
        self._seen: set[tuple[int, bool, Box]] = set()

    def report(self, number: int, kind: str, message: str, severity: Severity = "error") -> None:
        """Note a fault of one object."""
        self.problems.append(Problem(self.file, number, message, kind, severity))

    def add(
        self, number: int, box_xyxy: Box, label: int, *, written: str, ignored: bool = False, area: float | None = None
    ) -> None:
        """Hold one object against the rules; `written` is the box in the file's own words, for messages."""
        height, width = self.size_hw
        x0, y0, x1, y1 = box_xyxy
        beyond = max(-x0, -y0, x1 - width, y1 - height)  # pixels over the border
        key = (label, ignored, box_xyxy)
        if not all(isfinite(side) for side in box_xyxy):
            self.report(number, "box-not-finite", f"{written}; give finite numbers or delete the box")
        elif x1 <= x0 or y1 <= y0:
            self.report(number, "box-empty", f"{written} has no area; fix or delete the box")
        elif x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height or beyond > BORDER_TOLERANCE:
            message = f"{written} reaches outside the {width}x{height} image; fix or delete the box"
            self.report(number, "box-outside", message)
        elif key in self._seen:
            self.report(number, "duplicate-object", f"{written} is the same object again; left out", "notice")
        else:
            self._seen.add(key)
            if beyond > BORDER_NOISE:
                message = f"{written} reaches {beyond:.3g} px over the border of {width}x{height}; clipped"
                self.report(number, "box-border", message, "notice")
            clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            self._boxes_xyxy.append(clipped)
            self._labels.append(label)
            self._ignored.append(ignored)
            self._areas.append((clipped[2] - clipped[0]) * (clipped[3] - clipped[1]) if area is None else area)

    def add_to(self, builder: TableBuilder, *, path: str, image_id: str) -> None:
        """Append the image with its good objects to a table."""
        builder.add(
            path=path,
            image_id=image_id,
            size_hw=self.size_hw,
            boxes_xyxy=np.array(self._boxes_xyxy, dtype=np.float64).reshape(-1, 4),
            labels=self._labels,
            ignored=self._ignored,
            areas=np.array(self._areas, dtype=np.float64),
        )


@lru_cache  # a class that the list lacks comes with each of its objects
def unknown_class(name: str, categories: Categories) -> str:
    """The message for a class that the list lacks, with the nearest that it has."""
    lowered = {known.lower(): known for known in categories.names}
    nearest = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"; the nearest is {lowered[nearest[0]]!r}" if nearest else ""
    listed = ", ".join(categories.names[:10]) + (", ..." if len(categories) > 10 else "")
    return f"class {name[:80]!r} is not among the {len(categories)} known ones ({listed}){hint}; rename it or list it"


def validate_images(table: Table, workers: int | None = None, *, max_pixels: int = MAX_PIXELS) -> list[Problem]:
    """Look at every image of a table, in threads: there, an image, whole, and as large as annotated.

    Reads headers and end marks of JPEG and PNG, decodes the other formats. Some thousand images a second.
    """

    def look(index: int) -> Problem | None:
        return _look_at_image(table, index, max_pixels)

    workers = workers or min(8, 2 * (os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as threads:
        return [problem for problem in threads.map(look, range(len(table))) if problem is not None]


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that stop a run."""
    return [problem for problem in problems if problem.severity == "error"]


def drop_bad(table: Table, problems: Iterable[Problem]) -> Table:
    """The table without the images that an error names (objects in error were never in it)."""
    bad = {problem.file for problem in errors(problems) if problem.object_number is None}
    return table.subset(indices=[index for index in range(len(table)) if table.image_name(index) not in bad])


def summary(problems: Sequence[Problem], limit: int = 20) -> str:
    """All problems as lines to read: how many of each kind, then the first `limit`, errors first. "" for none."""
    if not problems:
        return ""
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    counts = Counter((problem.severity, problem.kind) for problem in ordered)
    lines = [f"{count:,} {severity}{'s' if count > 1 else ''}: {kind}" for (severity, kind), count in counts.items()]
    lines += [f"  {problem}" for problem in ordered[:limit]]
    if len(ordered) > limit:
        lines.append(f"  ... and {len(ordered) - limit:,} more")
    return "\n".join(lines)


def _look_at_image(table: Table, index: int, max_pixels: int) -> Problem | None:
    name, path = table.image_name(index), str(table.image_path(index))
    height, width = (int(side) for side in table.image_sizes_hw[index])
    try:
        header = check_image(path, max_pixels=max_pixels)
    except ImageError as error:
        kind = "unreadable-image" if os.path.exists(path) else "missing-image"
        return Problem(name, None, str(error).removeprefix(f"{path}: "), kind)
    if (header.height, header.width) != (height, width):
        turned = f" once upright (EXIF orientation {header.orientation})" if header.orientation > 1 else ""
        message = (
            f"the image is {header.width}x{header.height}{turned}, its annotation says {width}x{height}; correct it"
        )
        return Problem(name, None, message, "size")
    if not name.lower().endswith(EXTENSIONS[header.format]):
        return Problem(name, None, f"a {header.format} file by its content; read as that", "extension", "notice")
    return None
