"""Odd values in the annotations of every format: each object is in the table or named, never dropped in silence."""

from __future__ import annotations

import csv
import io
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
from drawings import CLASSES, put
from folders import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import NAMES

from onestage.data import FORMATS, read_dataset
from onestage.data.validate import Problem
from onestage.data_options import DataOptions
from onestage.errors import UserError

MISSING = object()
ODD = [MISSING, None, "", " ", "x", "12", "1e3", True, math.nan, math.inf, -math.inf, 10**400, 1e300, -5, 0, 7.5, 12,
       [1], [[1, 2], [3]], {}, {"a": None}, "cat", "dog,\"cat\"", "<b>&amp;", "\ud800"]  # fmt: skip
KEYS = ("label", "x0", "y0", "x1", "y1")
Values = dict[str, Any]
GOOD: Values = {"label": "cat", "x0": 10, "y0": 20, "x1": 40, "y1": 50}
odd_objects = st.lists(
    st.fixed_dictionaries({key: st.one_of(st.just(GOOD[key]), st.sampled_from(ODD)) for key in KEYS}), max_size=4
)


def there(values: Values) -> Values:
    return {key: value for key, value in values.items() if value is not MISSING}


def word(value: object) -> str:
    return "" if value is MISSING else str(value).encode("utf-8", errors="replace").decode()


