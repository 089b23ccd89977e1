"""What all readers share: what an annotation says of an image, and the words for what is wrong with it.

A reader finds its data set in a folder (a `Source`), and then gives one `AnnotatedImage` after the other, which become
rows of a table (`rows.py`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from unicodedata import normalize

from onestage.data.folder import DataFolder, MissingImageError, OutsideError, folder_of, shown
from onestage.data.served_names import image_of_upload, without_server
from onestage.data.split_names import split_in_name
from onestage.data.validate import Problem, Severity
from onestage.errors import UserError
from onestage.structures import Categories, repeated
from onestage.terminal import watched

FRACTION_LIMIT = 1.5  # a side beyond it can't be a fraction of an image; boxes may reach over the border by some
ALL = "all"  # the split of a data set that has none
ONLY_CLASS = "object"  # where nothing names a class
UNSEEN = dict.fromkeys(map(ord, "\ufeff\u200b\u2060"))  # byte order mark, zero-width space, word joiner

Box = tuple[float, float, float, float]


class AnnotatedObject(NamedTuple):
    """One object as an annotation says it."""

    number: int  # in its file, from 1, for messages
    name: str | None  # class; None is a region to ignore, whatever is in it
    box_xyxy: Box  # pixels from 0, half-open; or fractions of the image
    written: str  # what the file says, for messages
    ignored: bool = False
    area: float | None = None  # square pixels; None takes the box's
    difficult: bool = False  # ignored because VOC calls it difficult


class AnnotatedImage(NamedTuple):
    """One image as an annotation says it."""

    file: str  # the annotation file and the place in it, for messages
    path: str  # the image, below the root of the folder
    objects: Iterable[AnnotatedObject]
    size_hw: tuple[int, int] | None = None  # None takes the image's own
    image_id: str = ""  # "" takes the stem of the path
    fractions: bool = False  # boxes are in fractions of the image


class Source(ABC):
    """A data set that a reader found in a folder."""

    one_image_each = False  # of its annotation files: then only folders name splits, else the names of the files too
    with_confidence = False  # of every object: not drawn, but found by a model

    @property
    @abstractmethod
    def about(self) -> str:
        """Tool and files, as "VOC: XML beside 412 images"."""

    @property
    @abstractmethod
    def splits(self) -> list[str]:
        """The splits in it; only "all" where it has none."""

    @abstractmethod
    def categories(self, split: str) -> Categories | None:
        """The data set's own list of classes; None takes the names of the objects, sorted."""

    @abstractmethod
    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        """The images of a split; what can't be used goes to `faults`."""


class FilesSource(Source):
    """The annotation files of a tool that lists neither classes nor splits; its readers add `images`."""

    tool = ""  # its name, for messages

    def __init__(self, folder: DataFolder, files: list[str]) -> None:
        self.folder, self.files = folder, files

    @property
    def about(self) -> str:
        kind = self.files[0].rpartition(".")[2].upper()
        return f"{self.tool}: {', '.join(self.files) if len(self.files) < 4 else f'{len(self.files):,} {kind} files'}"

    @property
    def splits(self) -> list[str]:
        return sorted({self._split_of(file) for file in self.files})

    def _split_of(self, file: str) -> str:
        named = None if self.one_image_each else split_in_name(file)
        return named or self.folder.split_of(file) or ALL

    def of_split(self, split: str) -> Iterator[str]:
        """The files of a split, to be read one after the other."""
        files = [file for file in self.files if self._split_of(file) == split]
        return watched(files, f"reading {split}", len(files))

    def categories(self, split: str) -> Categories | None:
        return None


class Faults:
    """Collects what is wrong with one split."""

    def __init__(self, folder: DataFolder, split: str) -> None:
        self.folder, self.split = folder, split
        self.problems: list[Problem] = []
        self.without_box: Counter[str] = Counter()  # points, lines and other shapes that are no objects, by their kind

    def report(
        self, file: str, kind: str, message: str, severity: Severity = "error", number: int | None = None
    ) -> None:
        """Note a fault of a file, or of the object of that number in it; kinds are those of `checks/problems.py`."""
        self.problems.append(Problem(file, number, message, kind, severity))

    def find_image(self, name: str, file: str) -> str | None:
        """The path of the image that the annotation `file` calls `name`; None, and a problem, if there is none."""
        name = without_server(name)
        try:
            return self.folder.find_image(name, folder_of(file), self.split)
        except (OutsideError, MissingImageError) as error:
            if (uploaded := image_of_upload(self.folder, name)) is not None:
                return uploaded
            return self.report(file, "path" if isinstance(error, OutsideError) else "missing-image", str(error))


def numbers_of(values: Iterable[object]) -> list[float] | None:
    """Numbers, or texts of numbers, as floats; None unless all are."""
    found = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            found.append(float(value))
        except ValueError:
            return None
        except OverflowError:  # a whole number too large for a float
            found.append(float("inf"))
    return found


