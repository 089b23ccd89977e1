"""The base of all readers: a split that is built image by image, and the checks of each of its objects."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from pathlib import Path

import numpy as np

from onestage.data.folder import DataFolder
from onestage.data.table import Table, TableBuilder
from onestage.data.validate import Problem, Severity
from onestage.structures import Categories

BORDER_TOLERANCE = 2.0  # pixels that a box may reach beyond its image by rounding
BORDER_NOISE = 0.05  # pixels that the decimals of a file lose: clipped without a notice

Box = tuple[float, float, float, float]


class SplitBuilder:
    """Builds the table of one split, and collects the problems that come up.

    Attributes:
        folder: the files of the data set.
        split: the name of the split.
        problems: what was wrong so far.
    """

    def __init__(self, root: str | Path, split: str, kind: str) -> None:
        self.folder, self.split = DataFolder(root), split
        self.problems: list[Problem] = []
        self._table = TableBuilder(self.folder.root, split, kind)

    def report(self, file: str, kind: str, message: str, severity: Severity = "error") -> None:
        """Note a fault of a whole file; the kinds are listed in `validate`."""
        self.problems.append(Problem(file, None, message, kind, severity))

    def add(self, image: ImageObjects, *, path: str, image_id: str) -> None:
        """Append an image with its good objects."""
        self._table.add(
            path=path,
            image_id=image_id,
            size_hw=image.size_hw,
            boxes_xyxy=np.array(image.boxes_xyxy, dtype=np.float64).reshape(-1, 4),
            labels=image.labels,
            ignored=image.ignored,
            areas=np.array(image.areas, dtype=np.float64),
        )

    def build(self, categories: Categories) -> tuple[Table, list[Problem]]:
        """The finished table, and all problems."""
        return self._table.build(categories), self.problems


class ImageObjects:
    """The objects of one image: the good are kept, the others reported by `file` and their number in it, from 1."""

    def __init__(self, file: str, size_hw: tuple[int, int], categories: Categories, problems: list[Problem]) -> None:
        self.file, self.size_hw, self.categories, self.problems = file, size_hw, categories, problems
        self.boxes_xyxy: list[Box] = []
        self.labels: list[int] = []
        self.ignored: list[bool] = []
        self.areas: list[float] = []
        self._seen: set[tuple[int, bool, Box]] = set()

    def report(self, number: int, kind: str, message: str, severity: Severity = "error") -> None:
        """Note a fault of one object."""
        self.problems.append(Problem(self.file, number, message, kind, severity))

    def find_label(self, number: int, name: str) -> int | None:
        """The label of an object's class; None, and a problem, for a class that is not in the list."""
        label = self.categories.label_of.get(name)
        if label is None:
            self.report(number, "class", _unknown_class(name, self.categories))
        return label

    def add(
        self, number: int, label: int, box_xyxy: Box, *, written: str, ignored: bool = False, area: float | None = None
    ) -> None:
        """Check one object and keep it if it is good.

        The box is in pixels of the image, `written` is what the file says, for messages; `area` None takes the box's.
        """
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
            x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
            self.boxes_xyxy.append((x0, y0, x1, y1))
            self.labels.append(label)
            self.ignored.append(ignored)
            self.areas.append((x1 - x0) * (y1 - y0) if area is None else area)


def whole_size(height: float | None, width: float | None) -> tuple[int, int] | None:
    """(height, width) of an image as an annotation gives them; None unless both are whole numbers above 0."""
    if height is None or width is None:
        return None
    usable = all(1 <= side < 1 << 31 and side.is_integer() for side in (height, width))
    return (int(height), int(width)) if usable else None


@lru_cache  # every object of an unknown class asks
def _unknown_class(name: str, categories: Categories) -> str:
    """The message for a class that is not in the list, with the nearest one that is."""
    lowered = {known.lower(): known for known in categories.names}
    nearest = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"; the nearest is {lowered[nearest[0]]!r}" if nearest else ""
    listed = ", ".join(categories.names[:10]) + (", ..." if len(categories) > 10 else "")
    return f"class {name[:80]!r} is not among the {len(categories)} known ones ({listed}){hint}; rename it or list it"
