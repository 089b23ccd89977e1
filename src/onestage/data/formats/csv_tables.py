"""Tables with a row an object: TensorFlow's, Roboflow's, makesense's, and those with other usual names of columns.

TensorFlow's (filename, width, height, class, xmin, ymin, xmax, ymax) are made of VOC's XML, so their pixels count from
1, and the last one belongs to the box; those of `_annotations.csv`, which Roboflow writes, and of other headers count
from 0. Boxes are corners, or a corner and a size. Keras RetinaNet's and older makesense's tables have no header. A row
without a box is no object, though its image counts. The split is a column, else in the name of the file or of a folder.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from onestage.data.folder import DataFolder, first_line, is_image, shown
from onestage.data.reading import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    numbers_of,
    objects_of,
    report_shapes_without_box,
    whole_size,
)
from onestage.data.split_names import is_split
from onestage.errors import UserError

IMAGE = ("filename", "imagename", "imagepath", "image", "filepath", "file", "path", "imgpath", "img", "imageid")
CLASS = ("class", "classname", "label", "labelname", "category", "name")
CORNERS = (("xmin", "x1", "left"), ("ymin", "y1", "top"), ("xmax", "x2", "right"), ("ymax", "y2", "bottom"))
CORNER_AND_SIZE = (("x", "bboxx"), ("y", "bboxy"), ("w", "width", "bboxwidth"), ("h", "height", "bboxheight"))
HEIGHT, WIDTH = ("imageheight", "imgheight", "height"), ("imagewidth", "imgwidth", "width")
SPLIT = ("split", "subset", "set")
WITHOUT_HEADER = (  # the columns of tables that have none
    ("image", "x1", "y1", "x2", "y2", "class"),  # Keras RetinaNet
    ("class", "x", "y", "width", "height", "image", "imagewidth", "imageheight"),  # makesense
)
Row = Mapping[str, str]  # column, in small letters without space and _ -> text


class Header(NamedTuple):
    """The first line of a table."""

    separator: str
    columns: Sequence[str]  # in small letters, without space and punctuation
    is_written: bool  # False: the first line is a row, and the columns are those of a tool that writes no header


def header_of(line: str) -> Header:
    """The header that the first line of a table is."""
    separator = max(",;\t", key=line.count)
    words = [word.strip(' "\r\n') for word in line.split(separator)]
    for columns in WITHOUT_HEADER:
        row = dict(zip(columns, words, strict=False))
        if len(words) == len(columns) and is_image(row["image"]):
            return Header(separator, columns, False)
    return Header(separator, [re.sub(r"[\W_]+", "", word.lower()) for word in words], True)


def read_rows(folder: DataFolder, file: str) -> Iterator[Row]:
    """The rows of a table; a UserError if it can't be read."""
    lines = folder.lines(file)
    first = next(lines, "")
    separator, columns, is_written = header_of(first)
    rows = lines if is_written else chain([first], lines)
    try:
        for values in csv.reader(rows, delimiter=separator, skipinitialspace=True, strict=True):
            if any(value.strip() for value in values):
                yield {column: value.strip() for column, value in zip(columns, values, strict=False)}
    except csv.Error as error:
        raise UserError(f"{folder.root / file}: not CSV ({error}); write it again") from error


def images_of_rows(rows: Iterable[Row], column: str, file: str, faults: Faults) -> dict[str, list[tuple[int, Row]]]:
    """Image -> its rows, each with its number, counted from 1 below the header."""
    found: dict[str, list[tuple[int, Row]]] = {}
    for number, row in enumerate(rows, start=1):
        if row.get(column):
            name = f"{row['folder']}/{row[column]}" if row.get("folder") else row[column]
            found.setdefault(name, []).append((number, row))
        else:
            faults.report(file, "annotation", f"{shown(dict(row))} names no image; name it", number=number)
    return found


class Meaning(NamedTuple):
    """Which column of a table says what."""

    image: str
    class_name: str
    sides: Sequence[str]
    are_corners: bool  # sides are left, top, right, bottom; else left, top, width, height
    size_hw: tuple[str | None, str | None]  # of the image
    split: str | None