def fraction(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return str(value / 100) if is_number else word(value)


def sides(one: Values) -> list:
    return [one[key] for key in KEYS[1:] if one[key] is not MISSING]


def points(one: Values) -> list:
    return [
        [value for value in pair if value is not MISSING] for pair in ((one["x0"], one["y0"]), (one["x1"], one["y1"]))
    ]


def named(one: Values, *keys: str) -> Values:
    """The sides of a box under a tool's names."""
    return there({key: one[side] for key, side in zip(keys, KEYS[1:], strict=True)})


def lines(root: Path, path: str, rows: list[list[str]]) -> int:
    """Write words with spaces between them; the number of lines that have any."""
    texts = [" ".join(row) for row in rows]
    put(root, path, "".join(f"{text}\n" for text in texts))
    return sum(bool(text.strip()) for text in texts)


def as_yolo(root: Path, objects: list[Values]) -> int:
    put(root, "data.yaml", f"train: images\n{NAMES}")
    labels = {name: str(number) for number, name in enumerate(CLASSES)}
    named = (labels.get(text, text) for text in (word(one["label"]) for one in objects))
    rows = [[label, *(fraction(one[key]) for key in KEYS[1:])] for label, one in zip(named, objects, strict=True)]
    return lines(root, "labels/a.txt", rows)


def as_kitti(root: Path, objects: list[Values]) -> int:
    rows = [[word(one["label"]), "0", "0", "0", *(word(one[key]) for key in KEYS[1:]), *"1111111"] for one in objects]
    return lines(root, "label_2/a.txt", rows)


def as_voc(root: Path, objects: list[Values]) -> int:
    text = ""
    for one in objects:
        box = named(one, "xmin", "ymin", "xmax", "ymax")
        tags = "".join(f"<{tag}>{escape(word(value))}</{tag}>" for tag, value in box.items())
        name = f"<name>{escape(word(one['label']))}</name>" if one["label"] is not MISSING else ""
        text += f"<object>{name}<bndbox>{tags}</bndbox></object>"
    put(root, "a.xml", f"<annotation>{text}</annotation>")
    return len(objects)


def as_cvat(root: Path, objects: list[Values]) -> int:
    boxes = [there({"label": one["label"]}) | named(one, "xtl", "ytl", "xbr", "ybr") for one in objects]
    texts = (" ".join(f"{key}={quoteattr(word(value))}" for key, value in box.items()) for box in boxes)
    text = "".join(f"<box {attributes}/>" for attributes in texts)
    put(root, "annotations.xml", f'<annotations><image id="1" name="a.png">{text}</image></annotations>')
    return len(objects)


def as_coco(root: Path, objects: list[Values]) -> int:
    annotations = [
        {"image_id": 3, "bbox": sides(one)}
        | there({"category_id": 1 if isinstance(one["label"], str) and one["label"] == "cat" else one["label"]})
        for one in objects
    ]
    images, categories = [{"id": 3, "file_name": "a.png"}], [{"id": 1, "name": "cat"}]
    put(root, "coco.json", {"images": images, "annotations": annotations, "categories": categories})
    return len(objects)


def as_labelme(root: Path, objects: list[Values]) -> int:
    shapes = [there({"label": one["label"], "shape_type": "rectangle"}) | {"points": points(one)} for one in objects]
    put(root, "a.json", {"imagePath": "a.png", "shapes": shapes})
    return len(objects)


def as_via(root: Path, objects: list[Values]) -> int:
    boxes = [{"name": "rect", **named(one, "x", "y", "width", "height")} for one in objects]
    regions = [
        {"shape_attributes": box, "region_attributes": there({"class": one["label"]})}
        for box, one in zip(boxes, objects, strict=True)
    ]
    put(root, "via.json", {"a.png7": {"filename": "a.png", "regions": regions}})
    return len(objects)


def as_label_studio(root: Path, objects: list[Values]) -> int:
    labels = ({} if one["label"] is MISSING else {"rectanglelabels": [one["label"]]} for one in objects)
    values = [named(one, "x", "y", "width", "height") | label for one, label in zip(objects, labels, strict=True)]
    results = [{"type": "rectanglelabels", "value": value} for value in values]
    put(root, "tasks.json", [{"data": {"image": "a.png"}, "annotations": [{"result": results}]}])
    return len(objects)


def as_createml(root: Path, objects: list[Values]) -> int:
    boxes = [
        {"coordinates": named(one, "x", "y", "width", "height")} | there({"label": one["label"]}) for one in objects
    ]
    put(root, "annotations.json", [{"image": "a.png", "annotations": boxes}])
    return len(objects)


def as_supervisely(root: Path, objects: list[Values]) -> int:
    kind = {"geometryType": "rectangle"}
    figures = [{**kind, "points": {"exterior": points(one)}, **there({"classTitle": one["label"]})} for one in objects]
    put(root, "ds/ann/a.png.json", {"size": {"height": 1e400, "width": "x"}, "objects": figures})
    return len(objects)


def as_table(header: str, file: str, image: str) -> Callable[[Path, list[Values]], int]:
    def write(root: Path, objects: list[Values]) -> int:
        text = io.StringIO()
        form = fraction if "XMin" in header else word
        rows = [[image, word(one["label"]), *(form(one[key]) for key in KEYS[1:])] for one in objects]
        csv.writer(text).writerows([header.split(","), *rows])
        put(root, file, text.getvalue())
        blank = 0 if "XMin" in header else sum(not "".join(row[1:]).strip() for row in rows)  # no label and no side
        return len(objects) - blank

    return write


WRITTEN: dict[str, Callable[[Path, list[Values]], int]] = {
    "yolo": as_yolo,
    "kitti": as_kitti,
    "voc": as_voc,
    "cvat": as_cvat,
    "coco": as_coco,
    "labelme": as_labelme,
    "via": as_via,
    "label-studio": as_label_studio,
    "createml": as_createml,
    "supervisely": as_supervisely,
    "csv": as_table("filename,class,xmin,ymin,xmax,ymax", "labels.csv", "a.png"),
    "open-images": as_table("ImageID,LabelName,XMin,YMin,XMax,YMax", "all-annotations-bbox.csv", "a"),
}


def said_to_be_left_out(problems: list[Problem]) -> int:
    """How many objects the problems say are not in the table."""
    numbers = {one.object_number for one in problems if one.severity == "error" or one.kind == "duplicate-object"}
    shapes = (count for one in problems if one.kind == "no-box" for count in re.findall(r"(\d+) '", one.message))
    return len(numbers - {None}) + sum(map(int, shapes))


def test_odd_values_are_tried_in_every_format() -> None:
    assert set(WRITTEN) == set(FORMATS)


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=30)
@given(objects=odd_objects)
def test_of_objects_with_odd_values_each_is_in_the_table_or_named(name: str, objects: list[Values]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_image(root / "images" / "a.png")
        written = WRITTEN[name](root, [GOOD, *objects])
        split = "train" if name == "yolo" else "all"
        try:
            table, problems = read_dataset(root, split, options=DataOptions(format=name))
        except UserError:
            return  # the whole file is refused
        assert len(table.labels) + said_to_be_left_out(problems) == written
        assert np.isfinite(table.boxes_xyxy).all()
        assert (table.boxes_xyxy[:, 2:] > table.boxes_xyxy[:, :2]).all()
        assert (table.boxes_xyxy >= 0).all()
        assert (table.boxes_xyxy <= (80, 60, 80, 60)).all()
