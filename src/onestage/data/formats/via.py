"""VGG Image Annotator, VIA 1 to 3: one JSON file of regions for many images, in pixels from 0, or a CSV file.

The class of a region is its attribute called class, label, category, name or type (the first that has a value in
the file), else its only attribute, or the only one that has; where that is a set of ticks, {"cat": true}, the one that
is ticked. An option that is called by a number is its description. The CSV has a row a region, with JSON in two of its
columns. Points and polylines are no objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from math import degrees
from typing import Any

from onestage.data.folder import DataFolder, shown, stem_of
from onestage.data.formats.csv_tables import columns_of, images_of_rows, read_rows
from onestage.data.reading import (
    ONLY_CLASS,
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    numbers_of,
    objects_of,
)
from onestage.data.shapes import box_around_corners, box_of_ellipse
from onestage.errors import UserError

CLASS_ATTRIBUTES = ("class", "label", "category", "name", "type")
WITHOUT_BOX = ("point", "polyline", "line")
SIDES = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
SHAPES_OF_3 = ("", "point", "rect", "circle", "ellipse", "line", "polyline", "polygon", "polygon")  # by VIA 3's numbers
Record = dict[str, Any]
Region = tuple[Any, ...]  # number, shape_attributes, region_attributes


def find_via(folder: DataFolder) -> ViaSource | None:
    """The JSON files of a folder that VIA wrote, else its CSV files."""
    files = folder.annotations_like(is_via, ".json") or folder.annotations_like(is_via_table, ".csv")
    return ViaSource(folder, files) if files else None


def is_via(head: str) -> bool:
    """True for the beginning of a project of VIA 2 or 3, or of its regions."""
    begins_with_image = re.match(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{', head)
    if '"_via_' in head or all(f'"{key}"' in head for key in ("vid_list", "loc_prefix")):
        return True
    return bool(begins_with_image and '"filename"' in head and '"regions"' in head)


def is_via_table(head: str) -> bool:
    """True for the beginning of a CSV with VIA's columns."""
    return "regionshapeattributes" in columns_of(head) or "CSV_HEADER = metadata_id" in head


class ViaSource(FilesSource):
    """JSON or CSV files, each of many images."""

    tool = "VGG VIA"

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        nameless = 0
        for file in self.of_split(split):
            records = self._table if file.lower().endswith(".csv") else self._records
            images = list(records(file, faults))
            filled = _filled(attributes for _, regions in images for _, _, attributes in regions)
            for name, regions in images:
                path = faults.find_image(name, file)
                if path is not None:
                    place = f"{file}, {stem_of(path)}"
                    nameless += sum(attributes in ({}, "") for _, _, attributes in regions)
                    yield AnnotatedImage(place, path, list(_objects(place, regions, filled, faults)))
        if nameless:
            message = f"{nameless:,} regions have no attributes, so they are of the class {ONLY_CLASS!r}"
            faults.report("VIA", "class-not-given", message, "notice")

    def _records(self, file: str, faults: Faults) -> Iterator[tuple[str, list[Region]]]:
        """The file name and the regions of each image of a JSON file."""
        content, options = self.folder.read_json(file), dict[str, Record]()
        if isinstance(content, dict) and "_via_img_metadata" in content:
            attributes = _records_of(_records_of(content, "_via_attributes"), "region")
            options = {key: _descriptions(one.get("options")) for key, one in attributes.items()}
            content = content["_via_img_metadata"]
        elif isinstance(content, dict) and {"file", "view", "metadata"} <= set(content):
            content = _as_of_version_2(content)
        if not isinstance(content, dict):
            raise UserError(f"{self.folder.root / file}: it holds {shown(content)}, expected VIA's images by name")
        for key, record in content.items():
            name, regions = (record.get("filename"), record.get("regions")) if isinstance(record, dict) else ("", None)
            if isinstance(regions, dict):  # VIA 1 numbers them
                regions = list(regions.values())
            if not isinstance(name, str) or not name or not isinstance(regions, list):
                message = f"the image {shown(key)} is {shown(record)}, expected its filename and its regions"
                faults.report(file, "annotation", message)
                continue
            found = [one if isinstance(one, dict) else {} for one in regions]
            pairs = [(one.get("shape_attributes"), one.get("region_attributes")) for one in found]
            for _, labels in pairs:
                if isinstance(labels, dict):
                    labels.update({key: _chosen(value, options.get(key)) for key, value in labels.items()})
            yield name, [(number, shape, labels) for number, (shape, labels) in enumerate(pairs, start=1)]

    def _table(self, file: str, faults: Faults) -> Iterator[tuple[str, list[Region]]]:
        """The file name and the regions of each image of a CSV file."""
        if "CSV_HEADER" in self.folder.head(file):  # of VIA 3
            for files, rows in images_of_rows(read_rows(self.folder, file), "filelist", file, faults).items():
                columns = ("spatialcoordinates", "metadata")
                regions = [(number, *(_json(row.get(column, "")) for column in columns)) for number, row in rows]
                shapes = [(number, _shape_of_version_3(one), named) for number, one, named in regions if _list(one)]
                yield str(next(iter(_list(_json(files))), files)), shapes
            return
        for name, rows in images_of_rows(read_rows(self.folder, file), "filename", file, faults).items():
            with_region = [(number, row) for number, row in rows if row.get("regioncount") != "0"]
            columns = ("regionshapeattributes", "regionattributes")
            yield name, [(number, *(_json(row.get(column, "")) for column in columns)) for number, row in with_region]