def meaning_of(columns: Sequence[str]) -> Meaning | None:
    """What the columns of a table mean; None unless there is one for the image, the class and each side of the box."""

    def first_of(names: Iterable[str]) -> str | None:
        return next((name for name in names if name in columns), None)

    image, class_name = first_of(IMAGE), first_of(CLASS)
    for kind in (CORNERS, CORNER_AND_SIZE):
        sides = [side for names in kind if (side := first_of(names)) is not None]
        if image is not None and class_name is not None and len(sides) == len(kind):
            height, width = (first_of(name for name in names if name not in sides) for names in (HEIGHT, WIDTH))
            return Meaning(image, class_name, sides, kind is CORNERS, (height, width), first_of(SPLIT))
    return None


def is_table(head: str) -> bool:
    """True for the beginning of a table of objects that is not Open Images'."""
    columns = header_of(first_line(head)).columns
    return not {"imageid", "labelname"} <= set(columns) and meaning_of(columns) is not None


def find_csv(folder: DataFolder) -> CsvSource | None:
    """The tables of a folder that have the columns of objects."""
    files = folder.annotations_like(is_table, ".csv", ".tsv")
    return CsvSource(folder, files) if files else None


class CsvSource(FilesSource):
    """Tables, each of many images."""

    tool = "CSV"

    @property
    def splits(self) -> list[str]:
        return sorted({split for splits in self._splits_in.values() for split in splits})

    @cached_property
    def _meanings(self) -> dict[str, Meaning]:
        """File -> what its columns mean."""
        found = {file: meaning_of(header_of(first_line(self.folder.head(file))).columns) for file in self.files}
        return {file: meaning for file, meaning in found.items() if meaning is not None}

    @cached_property
    def _splits_in(self) -> dict[str, set[str]]:
        """File -> the splits of its rows."""
        found = {}
        for file, meaning in self._meanings.items():
            column = meaning.split
            named = {row.get(column, "") for row in read_rows(self.folder, file)} if column else set[str]()
            found[file] = named if named and all(map(is_split, named)) else {self._split_of(file)}
        return found

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        without_box: Counter[str] = Counter()
        for file, meaning in self._meanings.items():
            if split not in (splits := self._splits_in[file]):
                continue
            first = 1.0 if _is_tensorflow(file, meaning) else 0.0
            for key, every_row in images_of_rows(read_rows(self.folder, file), meaning.image, file, faults).items():
                of_split = [one for one in every_row if len(splits) == 1 or one[1].get(meaning.split or "") == split]
                path = faults.find_image(key, file) if of_split else None
                if path is None:
                    continue
                objects: list[AnnotatedObject] = []
                for number, row in of_split:
                    if any(row.get(side) for side in meaning.sides):
                        box, written = _box(row, meaning, first)
                        objects += objects_of(faults, file, number, row.get(meaning.class_name), box, written)
                    elif row.get(meaning.class_name):
                        without_box[row[meaning.class_name]] += 1
                size_hw = whole_size(*(of_split[0][1].get(side) if side else None for side in meaning.size_hw))
                yield AnnotatedImage(file, path, objects, size_hw)
        report_shapes_without_box(faults, "CSV", without_box)


def _is_tensorflow(file: str, meaning: Meaning) -> bool:
    """True where pixels count from 1, as in the VOC annotations that such a table is made of."""
    columns = (meaning.image, meaning.class_name, meaning.sides[0])
    return columns == ("filename", "class", "xmin") and not file.lower().endswith("_annotations.csv")


def _box(row: Row, meaning: Meaning, first: float) -> tuple[Box | None, str]:
    """The box of a row, whose pixels count from `first`, and how it is written."""
    texts = [row.get(side, "") for side in meaning.sides]
    numbers = numbers_of(texts)
    written = ", ".join(f"{side} {text[:20] or 'nothing'}" for side, text in zip(meaning.sides, texts, strict=True))
    if numbers is None:
        return None, written
    left, top, right, bottom = numbers
    if not meaning.are_corners:
        right, bottom = left + right, top + bottom
    return (left - first, top - first, right, bottom), written
