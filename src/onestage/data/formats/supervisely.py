"""Supervisely: `meta.json` with the classes, and `DATASET/ann/NAME.jpg.json` for each `DATASET/img/NAME.jpg`.

The right and bottom pixels of a rectangle belong to it; corners of polygons are points. Bitmaps, points and lines have
no corners here and are no objects (Supervisely, "Supervisely format").
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from onestage.data.folder import DataFolder, folder_of, shown, stem_of
from onestage.data.reading import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    name_of,
    objects_of,
    read_record,
    report_shapes_without_box,
    whole_size,
)
from onestage.data.shapes import box_around_corners
from onestage.errors import UserError
from onestage.structures import Categories


def find_supervisely(folder: DataFolder) -> SuperviselySource | None:
    """The JSON files in folders called `ann`, if the first of them are Supervisely's."""
    files = [file for file in folder.annotations(".json") if re.search(r"(^|/)ann$", folder_of(file))]
    fits = any(is_supervisely(folder.head(file)) for file in files[:5])
    return SuperviselySource(folder, files) if fits else None


def is_supervisely(head: str) -> bool:
    """True for the beginning of a file of objects and the image's size."""
    return bool(re.search(r'"objects"\s*:\s*\[', head) and re.search(r'"(classTitle|size)"', head))


class SuperviselySource(FilesSource):
    """JSON files, one an image."""

    tool = "Supervisely"
    one_image_each = True

    def categories(self, split: str) -> Categories | None:
        """The classes of `meta.json`, in that order; None without it."""
        names: dict[str, None] = {}
        for file in self.folder.files:
            if file.rpartition("/")[2].lower() == "meta.json":
                meta = self.folder.read_json(file)
                classes = meta.get("classes") if isinstance(meta, dict) else None
                for record in classes if isinstance(classes, list) else [classes]:
                    name = name_of(record.get("title")) if isinstance(record, dict) else None
                    if name is None:
                        message = f"the class {shown(record)} has no title; give each class one"
                        raise UserError(f"{self.folder.root / file}: {message}")
                    names[name] = None
        return Categories.from_names(names) if names else None

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        without_box: Counter[str] = Counter()
        for file in self.of_split(split):
            if (record := read_record(faults, file)) is None:
                continue
            objects, size = record.get("objects"), record.get("size")
            if not isinstance(objects, list):
                faults.report(file, "annotation", f"objects is {shown(objects)}, expected a list; write it again")
            elif (path := faults.find_image(stem_of(file), file)) is not None:
                sides = size if isinstance(size, dict) else {}
                size_hw = whole_size(sides.get("height"), sides.get("width"))
                yield AnnotatedImage(file, path, list(_objects(file, objects, faults, without_box)), size_hw)
        report_shapes_without_box(faults, "Supervisely", without_box)


def _objects(file: str, records: list[Any], faults: Faults, without_box: Counter[str]) -> Iterator[AnnotatedObject]:
    for number, record in enumerate(records, start=1):
        values = record if isinstance(record, dict) else {}
        kind, points = values.get("geometryType"), values.get("points")
        if isinstance(kind, str) and kind not in ("rectangle", "polygon"):
            without_box[kind] += 1
            continue
        corners = points.get("exterior") if isinstance(points, dict) else None
        box = _box(kind, corners)
        written = f"{shown(kind)} with the points {shown(corners)}"
        yield from objects_of(faults, file, number, values.get("classTitle"), box, written)


def _box(kind: object, corners: object) -> Box | None:
    box = box_around_corners(corners)
    if box is None or kind not in ("rectangle", "polygon"):
        return None
    last = 1.0 if kind == "rectangle" else 0.0
    return box[0], box[1], box[2] + last, box[3] + last