def _descriptions(options: object) -> Record:
    """Number -> description of the options of VIA 2; an id that is no number is the name itself."""
    known = options.items() if isinstance(options, dict) else ()
    return {number: text for number, text in known if number.isdecimal() and text not in ("", None)}


def _chosen(value: object, options: object) -> object:
    """A value, or a set of ticks, with the names of options for their numbers."""
    names = options if isinstance(options, dict) else {}
    if isinstance(value, dict):
        return {str(names.get(one, one)): tick for one, tick in value.items()}
    return names.get(str(value), value)


def _as_of_version_2(project: Record) -> Record:
    """The images of VIA 3's project as VIA 2 has them; a region belongs to a view, which is of one file here."""
    files, views, regions, attributes = (_records_of(project, key) for key in ("file", "view", "metadata", "attribute"))
    images = {number: {"filename": file.get("fname"), "regions": []} for number, file in files.items()}
    for region in regions.values():
        view, outline, values = views.get(str(region.get("vid")), {}), region.get("xy"), region.get("av")
        image = next((images[one] for one in map(str, _list(view.get("fid_list"))) if one in images), None)
        if image is None or not isinstance(outline, list) or not outline:  # of a whole image, or of a time
            continue
        named = {}
        for number, value in (values if isinstance(values, dict) else {}).items():
            attribute = attributes.get(number, {})
            named[str(attribute.get("aname", number))] = _chosen(value, attribute.get("options"))
        image["regions"].append({"shape_attributes": _shape_of_version_3(outline), "region_attributes": named})
    return images


def _shape_of_version_3(outline: list[Any]) -> Record:
    """A shape as VIA 2 writes it, of the number of its kind and its coordinates."""
    number, *sides = outline
    known = isinstance(number, int) and 0 <= number < len(SHAPES_OF_3)
    kind = SHAPES_OF_3[number] if known else shown(number)
    if kind == "polygon":
        return {"name": kind, "all_points_x": sides[0::2], "all_points_y": sides[1::2]}
    keys = SIDES.get(kind, ())
    sides += sides[-1:] * (len(keys) - len(sides))  # a circle has one radius
    return {"name": kind} | dict(zip(keys, sides, strict=False))


def _records_of(project: Record, key: str) -> dict[str, Record]:
    """The records of a part of a project, by their numbers."""
    part = project.get(key)
    records = part if isinstance(part, dict) else {}
    return {number: record for number, record in records.items() if isinstance(record, dict)}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _json(text: str) -> Any:
    """The value of a JSON text; the text itself if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _filled(attributes: Iterable[object]) -> set[str]:
    """The attributes that have a value in any region."""
    return {
        key for one in attributes if isinstance(one, dict) for key, value in one.items() if value not in ("", None, {})
    }


def _objects(place: str, regions: list[Region], filled: set[str], faults: Faults) -> Iterator[AnnotatedObject]:
    for number, shape, attributes in regions:
        kind = shape.get("name") if isinstance(shape, dict) else None
        if kind in WITHOUT_BOX:
            faults.without_box[str(kind)] += 1
            continue
        name = _class_of(attributes, filled)
        if name is attributes and isinstance(attributes, dict):
            what = f"of its attributes {shown(list(attributes))} none is called {', '.join(CLASS_ATTRIBUTES)}"
            faults.report(place, "annotation", f"{what}; rename the one that is the class", number=number)
            continue
        box = _box(shape) if isinstance(shape, dict) else None
        yield from objects_of(faults, place, number, name, box, f"the region {shown(shape)}")


def _box(shape: Mapping[str, Any]) -> Box | None:
    kind = shape.get("name")
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
            return box_around_corners(list(zip(xs, ys, strict=True)))
    keys = SIDES.get(kind, ()) if isinstance(kind, str) else ()
    sides = numbers_of([*(shape.get(key) for key in keys), shape.get("theta", 0.0)])
    if not keys or sides is None:
        return None
    x, y, width, height, turn = sides
    return (x, y, x + width, y + height) if kind == "rect" else box_of_ellipse(x, y, width, height, degrees(turn))


def _class_of(attributes: object, filled: set[str]) -> object:
    """The class among the attributes of a region; the attributes themselves where none of them is one.

    `filled` are those that have a value in any region of the file.
    """
    if attributes in ({}, ""):
        return ONLY_CLASS
    if not isinstance(attributes, dict):
        return attributes
    own = {key.strip().lower(): key for key in attributes}
    usual = [own[key] for key in CLASS_ATTRIBUTES if key in own]
    alone = [key for key in attributes if len(attributes) == 1 or key in filled]
    keys = [key for key in usual if key in filled][:1] or usual[:1] or alone
    value = attributes[keys[0]] if len(keys) == 1 else attributes
    ticked = [key for key, tick in value.items() if tick is True] if isinstance(value, dict) else []
    return ticked[0] if len(ticked) == 1 else value
