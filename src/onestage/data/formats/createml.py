"""CreateML: a JSON list of images, each with its objects: a label, and the centre and size of the box in pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from onestage.data.folder import DataFolder, shown
from onestage.data.reading import (
    AnnotatedImage,
    AnnotatedObject,
    Faults,
    FilesSource,
    numbers_of,
    objects_of,
    read_list,
)

IMAGE_KEYS, LIST_KEYS = ("image", "imagefilename"), ("annotations", "annotation")


def find_createml(folder: DataFolder) -> CreatemlSource | None:
    """The JSON files of a folder that hold a list of images with coordinates."""
    files = folder.annotations_like(is_createml, ".json")
    return CreatemlSource(folder, files) if files else None


def is_createml(head: str) -> bool:
    """True for the beginning of a list of images with coordinates."""
    return head.lstrip().startswith("[") and '"coordinates"' in head and bool(re.search(r'"image(filename)?"', head))


class CreatemlSource(FilesSource):
    """JSON files, each of many images."""

    tool = "CreateML"

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for file in self.of_split(split):
            for number, record in enumerate(read_list(self.folder, file), start=1):
                values = record if isinstance(record, dict) else {}
                name = next((values[key] for key in IMAGE_KEYS if key in values), None)
                annotations = next((values[key] for key in LIST_KEYS if key in values), None)
                if not isinstance(name, str) or not isinstance(annotations, list):
                    message = f"image {number} is {shown(record)}, expected its image and its annotations"
                    faults.report(file, "annotation", message)
                elif (path := faults.find_image(name, file)) is not None:
                    place = f"{file}, image {number}"
                    yield AnnotatedImage(place, path, list(_objects(place, annotations, faults)))


def _objects(place: str, annotations: list[Any], faults: Faults) -> Iterator[AnnotatedObject]:
    for number, annotation in enumerate(annotations, start=1):
        values = annotation if isinstance(annotation, dict) else {}
        coordinates = values.get("coordinates")
        box, known = None, coordinates if isinstance(coordinates, dict) else {}
        sides = numbers_of(known.get(key) for key in ("x", "y", "width", "height"))
        if sides is not None:
            cx, cy, width, height = sides
            box = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
        yield from objects_of(faults, place, number, values.get("label"), box, f"coordinates {shown(coordinates)}")
