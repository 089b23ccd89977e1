"""Tables with a row an object: TensorFlow's, Roboflow's, makesense's, and those with other usual names of columns.

TensorFlow's (filename, width, height, class, xmin, ymin, xmax, ymax) are made of VOC's XML, so their pixels count from
1, and the last one belongs to the box; those of `_annotations.csv`, which Roboflow writes, and of other headers count
from 0. Boxes are two or four corners, or a corner or the center and a size, in columns or in one. The tables of Keras
RetinaNet, SKU-110K, Vertex AI and older makesense have no header. A row without a box is no object, though its image
counts. The split is a column, else in the name of the file or of a folder.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import NamedTuple

from onestage.data.folder import DataFolder, is_image, shown
from onestage.data.reading import (
    ALL,
    ONLY_CLASS,
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    numbers_of,
    objects_of,
    whole_size,
)
from onestage.data.shapes import box_around_corners
from onestage.data.split_names import is_split
from onestage.errors import UserError

IMAGE = ("filename", "imagename", "imagepath", "image", "filepath", "file", "path", "imgpath", "img", "imageid")
CLASS_NAME = ("class", "classname", "label", "labelname", "category", "categoryname")
CLASS = (*CLASS_NAME, "name", "classid", "categoryid", "labelid")
CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("left", "top", "right", "bottom"),
    ("minx", "miny", "maxx", "maxy"),
    ("startx", "starty", "endx", "endy"),
    ("xtl", "ytl", "xbr", "ybr"),
)
FIRST_CORNER = (("x", "y"), *(corners[:2] for corners in CORNERS))
CENTER = (("xcenter", "ycenter"), ("centerx", "centery"), ("xcentre", "ycentre"), ("cx", "cy"))
SIZE = (("w", "h"), ("width", "height"))
SIDES: dict[str, Sequence[Sequence[str]]] = {  # what a box is written as -> its columns; the first that are there count
    "four corners": [[f"{axis}{number + first}" for number in range(4) for axis in "xy"] for first in (1, 0)],
    "corners": [*CORNERS, ["bboxxyxy"]],
    "corner and size": [*((*corner, *size) for size in SIZE for corner in FIRST_CORNER), ["bboxxywh"]],
    "center and size": [(*center, *size) for size in SIZE for center in CENTER],
    "list": [["bbox"], ["box"], ["boundingbox"]],
}
OF_BOX = ("bbox", "boundingbox", "bndbox", "box")  # what may stand before the name of such a column
HEIGHT = ("imageheight", "imgheight", "imageh", "imgh", "height")
WIDTH = ("imagewidth", "imgwidth", "imagew", "imgw", "width")
SPLIT = ("split", "subset", "set")
NO_CLASS = ("", "unnamed0", "index", "id", "folder", "source", "area", "score", "confidence")  # columns without meaning
VERTEX = ("split", "image", "class", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")  # fractions; two corners may lack
WITHOUT_HEADER = (  # the columns of tables that have none
    ("image", "x1", "y1", "x2", "y2", "class"),  # Keras RetinaNet
    ("image", "x1", "y1", "x2", "y2", "class", "imagewidth", "imageheight"),  # SKU-110K
    ("class", "x", "y", "width", "height", "image", "imagewidth", "imageheight"),  # makesense
    VERTEX,
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


def header_line(lines: Iterator[str]) -> str:
    """The first line of a table, but for the one in which Excel is told the separator; VIA 3's is in a remark."""
    first = next(lines, "")
    if first.startswith("# Exported using VGG Image Annotator"):
        return next((line for line in lines if "CSV_HEADER" in line), "").partition("=")[2]
    return next(lines, "") if re.match(r'"?sep=', first, re.IGNORECASE) else first


def columns_of(head: str) -> Sequence[str]:
    """The columns of a table, by its beginning."""
    return header_of(header_line(iter(head.splitlines()))).columns


def read_rows(folder: DataFolder, file: str) -> Iterator[Row]:
    """The rows of a table; a UserError if it can't be read."""
    lines = folder.lines(file)
    first = header_line(lines)
    separator, columns, is_written = header_of(first)
    rows = lines if is_written else chain([first], lines)
    try:
        for values in csv.reader(rows, delimiter=separator, skipinitialspace=True, strict=True):
            if separator != ",":  # decimal commas
                values = [re.sub(r"^\s*(-?\d+),(\d+)\s*$", r"\1.\2", value) for value in values]
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
    class_name: str | None  # None: all objects are of one class
    sides: Sequence[str]
    kind: str  # of sides, a key of `SIDES`
    size_hw: tuple[str | None, str | None]  # of the image
    split: str | None
    fractions: bool


