"""CVAT for images 1.1: one XML file for many images, with boxes, polygons, ellipses and masks in pixels from 0.

Boxes and ellipses may be turned around their centre: the upright box around them is taken. Points, polylines, skeletons
and tags are no objects. The classes are the labels of `<meta>`, in that order; the splits are CVAT's subsets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from onestage.data.folder import DataFolder, shown
from onestage.data.formats.voc import parse_xml
from onestage.data.reading import (
    ALL,
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    name_of,
    numbers_of,
    objects_of,
    whole_size,
)
from onestage.data.shapes import box_around_corners, box_of_ellipse, turned_by
from onestage.errors import UserError
from onestage.structures import Categories

MAX_XML_BYTES = 1 << 30
WITHOUT_BOX = ("points", "polyline", "skeleton", "tag")


class CvatImage(NamedTuple):
    """An `<image>`: its attributes, and (tag, attributes) of its shapes."""

    attributes: Mapping[str, str]
    shapes: list[tuple[str, Mapping[str, str]]]


class CvatFile:
    """What a parser fills, without a tree, from one XML file: labels and images."""

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.images: list[CvatImage] = []
        self._path: list[str] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._text.clear()
        if self._path == ["annotations", "track"]:
            raise ValueError('it is "CVAT for video" (it has tracks), which is not read; export "CVAT for images 1.1"')
        if self._path == ["annotations", "image"]:
            self.images.append(CvatImage(attributes, []))
        elif len(self._path) == 3 and self._path[:2] == ["annotations", "image"]:
            self.images[-1].shapes.append((tag, attributes))

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        if self._path[1:2] == ["meta"] and self._path[-2:] == ["label", "name"]:
            self.labels.append("".join(self._text).strip())
        self._text.clear()
        self._path.pop()


def find_cvat(folder: DataFolder) -> CvatSource | None:
    """The XML files of a folder that are CVAT's."""
    files = folder.annotations_like(is_cvat, ".xml")
    return CvatSource(folder, files) if files else None


def is_cvat(head: str) -> bool:
    """True for the beginning of CVAT's XML."""
    return bool(re.search(r"<annotations[\s>]", head) and re.search(r"<(meta|image|track)[\s>]", head))


class CvatSource(FilesSource):
    """The XML files of a folder, each of many images."""

    tool = "CVAT for images"

    @cached_property
    def _content(self) -> dict[str, CvatFile]:
        """File -> what is in it."""
        found = {file: CvatFile() for file in self.files}
        for file, content in found.items():
            try:
                parse_xml(self.folder.read(file, MAX_XML_BYTES), content)
            except ValueError as error:
                raise UserError(f"{self.folder.root / file}: {error}") from error
        return found

    @property
    def splits(self) -> list[str]:
        found = {self._split_of(file, image) for file, content in self._content.items() for image in content.images}
        return sorted(found) or [ALL]

    def categories(self, split: str) -> Categories | None:
        names = [name_of(label) for content in self._content.values() for label in content.labels]
        return Categories.from_names(dict.fromkeys(filter(None, names))) if any(names) else None

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for file, content in self._content.items():
            for number, image in enumerate(content.images, start=1):
                if self._split_of(file, image) != split:
                    continue
                name = image.attributes.get("name", "")
                path = faults.find_image(name, file)
                if path is not None:
                    place = f"{file}, image {image.attributes.get('id', number)}"
                    size_hw = whole_size(image.attributes.get("height"), image.attributes.get("width"))
                    objects = list(_objects(place, image, faults))
                    yield AnnotatedImage(place, path, objects, size_hw)

    def _split_of(self, file: str, image: CvatImage) -> str:
        subset = image.attributes.get("subset", "").strip()
        return subset if subset.lower() not in ("", "default") else self.folder.split_of(file) or ALL


def _objects(place: str, image: CvatImage, faults: Faults) -> Iterator[AnnotatedObject]:
    for number, (tag, attributes) in enumerate(image.shapes, start=1):
        if tag in WITHOUT_BOX:
            faults.without_box[tag] += 1
        else:
            sides = {key: text for key, text in attributes.items() if key not in ("label", "source", "rle")}
            written = f"<{tag}> with {shown(sides)}"
            yield from objects_of(faults, place, number, attributes.get("label"), _box(tag, attributes), written)


def _box(tag: str, attributes: Mapping[str, str]) -> Box | None:
    """The upright box of a shape; None for a shape of unknown kind, or without its numbers."""
    if tag == "polygon":
        return box_around_corners([point.split(",") for point in attributes.get("points", "").split(";")])
    if tag == "cuboid":
        ends = [key[1:] for key in attributes if re.fullmatch(r"x[tb][lr][12]", key)]
        return box_around_corners([(attributes[f"x{end}"], attributes.get(f"y{end}", "")) for end in ends])
    keys = {"box": "xtl ytl xbr ybr", "ellipse": "cx cy rx ry", "mask": "left top width height"}.get(tag, "")
    sides = numbers_of([*(attributes.get(key, "") for key in keys.split()), attributes.get("rotation", "0")])
    if not keys or sides is None:
        return None
    a, b, c, d, degrees = sides
    if tag == "ellipse":
        return box_of_ellipse(a, b, c, d, degrees)
    return turned_by((a, b, c, d), degrees) if tag == "box" else (a, b, a + c, b + d)