def whole_size(height: object, width: object) -> tuple[int, int] | None:
    """(height, width) of an image as an annotation gives them; None unless both are whole numbers above 0."""
    sides = numbers_of((height, width))
    if sides is None or not all(1 <= side < 1 << 31 and side.is_integer() for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def box_around(points: Iterable[float]) -> Box | None:
    """The smallest upright box around x, y, x, y, ...; None for fewer than two points."""
    sides = list(points)
    if len(sides) < 4 or len(sides) % 2:
        return None
    xs, ys = sides[0::2], sides[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def name_of(value: object) -> str | None:
    """The name of a class in one spelling, without space around it; None for what is none.

    Macs write a letter and its accent apart, and some editors leave letters that nobody sees.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    name = normalize("NFC", str(value).translate(UNSEEN)).strip()
    return None if re.search(r"[\ud800-\udfff]", name) else name or None  # halves of characters can't be written


def objects_of(
    faults: Faults, file: str, number: int, name: object, box_xyxy: Box | None, written: str, ignored: bool = False
) -> list[AnnotatedObject]:
    """The object that an annotation means; none, and a problem, if it has no class or no box."""
    class_name = name_of(name)
    if class_name is None:
        faults.report(file, "annotation", f"its class is {shown(name)}, expected a name; give it one", number=number)
    elif box_xyxy is None:
        message = f"{written} gives no box; write its corners as numbers or delete it"
        faults.report(file, "annotation", message, number=number)
    else:
        return [AnnotatedObject(number, class_name, box_xyxy, written, ignored)]
    return []


def read_record(faults: Faults, file: str) -> dict[str, Any] | None:
    """The record in a JSON file; None, and a problem, for a file that holds none."""
    try:
        record = faults.folder.read_json(file)
    except UserError as error:
        return faults.report(file, "annotation", str(error).removeprefix(f"{faults.folder.root / file}: "))
    if isinstance(record, dict):
        return record
    return faults.report(file, "annotation", f"it holds {shown(record)}, expected one JSON object; delete the file")


def read_list(folder: DataFolder, file: str) -> list[Any]:
    """The list in a JSON file; a UserError if it holds none."""
    content = folder.read_json(file)
    if not isinstance(content, list):
        raise UserError(f"{folder.root / file}: it holds {shown(content)}, expected a list of images; write it again")
    return content


def class_list(folder: DataFolder, *names: str, by_line: bool = False) -> Categories | None:
    """The classes that the first of these files lists, as `listed_names`; None if there is none, or it is empty.

    Args:
        by_line: labels are numbers of lines, so that none may be empty.

    Raises:
        UserError: a class is listed twice, a line is empty, or two such files differ.
    """
    for name in names:
        files = [file for file in folder.files if file.rpartition("/")[2].lower() == name]
        lists = {file: listed_names(lines_of_names(folder, file, by_line)) for file in files}
        lists = {file: lines for file, lines in lists.items() if lines}
        for file, lines in lists.items():
            if (twice := repeated(lines)) is not None:
                raise UserError(f"{folder.root / file}: two classes are called {shown(twice)}; give each its own name")
        if len(set(lists.values())) > 1:
            one, other = list(lists)[:2]
            raise UserError(f"{folder.root}: {one} and {other} list other classes; which is right? Delete the other")
        if lists:
            return Categories.from_names(next(iter(lists.values())))
    return None


def lines_of_names(folder: DataFolder, file: str, by_line: bool) -> list[str]:
    """The lines of a list of classes; a UserError for an empty one among them where the number of a line counts."""
    lines = [name_of(line) or "" for line in folder.read_lines(file, 1 << 20)]
    while lines and not lines[-1]:
        lines.pop()
    if by_line and "" in lines:
        where = f"{folder.root / file}: line {lines.index('') + 1} is empty"
        raise UserError(f"{where}, and labels may count it; name its class, or delete the line if they do not")
    return lines


def listed_names(lines: Iterable[str]) -> tuple[str, ...]:
    """The names in a list of classes: one a line, or all in one line with commas; numbers in order before them go."""
    names = [line for line in lines if line]
    if len(names) == 1 and "," in names[0]:
        names = [name for part in names[0].split(",") if (name := part.strip(" '\"[]"))]
    numbered = [re.fullmatch(r"(\d{1,6})(?:\s*[:;,]\s*|[.)]?\s+)(.*\S)", name) for name in names]
    numbers = [int(one[1]) for one in numbered if one]
    bare = [one[2] for one in numbered if one]
    in_order = len(names) > 1 and numbers in ([*range(len(names))], [*range(1, len(names) + 1)])
    return tuple(bare if in_order and repeated(bare) is None else names)