def meaning_of(columns: Sequence[str]) -> Meaning | None:
    """What the columns of a table mean; None unless there is one for the image, the class and each side of the box."""

    def first_of(names: Iterable[str]) -> str | None:
        return next((name for name in names if name in columns), None)

    image, class_name = first_of(IMAGE), first_of(CLASS)
    sides, kind = _sides_of(columns)
    known = {*IMAGE, *HEIGHT, *WIDTH, *SPLIT, *NO_CLASS, *sides}
    if image is None or not sides or (class_name is None and not known.issuperset(columns)):
        return None
    height, width = (first_of(name for name in names if name not in sides) for names in (HEIGHT, WIDTH))
    return Meaning(image, class_name, sides, kind, (height, width), first_of(SPLIT), columns is VERTEX)


def _sides_of(columns: Sequence[str]) -> tuple[Sequence[str], str]:
    """The columns of the box, and the kind of it; none if there is no box."""
    for kind, possible in SIDES.items():
        for names in possible:
            spelled = [[*(before + name for before in OF_BOX), name] for name in names]
            sides = [next((name for name in one if name in columns), "") for one in spelled]
            if all(sides) and not _has_size_of_image(columns, sides):
                return sides, kind
    return (), ""


def _has_size_of_image(columns: Sequence[str], sides: Sequence[str]) -> bool:
    """True where the width and the height among the sides seem to be those of the image.

    So they are if they stand before the corner and are the first size in the table. But they are the box's if they
    stand next to the corner and not next to the image, or if the columns are sorted, which tells nothing.
    """
    if sides[-1] not in ("h", "height"):
        return False
    width, height = sides[-2:]
    corner, last = columns.index(sides[0]), columns.index(height)
    first = min(columns.index(width), last)
    others = [name for name in (*HEIGHT, "h") if name in columns and name != height]
    if corner < last or any(name.startswith("im") or columns.index(name) < last for name in others):
        return False
    is_beside_corner = corner - first == 2 and columns[max(first - 1, 0)] not in IMAGE
    return not is_beside_corner and list(columns) != sorted(columns)


def is_table(head: str, with_class: bool = False) -> bool:
    """True for the beginning of a table of objects, or of those with a class, that is not Open Images'."""
    columns = columns_of(head)
    of_open_images = {"imageid", "labelname"} <= set(columns) and any(name.endswith("xmin") for name in columns)
    meaning = None if of_open_images else meaning_of(columns)
    return meaning is not None and (not with_class or meaning.class_name is not None)


def what_lacks(head: str) -> str:
    """The columns of a table and which of the needed ones lack, for messages; "" if none lacks."""
    line = header_line(iter(head.splitlines()))
    separator, columns, _ = header_of(line)
    is_there = {"image": {*IMAGE} & {*columns}, "class": {*CLASS} & {*columns}, "box": _sides_of(columns)[0]}
    written = shown(", ".join(word.strip(' "') for word in line.split(separator)))
    lacking = " or ".join(what for what, there in is_there.items() if not there)
    expected = "filename, class, and xmin, ymin, xmax, ymax or x, y, bbox_width, bbox_height or bbox"
    return (
        f"has the columns {written}, but none of the {lacking}; expected {expected}" if lacking and line.strip() else ""
    )


def find_csv(folder: DataFolder) -> CsvSource | None:
    """The tables of a folder that have the columns of objects; those without a class only where none has one."""
    for extensions in ((".csv", ".tsv"), (".txt",)):
        for is_like in (partial(is_table, with_class=True), is_table):
            if files := folder.annotations_like(is_like, *extensions):
                return CsvSource(folder, files)
    return None


