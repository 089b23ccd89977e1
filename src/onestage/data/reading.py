"""What all readers share: what an annotation says of an image, and how that becomes rows of the table.

A reader finds its data set in a folder (a `Source`), and then gives one `AnnotatedImage` after the other. Here they
get the sizes that annotations lack, their objects are checked, and everything that is wrong is noted.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from onestage.data.folder import DataFolder, MissingImageError, OutsideError, folder_of, shown, stem_of
from onestage.data.split_names import split_of, split_of_file
from onestage.data.table import Table, TableBuilder
from onestage.data.validate import Problem, Severity, checked_images, same_proportions
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.errors import UserError
from onestage.structures import Categories, repeated
from onestage.terminal import watched

BORDER_TOLERANCE = 2.0  # pixels that a box may reach beyond its image by rounding
BORDER_NOISE = 0.05  # pixels that the decimals of a file lose: clipped without a notice
FRACTION_LIMIT = 1.5  # a side beyond it can't be a fraction of an image; boxes may reach over the border by some
CHUNK = 4096  # images whose annotations are in memory at once
ALL = "all"  # the split of a data set that has none

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
    one_image_each = False  # then only folders name splits, else the names of the files too

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
        return (split_of(file) if self.one_image_each else split_of_file(file)) or ALL

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

    def report(
        self, file: str, kind: str, message: str, severity: Severity = "error", number: int | None = None
    ) -> None:
        """Note a fault of a file, or of the object of that number in it; the kinds are listed in `validate`."""
        self.problems.append(Problem(file, number, message, kind, severity))

    def find_image(self, name: str, file: str) -> str | None:
        """The path of the image that the annotation `file` calls `name`; None, and a problem, if there is none."""
        try:
            return self.folder.find_image(name, folder_of(file), self.split)
        except OutsideError as error:
            return self.report(file, "path", str(error))
        except MissingImageError as error:
            return self.report(file, "missing-image", str(error))


def read_source(
    source: Source,
    folder: DataFolder,
    kind: str,
    split: str,
    categories: Categories | None = None,
    options: DataOptions = AS_IT_IS,
) -> tuple[Table, list[Problem]]:
    """One split of a source as a table, with everything that was wrong; see `read_dataset`."""
    faults = Faults(folder, split)
    own = source.categories(split)
    known, builder = categories or own, TableBuilder(folder.root, split, kind)
    names: dict[str, int] = {}  # found, in that order, where there is no list of classes
    seen: dict[str, str] = {}
    in_pixels, count = False, 0
    images = source.images(split, faults)
    while chunk := list(islice(images, CHUNK)):
        for image, size_hw in zip(chunk, _sizes_hw(folder, chunk, options), strict=True):
            if isinstance(size_hw, str):
                faults.report(image.path, "unreadable-image", size_hw)
                continue
            if image.path in seen:
                message = f"{image.path} is the image of {seen[image.path]} too; delete one of the two"
                faults.report(image.file, "duplicate-image", message)
                continue
            seen[image.path] = image.file
            objects = ImageObjects(image, size_hw, names if known is None else known, faults)
            for one in image.objects:
                objects.add(one)
                in_pixels |= image.fractions or not _is_fraction(one.box_xyxy)
                count += 1
            objects.into(builder)
    if count and not in_pixels:
        message = f"all {count:,} boxes are at most 1 wide: fractions of the image, where pixels are expected"
        faults.report(split, "box-outside", f"{message}; multiply them by the size of their image")
    table = builder.build(known or Categories.from_names(names))
    if known is None:
        table = table.with_categories(Categories.from_names(sorted(names)))
    return replace(table, max_pixels=options.max_pixels), faults.problems


def _is_fraction(box_xyxy: Box) -> bool:
    """True for sides that are hardly pixels: broken numbers up to 1, or a little more."""
    return max(map(abs, box_xyxy)) <= FRACTION_LIMIT and any(side % 1 for side in box_xyxy)


def _sizes_hw(folder: DataFolder, images: list[AnnotatedImage], options: DataOptions) -> list[tuple[int, int] | str]:
    """The size of each image: as annotated, else its own, or why that can't be read."""
    if all(image.size_hw is not None for image in images) and not options.rescale_boxes:
        return [image.size_hw or "" for image in images]
    checks = checked_images(folder.root, [image.path for image in images], options.max_pixels)
    own = [check if isinstance(check, str) else (check.height, check.width) for check in checks]
    keep = not options.rescale_boxes
    return [image.size_hw if keep and image.size_hw else size for image, size in zip(images, own, strict=True)]


