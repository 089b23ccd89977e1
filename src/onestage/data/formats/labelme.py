"""labelme: a JSON file an image, with its shapes in pixels from 0.

A rectangle is two corners, whichever were drawn first; a circle is its centre and a point on it; of polygons, turned
boxes and masks the box around their points is taken. Points and lines are no objects (labelme, `shape.py`). Shapes of
one label and group are the parts of one object, and `__ignore__` is a region to ignore (labelme's `labelme2coco.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import hypot
from typing import Any

from onestage.data.folder import DataFolder, folder_of, shown, some_of, stem_of
from onestage.data.reading import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    box_around,
    objects_of,
    read_record,
    whole_size,
)
from onestage.data.shapes import box_around_corners, box_of_ellipse
from onestage.errors import UserError

IGNORED = "__ignore__"
WITHOUT_BOX = ("point", "points", "line", "linestrip")


def find_labelme(folder: DataFolder) -> LabelmeSource | None:
    """The JSON files of a folder, if the first of them are labelme's."""
    files = folder.annotations(".json")
    fits = any(is_labelme(folder.head(file)) for file in some_of(files))
    return LabelmeSource(folder, files) if fits else None


def is_labelme(head: str) -> bool:
    """True for the beginning of a file of shapes."""
    words = re.search(r'"(shape_type|imagePath|imageData|imageHeight)"', head)
    return head.lstrip().startswith("{") and bool(words and re.search(r'"shapes"\s*:\s*\[', head))


class LabelmeSource(FilesSource):
    """JSON files, one an image."""

    tool = "labelme"
    one_image_each = True

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for file in self.of_split(split):
            if (record := read_record(faults, file)) is None:
                continue
            shapes = record.get("shapes")
            if "shapes" not in record and not self.folder.images_of_stem(stem_of(file)):
                faults.report(file, "other-file", "it is none of labelme's; passed over", "notice")
            elif not isinstance(shapes, list):
                message = (
                    f"shapes is {shown(shapes)}, expected labelme's list; delete the file if it is none of labelme"
                )
                faults.report(file, "annotation", message)
            elif (path := _image_of(file, record.get("imagePath"), faults)) is not None:
                objects = _objects(file, shapes, faults)
                size_hw = whole_size(record.get("imageHeight"), record.get("imageWidth"))
                yield AnnotatedImage(file, path, objects, size_hw)


def _image_of(file: str, name: object, faults: Faults) -> str | None:
    """The image of `imagePath`; where that is none, or not there, the one that is called as the file is."""
    if isinstance(name, str):
        try:
            return faults.folder.find_image(name, folder_of(file), faults.split)
        except UserError:
            if not faults.folder.images_of_stem(stem_of(file)):
                return faults.find_image(name, file)
    return faults.find_image(stem_of(file), file)


def _objects(file: str, shapes: list[Any], faults: Faults) -> list[AnnotatedObject]:
    found: list[AnnotatedObject] = []
    first_of: dict[tuple[str | None, str], int] = {}  # label and group -> the place of its object in `found`
    for number, shape in enumerate(shapes, start=1):
        if not isinstance(shape, dict):
            faults.report(file, "annotation", f"{shown(shape)} is no shape; delete it", number=number)
            continue
        kind = shape.get("shape_type") or "polygon"  # labelme 3 wrote none
        if kind in WITHOUT_BOX:
            faults.without_box[str(kind)] += 1
            continue
        label, group, points = shape.get("label"), shape.get("group_id"), shape.get("points")
        written = f"{shown(kind)} with the points {shown(points)}"
        for one in objects_of(faults, file, number, label, _box(kind, points), written):
            place = len(found) if group is None else first_of.setdefault((one.name, str(group)), len(found))
            if place < len(found):
                parts = found[place].box_xyxy + one.box_xyxy
                found[place] = found[place]._replace(box_xyxy=box_around(parts) or one.box_xyxy)
            else:
                found.append(one._replace(name=None, ignored=True) if one.name == IGNORED else one)
    return found


def _box(kind: object, points: object) -> Box | None:
    box = box_around_corners(points)
    if kind != "circle" or box is None or not isinstance(points, list):
        return box
    (cx, cy), (x, y) = ((float(side) for side in point) for point in points[:2])
    radius = hypot(x - cx, y - cy)
    return box_of_ellipse(cx, cy, radius, radius)