class CsvSource(FilesSource):
    """Tables, each of many images."""

    tool = "CSV"

    @property
    def splits(self) -> list[str]:
        return sorted({split for splits in self._splits_in.values() for split in splits})

    @cached_property
    def _meanings(self) -> dict[str, Meaning]:
        """File -> what its columns mean; of two for the class, that with names counts, and not that with numbers."""
        found = {}
        for file in self.files:
            meaning = meaning_of(columns_of(self.folder.head(file)))
            if meaning is not None and meaning.class_name in CLASS_NAME:
                first = next(read_rows(self.folder, file), {})
                named = (name for name in CLASS_NAME if first.get(name) and numbers_of([first[name]]) is None)
                meaning = meaning._replace(class_name=next(named, meaning.class_name))
            if meaning is not None:
                found[file] = meaning
        return found

    @cached_property
    def with_confidence(self) -> bool:
        return all({"score", "confidence"} & {*columns_of(self.folder.head(file))} for file in self.files)

    @cached_property
    def _splits_in(self) -> dict[str, set[str]]:
        """File -> the splits of its rows; a column names them where one of its words means a split."""
        found = {}
        for file, meaning in self._meanings.items():
            named = (
                {_split_named(row, meaning) for row in read_rows(self.folder, file)} if meaning.split else set[str]()
            )
            found[file] = named if any(map(is_split, named)) else {self._split_of(file)}
        return found

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for file, meaning in self._meanings.items():
            if split not in (splits := self._splits_in[file]):
                continue
            rows_of = images_of_rows(read_rows(self.folder, file), meaning.image, file, faults)
            meaning, nameless = self._settled(file, meaning, chain.from_iterable(rows_of.values())), 0
            for key, every_row in rows_of.items():
                of_split = [one for one in every_row if len(splits) == 1 or _split_named(one[1], meaning) == split]
                path = faults.find_image(key, file) if of_split else None
                if path is None:
                    continue
                objects: list[AnnotatedObject] = []
                for number, row in of_split:
                    name = row.get(meaning.class_name) if meaning.class_name else ONLY_CLASS
                    if any(_texts(row, meaning)):
                        objects += objects_of(faults, file, number, name, *_box(row, meaning, file))
                        nameless += meaning.class_name is None
                    elif name and meaning.class_name:
                        faults.without_box[name] += 1
                size_hw = whole_size(*(of_split[0][1].get(side) if side else None for side in meaning.size_hw))
                yield AnnotatedImage(file, path, objects, size_hw, fractions=meaning.fractions)
            if nameless:
                message = f"{nameless:,} objects have no column for a class, so they are of the class {ONLY_CLASS!r}"
                faults.report(file, "class-not-given", message, "notice")

    def _settled(self, file: str, meaning: Meaning, rows: Iterable[tuple[int, Row]]) -> Meaning:
        """The meaning where four numbers in a column may be two corners, or a corner and a size.

        Raises:
            UserError: nothing tells which.
        """
        if meaning.kind != "list":
            return meaning
        boxes = [box for _, row in rows if len(box := numbers_of(_texts(row, meaning)) or ()) == 4]
        no_corners = sum(c <= a or d <= b for a, b, c, d in boxes)
        if boxes and 20 * no_corners <= len(boxes):  # few of them may be broken
            raise UserError(
                f"{self.folder.root / file}: the numbers of {meaning.sides[0]} may be corners, or x, y, width, height; "
                "call the column bbox_xyxy or bbox_xywh"
            )
        return meaning._replace(kind="corner and size")


def _split_named(row: Row, meaning: Meaning) -> str:
    return row.get(meaning.split or "") or ALL


def _is_tensorflow(file: str, meaning: Meaning) -> bool:
    """True where pixels count from 1, as in the VOC annotations that such a table is made of."""
    columns = (meaning.image, meaning.class_name, *meaning.sides)
    return columns == ("filename", "class", *CORNERS[0]) and not file.lower().endswith("_annotations.csv")


def _texts(row: Row, meaning: Meaning) -> list[str]:
    """The numbers of a box as they are written, in columns or as `[1, 2, 3, 4]` in one."""
    texts = [row.get(side, "") for side in meaning.sides]
    return re.findall(r"[^\s,;()\[\]]+", texts[0]) if len(texts) == 1 else texts


def _box(row: Row, meaning: Meaning, file: str) -> tuple[Box | None, str]:
    """The box of a row, and how it is written."""
    texts = _texts(row, meaning)
    written = ", ".join(f"{side} {row.get(side, '')[:40] or 'nothing'}" for side in meaning.sides)
    if meaning.kind == "four corners":
        corners = [corner for corner in zip(texts[::2], texts[1::2], strict=True) if any(corner)]
        return (box_around_corners(corners) if len(corners) in (2, 4) else None), written
    numbers = numbers_of(texts)
    if numbers is None or len(numbers) != 4:
        return None, written
    a, b, c, d = numbers
    if meaning.kind == "center and size":
        return (a - c / 2, b - d / 2, a + c / 2, b + d / 2), written
    if meaning.kind == "corner and size":
        return (a, b, a + c, b + d), written
    first = 1.0 if _is_tensorflow(file, meaning) else 0.0
    return (a - first, b - first, c, d), written