class ImageObjects:
    """The objects of one image: the good are kept, the others reported by their number in the annotation, from 1."""

    def __init__(
        self, image: AnnotatedImage, size_hw: tuple[int, int], categories: Categories | dict[str, int], faults: Faults
    ) -> None:
        self.image, self.size_hw, self.categories, self.faults = image, size_hw, categories, faults
        self.scale = scale_of(image, size_hw)
        self.boxes_xyxy: list[Box] = []
        self.labels: list[int] = []
        self.ignored: list[bool] = []
        self.difficult: list[bool] = []
        self.areas: list[float] = []
        self._seen: set[tuple[int, bool, Box]] = set()

    def into(self, builder: TableBuilder) -> None:
        """Append the image and its objects to a table."""
        builder.add(
            path=self.image.path,
            image_id=self.image.image_id or stem_of(self.image.path),
            size_hw=self.size_hw,
            boxes_xyxy=np.array(self.boxes_xyxy, dtype=np.float64).reshape(-1, 4),
            labels=self.labels,
            ignored=self.ignored,
            areas=np.array(self.areas, dtype=np.float64),
            difficult=self.difficult,
        )

    def add(self, one: AnnotatedObject) -> None:
        """Check one object and keep it if it is good.

        Nothing that is visible becomes background: what lies beyond the border is clipped, and a box without area
        makes the pixels that it names ignored.
        """
        labels = self._labels(one)
        if labels is None:
            return
        width, height = float(self.size_hw[1]), float(self.size_hw[0])
        scale_x, scale_y = self.scale
        x0, y0, x1, y1 = one.box_xyxy
        x0, y0, x1, y1 = box = x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y
        ignored, difficult, area = one.ignored, one.difficult, one.area
        if not all(map(isfinite, box)):
            return self._report(one, "box-not-finite", f"{one.written}; give finite numbers or delete the box")
        if x1 <= x0 or y1 <= y0:
            message = f"{one.written} has no area; its pixels are ignored in training; fix or delete the box"
            self._report(one, "box-empty", message, "notice")
            x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
            x1, y1, ignored, difficult, area = max(x1, x0 + 1.0), max(y1, y0 + 1.0), True, False, None
        beyond = max(-x0, -y0, x1 - width, y1 - height)  # pixels over the border
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
        if x1 <= x0 or y1 <= y0:
            message = f"{one.written} lies outside the {width:.0f}x{height:.0f} image; fix or delete the box"
            return self._report(one, "box-outside", message)
        if beyond > BORDER_TOLERANCE:
            message = f"{one.written} reaches {beyond:.4g} px outside the {width:.0f}x{height:.0f} image; clipped to it"
            self._report(one, "box-clipped", message, "notice")
        elif beyond > BORDER_NOISE:
            message = f"{one.written} reaches {beyond:.3g} px over the border of {width:.0f}x{height:.0f}; clipped"
            self._report(one, "box-border", message, "notice")
        if (labels[0], ignored, box) in self._seen:
            return self._report(one, "duplicate-object", f"{one.written} is the same object again; left out", "notice")
        self._seen.add((labels[0], ignored, box))
        for label in labels:
            self.boxes_xyxy.append((x0, y0, x1, y1))
            self.labels.append(label)
            self.ignored.append(ignored)
            self.difficult.append(difficult)
            self.areas.append((x1 - x0) * (y1 - y0) if area is None else area)
        return None

    def _labels(self, one: AnnotatedObject) -> list[int] | None:
        """The label of an object's class, all labels for a region to ignore; None, and a problem, for none."""
        if one.name is None:
            return list(range(len(self.categories))) or None
        if isinstance(self.categories, dict):
            return [self.categories.setdefault(one.name, len(self.categories))]
        label = self.categories.label_of.get(one.name)
        if label is None:
            return self._report(one, "class", _unknown_class(one.name, self.categories))
        return [label]

    def _report(self, one: AnnotatedObject, kind: str, message: str, severity: Severity = "error") -> None:
        self.faults.report(self.image.file, kind, message, severity, one.number)


def scale_of(image: AnnotatedImage, size_hw: tuple[int, int]) -> tuple[float, float]:
    """Factors from the units of an annotation's boxes to pixels of an image of `size_hw`."""
    height, width = size_hw
    if image.fractions:
        return float(width), float(height)
    if image.size_hw is None or image.size_hw == size_hw or not same_proportions(image.size_hw, size_hw):
        return 1.0, 1.0
    return width / image.size_hw[1], height / image.size_hw[0]


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
    """The name of a class, without space around it; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    name = str(value).strip()
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


def report_shapes_without_box(faults: Faults, file: str, shapes: Counter[str]) -> None:
    """One notice for all points, lines and other shapes that are no objects."""
    if shapes:
        counted = ", ".join(f"{count:,} {shown(shape)}" for shape, count in shapes.most_common())
        faults.report(file, "no-box", f"{counted} in {faults.split}: shapes without a box are no objects", "notice")


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


@lru_cache  # every object of an unknown class asks
def _unknown_class(name: str, categories: Categories) -> str:
    """The message for a class that is not in the list, with the nearest one that is."""
    lowered = {known.lower(): known for known in categories.names}
    nearest = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    hint = f"; the nearest is {lowered[nearest[0]]!r}" if nearest else ""
    listed = ", ".join(categories.names[:10]) + (", ..." if len(categories) > 10 else "")
    return f"class {name[:80]!r} is not among the {len(categories)} known ones ({listed}){hint}; rename it or list it"


def class_list(folder: DataFolder, *names: str) -> Categories | None:
    """The classes that the first of these files lists, one a line; None if there is none, or it is empty.

    Raises:
        UserError: a class is listed twice, or two such files differ.
    """
    for name in names:
        files = [file for file in folder.files if file.rpartition("/")[2].lower() == name]
        lists = {file: tuple(filter(None, folder.read_lines(file, 1 << 20))) for file in files}
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
