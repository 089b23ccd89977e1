"""Tables with a header and a row an object: TensorFlow's, Roboflow's, and those with other usual names of columns.

TensorFlow's (filename, width, height, class, xmin, ymin, xmax, ymax) are made of VOC's XML, so their pixels count from
1, and the last one belongs to the box; those of `_annotations.csv`, which Roboflow writes, and of other headers count
from 0. A row without a box is no object, though its image counts. The split is in the name of the file, or in that of
a folder.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from onestage.data.folder import DataFolder, first_line, shown
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
from onestage.errors import UserError

IMAGE = ("filename", "imagename", "imagepath", "image", "filepath", "file", "path", "imgpath", "img", "imageid")
CLASS = ("class", "classname", "label", "labelname", "category", "name")
SIDES = (("xmin", "x1", "left"), ("ymin", "y1", "top"), ("xmax", "x2", "right"), ("ymax", "y2", "bottom"))
SIZE = (("height", "imageheight", "imgheight"), ("width", "imagewidth", "imgwidth"))
Row = Mapping[str, str]  # column, in small letters without space and _ -> text


def columns_of(line: str) -> tuple[str, list[str]]:
    """The separator and the columns of a header; each in small letters, without space and punctuation."""
    separator = max(",;\t", key=line.count)
    return separator, [re.sub(r"[\W_]+", "", column.lower()) for column in line.split(separator)]


def read_rows(folder: DataFolder, file: str) -> Iterator[Row]:
    """The rows of a table; a UserError if it can't be read."""
    lines = folder.lines(file)
    separator, columns = columns_of(next(lines, ""))
    try:
        for values in csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True):
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


def is_table(head: str) -> bool:
    """True for the beginning of a table with a column for the image, the class and each side of the box."""
    _, columns = columns_of(first_line(head))
    wanted = (IMAGE, CLASS, *SIDES)
    open_images = {"imageid", "labelname"} <= set(columns)
    return not open_images and all(any(column in names for column in columns) for names in wanted)


def find_csv(folder: DataFolder) -> CsvSource | None:
    """The tables of a folder that have the columns of objects."""
    files = folder.annotations_like(is_table, ".csv", ".tsv")
    return CsvSource(folder, files) if files else None


class CsvSource(FilesSource):
    """Tables, each of many images."""

    tool = "CSV"

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        without_box: Counter[str] = Counter()
        for file in self.of_split(split):
            _, columns = columns_of(first_line(self.folder.head(file)))
            image, name, *sides = (next(one for one in names if one in columns) for names in (IMAGE, CLASS, *SIDES))
            height, width = (next((one for one in names if one in columns), None) for names in SIZE)
            of_tensorflow = {"filename", "class", "xmin"} <= set(columns)
            first = 1.0 if of_tensorflow and not file.lower().endswith("_annotations.csv") else 0.0
            for key, rows in images_of_rows(read_rows(self.folder, file), image, file, faults).items():
                path = faults.find_image(key, file)
                if path is None:
                    continue
                objects: list[AnnotatedObject] = []
                for number, row in rows:
                    if any(row.get(side) for side in sides):
                        box, written = _box(row, sides, first)
                        objects += objects_of(faults, file, number, row.get(name), box, written)
                    elif row.get(name):
                        without_box[row[name]] += 1
                size_hw = whole_size(*(rows[0][1].get(side) if side else None for side in (height, width)))
                yield AnnotatedImage(file, path, objects, size_hw)
        report_shapes_without_box(faults, "CSV", without_box)


def _box(row: Row, sides: Sequence[str], first: float) -> tuple[Box | None, str]:
    """The box of a row, whose pixels count from `first`, and how it is written."""
    texts = [row.get(side, "") for side in sides]
    numbers = numbers_of(texts)
    box = None if numbers is None else (numbers[0] - first, numbers[1] - first, numbers[2], numbers[3])
    return box, ", ".join(f"{side} {text[:20] or 'nothing'}" for side, text in zip(sides, texts, strict=True))
