"""Problems of a data set: readers note one for each fault instead of stopping; `validate_images` looks at every image.

An error stops a run unless bad data is skipped; a notice is only printed. What each kind of problem means, and what is
done about it, is in `checks/problems.py`, and is the same for every format. So nothing is dropped in silence, and after
`drop_bad` a table holds nothing that an error names.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from onestage.compute.threads import in_threads
from onestage.data.seen_images import SeenImages
from onestage.data.table import Table
from onestage.runtime.decode import EXTENSIONS, ImageError, TooManyPixelsError, check_image, largest_value

Severity = Literal["error", "notice"]

DEEP_LOOKED_AT = 200  # images of 16 bits whose values are looked at


@dataclass(frozen=True)
class Problem:
    """One fault of a data set; `str` gives the line to print."""

    file: str  # the annotation file or image, below the root of the table where possible
    object_number: int | None  # within the file, from 1; None for a fault of the whole file
    message: str  # what was read, what was expected, what mends it
    kind: str  # a key of `KINDS` in checks/problems.py
    severity: Severity = "error"

    def __str__(self) -> str:
        place = self.file if self.object_number is None else f"{self.file}, object {self.object_number}"
        return f"{place}: {self.message}"


def validate_images(table: Table) -> list[Problem]:
    """Check that every image of a table is there, is an image, is whole, and has the annotated size.

    Reads headers and end marks of JPEG and PNG, decodes the other formats: some thousand images a second. Files that
    have not changed since the last time are not looked at again.
    """
    checks = checked_images(table.root, table.image_names(), table.max_pixels)
    found = (_problem_of_image(table, index, check) for index, check in enumerate(checks))
    return [problem for problem in found if problem is not None]


class Checked(NamedTuple):
    """What the header of an image that is whole says."""

    width: int  # pixels of the upright image
    height: int
    format: str
    orientation: int  # by EXIF
    bits: int


def checked_images(root: Path, names: Sequence[str], max_pixels: int | None) -> list[Checked | str]:
    """What is known of each image below `root`, or what is wrong with it; asked of the files that have changed."""
    seen = SeenImages(root, "headers" if max_pixels is None else f"headers-{max_pixels}")
    found = seen.ask_all(names, lambda name: _check(os.fspath(root / name), max_pixels), "checking images")
    return [check if isinstance(check, str) else Checked(*check) for check in found]


def _check(path: str, max_pixels: int | None) -> list[Any] | str:
    try:
        header = check_image(path, max_pixels=max_pixels)
        return [getattr(header, name) for name in Checked._fields]
    except ImageError as error:
        mend = ", or allow more by --max-pixels" if isinstance(error, TooManyPixelsError) else ""
        return str(error).removeprefix(f"{path}: ") + mend


def significant_bits(table: Table) -> int:
    """How many bits of a table's 16-bit images hold values, by the largest value of some of them; 16 if it has none."""
    checks = checked_images(table.root, table.image_names(), table.max_pixels)
    deep = [index for index, checked in enumerate(checks) if not isinstance(checked, str) and checked.bits == 16]
    paths = [str(table.image_path(index)) for index in deep[:: max(1, len(deep) // DEEP_LOOKED_AT)]]
    largest = max(in_threads(largest_value, paths, "reading values"), default=0)
    return max(8, largest.bit_length()) if deep else 16


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that stop a run."""
    return [problem for problem in problems if problem.severity == "error"]


def drop_bad(table: Table, problems: Iterable[Problem]) -> Table:
    """The table without the images that an error names (bad objects never get into a table)."""
    bad = {problem.file for problem in errors(problems) if problem.object_number is None}
    return table.subset(indices=[index for index in range(len(table)) if table.image_name(index) not in bad])


def summary(problems: Sequence[Problem], limit: int = 20) -> list[str]:
    """The problems as lines to print: the count of each kind, then `limit` of them, errors first; like ones are one."""
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    counts = Counter((problem.severity, problem.kind) for problem in ordered)
    lines = [f"{count:,} {severity}{'s' if count > 1 else ''}: {kind}" for (severity, kind), count in counts.items()]
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in ordered:
        alike.setdefault((problem.kind, problem.message), []).append(problem)
    shown = list(alike.values())[:limit]
    lines += [f"  {first}{f' (and {len(more):,} more like it)' if more else ''}" for first, *more in shown]
    if (rest := len(ordered) - sum(map(len, shown))) > 0:
        lines.append(f"  ... and {rest:,} more")
    return lines


def _problem_of_image(table: Table, index: int, check: Checked | str) -> Problem | None:
    name = table.image_name(index)
    if isinstance(check, str):
        exists = os.path.exists(table.image_path(index))
        return Problem(name, None, check, "unreadable-image" if exists else "missing-image")
    height, width = table.image_sizes_hw[index].tolist()
    if (check.height, check.width) != (height, width):
        turned = f" once upright (EXIF orientation {check.orientation})" if check.orientation > 1 else ""
        wrong = f"the image is {check.width}x{check.height}{turned}, its annotation says {width}x{height}"
        if same_proportions((height, width), (check.height, check.width)):
            return Problem(name, None, f"{wrong}: it was scaled; --rescale-boxes scales its boxes too", "scale")
        return Problem(name, None, f"{wrong}; correct it", "size")
    if not name.lower().endswith(EXTENSIONS[check.format]):
        return Problem(name, None, f"a {check.format} file by its content; read as that", "extension", "notice")
    return None


def same_proportions(one_hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """True where one size is the other scaled, up to the rounding of its shorter sides."""
    (height, width), (other_height, other_width) = sorted((one_hw, other_hw))
    factor = max(other_height / height, other_width / width)
    return abs(other_height - height * factor) <= factor and abs(other_width - width * factor) <= factor
