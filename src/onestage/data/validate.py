"""Everything that can be wrong with a data set: what it is called, how grave it is, and what happens then.

Readers collect a `Problem` for each fault instead of stopping; `validate_images` then looks at every image. An error
stops a run unless bad data is skipped; a notice is only printed. What happens is the same for every format:

| kind | severity | what happens |
|---|---|---|
| annotation | error | can't be read: its image (or only the object, if it has a number) is left out |
| path | error | a file name that leads out of the data folder: its image is left out |
| missing-image | error | the image is left out |
| unreadable-image | error | damaged, cut off, too large, not an image: left out by `drop_bad` |
| no-size | error | an annotation without the size of its image: the image is left out |
| size | error | the true (upright) size of the image is not the annotated one: left out by `drop_bad` |
| class | error | a class that is not in the list: the object is left out, the nearest class named |
| id | error | a COCO id that is no id, is taken or names no image: its image or object is left out |
| box-not-finite, box-empty | error | NaN or infinite; reversed or without area: the object is left out |
| box-outside | error | outside the image, or more than 2 px beyond its border: the object is left out |
| box-border | notice | at most 2 px beyond the border (rounding): clipped |
| duplicate-object | notice | the same class and box again in one image: left out |
| duplicate-image | notice | an image listed again in a split: left out |
| extension | notice | a PNG called .jpg and the like: read as a PNG |
| background | notice | YOLO images without a label file: they train as background |
| area | notice | COCO objects without a usable area: the area of the box is taken |
| split | notice | one of several joined folders lacks the split: nothing of it is used |

So nothing is dropped in silence, and after `drop_bad` a table holds nothing that an error names.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from onestage.compute.threads import reading_threads
from onestage.data.table import Table
from onestage.runtime.decode import EXTENSIONS, ImageError, check_image

Severity = Literal["error", "notice"]


@dataclass(frozen=True)
class Problem:
    """One fault of a data set; `str` gives the line to print."""

    file: str  # the annotation file or image, below the root of the table where possible
    object_number: int | None  # within the file, from 1; None for a fault of the whole file
    message: str  # what was read, what was expected, what mends it
    kind: str  # a row of the table in this file's docstring
    severity: Severity = "error"

    def __str__(self) -> str:
        place = self.file if self.object_number is None else f"{self.file}, object {self.object_number}"
        return f"{place}: {self.message}"


def validate_images(table: Table) -> list[Problem]:
    """Check that every image of a table is there, is an image, is whole, and has the annotated size.

    Reads headers and end marks of JPEG and PNG, decodes the other formats. Some thousand images a second.
    """
    found = in_threads(lambda index: _problem_of_image(table, index), range(len(table)))
    return [problem for problem in found if problem is not None]


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """The function of every item, in order, by a few threads: for work that waits for files."""
    with ThreadPoolExecutor(reading_threads(per_core=2, most=8)) as threads:
        return list(threads.map(function, items))


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that stop a run."""
    return [problem for problem in problems if problem.severity == "error"]


def drop_bad(table: Table, problems: Iterable[Problem]) -> Table:
    """The table without the images that an error names (bad objects never get into a table)."""
    bad = {problem.file for problem in errors(problems) if problem.object_number is None}
    return table.subset(indices=[index for index in range(len(table)) if table.image_name(index) not in bad])


def summary(problems: Sequence[Problem], limit: int = 20) -> str:
    """The problems as lines to print: the count of each kind, then the first `limit` problems, errors first."""
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    counts = Counter((problem.severity, problem.kind) for problem in ordered)
    lines = [f"{count:,} {severity}{'s' if count > 1 else ''}: {kind}" for (severity, kind), count in counts.items()]
    lines += [f"  {problem}" for problem in ordered[:limit]]
    if len(ordered) > limit:
        lines.append(f"  ... and {len(ordered) - limit:,} more")
    return "\n".join(lines)


def _problem_of_image(table: Table, index: int) -> Problem | None:
    name, path = table.image_name(index), str(table.image_path(index))
    height, width = table.image_sizes_hw[index].tolist()
    try:
        header = check_image(path)
    except ImageError as error:
        kind = "unreadable-image" if os.path.exists(path) else "missing-image"
        return Problem(name, None, str(error).removeprefix(f"{path}: "), kind)
    if (header.height, header.width) != (height, width):
        turned = f" once upright (EXIF orientation {header.orientation})" if header.orientation > 1 else ""
        found = f"the image is {header.width}x{header.height}{turned}"
        return Problem(name, None, f"{found}, its annotation says {width}x{height}; correct it", "size")
    if not name.lower().endswith(EXTENSIONS[header.format]):
        return Problem(name, None, f"a {header.format} file by its content; read as that", "extension", "notice")
    return None
