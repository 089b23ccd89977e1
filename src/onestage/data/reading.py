"""What all readers share: a data folder that no file name leaves, a split built image by image, checked objects.

File names come from annotations that strangers wrote: `..`, absolute paths, NUL bytes and symbolic links out of the
folder are refused. Each folder is listed once, so looking for an image costs no system call.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from functools import lru_cache
from math import isfinite
from pathlib import Path, PurePosixPath

import numpy as np

from onestage.data.table import Table, TableBuilder
from onestage.data.validate import Problem, Severity
from onestage.errors import UserError
from onestage.runtime.decode import EXTENSIONS
from onestage.structures import Categories

BORDER_TOLERANCE = 2.0  # pixels that a box may reach beyond its image by rounding
BORDER_NOISE = 0.05  # pixels that the decimals of a file lose: clipped without a notice
IMAGE_EXTENSIONS = tuple(extension for extensions in EXTENSIONS.values() for extension in extensions)

Box = tuple[float, float, float, float]


class OutsideError(UserError):
    """A file name that leads out of the data folder."""


def is_image(name: str) -> bool:
    """True for a file name that ends as those of images do."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def shown(value: object) -> str:
    """A value from a stranger's file as one short line for a message."""
    text = " ".join((repr(value) if isinstance(value, str | bytes) else str(value)).split())
    return text if len(text) <= 80 else text[:77] + "..."


class DataFolder:
    """One data folder. File names are relative to it; an `OutsideError` is raised for one that leads out of it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder of a VOC, COCO or YOLO data set")
        self._real_root = os.path.realpath(self.root)
        self._listings: dict[str, dict[str, bool]] = {}  # folder -> file name -> is a symbolic link
        self._images: dict[str, dict[str, list[str]]] = {}  # folder -> stem -> file names

    def find(self, name: str) -> str | None:
        """The tidied name of a file in the folder; None if there is no such file."""
        path = self._inside(name)
        is_link = self.listing(path.parent.as_posix()).get(path.name)
        if is_link:
            self._refuse_link_outside(path.as_posix())
        return None if is_link is None else path.as_posix()

    def first_existing(self, names: Iterable[str]) -> str | None:
        """The first of the names that exists."""
        return next((found for name in names if (found := self.find(name)) is not None), None)

    def images_with_stem(self, path: str) -> list[str]:
        """The images `PATH.EXTENSION`, with any allowed extension."""
        place = self._inside(path)
        folder = place.parent.as_posix()
        if folder not in self._images:
            by_stem: dict[str, list[str]] = defaultdict(list)
            for name in sorted(self.listing(folder)):
                if is_image(name):
                    by_stem[name.rpartition(".")[0]].append(name)
            self._images[folder] = by_stem
        names = self._images[folder].get(place.name, [])
        return [found for name in names if (found := self.find(f"{folder}/{name}")) is not None]

    def images_below(self, folder: str) -> list[str]:
        """The names of all images below a folder, sorted; folders that are symbolic links are not entered.

        An image may itself be a link that leads out: `find` refuses it.
        """
        self._refuse_link_outside(folder)
        found: list[str] = []
        for path, folders, names in os.walk(self.root / folder):
            folders.sort()
            below = Path(path).relative_to(self.root).as_posix()
            found.extend(f"{below}/{name}" for name in sorted(names) if is_image(name))
        return found

    def listing(self, folder: str) -> dict[str, bool]:
        """File name -> True for a symbolic link, of a folder below the root; {} if there is no such folder."""
        if folder not in self._listings:
            listing: dict[str, bool] = {}
            with suppress(OSError), os.scandir(self.root / folder) as entries:
                listing = {entry.name: entry.is_symlink() for entry in entries}
            if listing:
                self._refuse_link_outside(folder)
            self._listings[folder] = listing
        return self._listings[folder]

    def read(self, name: str, max_bytes: int) -> bytes:
        """The content of a file; a UserError if there is none, it can't be read, or it is larger than `max_bytes`."""
        found = self.find(name)
        path = self.root / (found or name)
        if found is None or not path.is_file():  # reading a pipe would wait for ever
            raise UserError(f"{path}: no such file")
        try:
            if path.stat().st_size > max_bytes:
                raise UserError(f"{path}: more than the {max_bytes:,} bytes allowed for it; make it smaller")
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); mend its permissions") from error

    def read_lines(self, name: str, max_bytes: int = 1 << 28) -> list[str]:
        """The lines of a text file, without space around them; raises as `read` does."""
        text = self.read(name, max_bytes).decode("utf-8-sig", errors="replace")
        return [line.strip() for line in text.splitlines()]

    def _inside(self, name: str) -> PurePosixPath:
        path = PurePosixPath(name.replace("\\", "/"))
        if "\0" in name or path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
            raise OutsideError(f"{shown(name)} leads outside the data folder {self.root}; name a file inside it")
        return path

    def _refuse_link_outside(self, name: str) -> None:
        real = os.path.realpath(self.root / name)
        if real != self._real_root and not real.startswith(self._real_root.rstrip(os.sep) + os.sep):
            raise OutsideError(
                f"{name} is a symbolic link to {real}, outside the data folder {self.root}; copy it inside"
            )


class SplitBuilder:
    """Builds the table of one split, and collects the problems that come up."""

    def __init__(self, root: str | Path, split: str, kind: str) -> None:
        self.folder, self.split = DataFolder(root), split
        self.problems: list[Problem] = []
        self._table = TableBuilder(self.folder.root, split, kind)

    def report(self, file: str, kind: str, message: str, severity: Severity = "error") -> None:
        """Note a fault of a whole file; the kinds are listed in `validate`."""
        self.problems.append(Problem(file, None, message, kind, severity))

    def add(self, image: ImageObjects, *, path: str, image_id: str) -> None:
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
            outside = f"{written} reaches outside the {width}x{height} image; fix or delete the box"
            self.report(number, "box-outside", outside)
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
