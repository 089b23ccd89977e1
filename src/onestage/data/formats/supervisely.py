"""Supervisely: `meta.json` with the classes, and `DATASET/ann/NAME.jpg.json` for each `DATASET/img/NAME.jpg`.

The right and bottom pixels of a rectangle belong to it; corners of polygons are points. A bitmap is a PNG in zlib in
base64; the object's pixels are those that are not transparent or, where none is, not black. Points and lines are no
objects (Supervisely, "Supervisely format").
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool

from onestage.data.folder import DataFolder, folder_of, shown, stem_of
from onestage.data.reading import (
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    FilesSource,
    name_of,
    numbers_of,
    objects_of,
    read_record,
    whole_size,
)
from onestage.data.shapes import UnreadShapeError, box_around_corners
from onestage.errors import UserError
from onestage.runtime.decode import MAX_PIXELS, ImageError, decode_image
from onestage.structures import Categories

BITMAPS = ("bitmap", "alpha_mask")
MAX_BITMAP_BYTES = 64 << 20  # of a PNG, unpacked


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
        for file in self.of_split(split):
            if (record := read_record(faults, file)) is None:
                continue
            objects, size = record.get("objects"), record.get("size")
            if not isinstance(objects, list):
                faults.report(file, "annotation", f"objects is {shown(objects)}, expected a list; write it again")
            elif (path := faults.find_image(stem_of(file), file)) is not None:
                sides = size if isinstance(size, dict) else {}
                size_hw = whole_size(sides.get("height"), sides.get("width"))
                max_pixels = min(size_hw[0] * size_hw[1], MAX_PIXELS) if size_hw else MAX_PIXELS
                try:
                    found = list(_objects(file, objects, faults, max_pixels))
                except UnreadShapeError as error:
                    faults.report(file, "annotation", str(error))
                    continue
                yield AnnotatedImage(file, path, found, size_hw)


def _objects(file: str, records: list[Any], faults: Faults, max_pixels: int) -> Iterator[AnnotatedObject]:
    """The objects of an image; an UnreadShapeError for a bitmap that can't be decoded, or has more pixels than that."""
    for number, record in enumerate(records, start=1):
        values = record if isinstance(record, dict) else {}
        kind, points = values.get("geometryType"), values.get("points")
        corners = points.get("exterior") if isinstance(points, dict) else None
        if isinstance(kind, str) and kind not in ("rectangle", "polygon", *BITMAPS):
            faults.without_box[kind] += 1
            continue
        box = _box_of_bitmap(values.get("bitmap"), max_pixels) if kind in BITMAPS else _box(kind, corners)
        if kind in BITMAPS and box is None:
            raise UnreadShapeError(f"object {number} is a bitmap that can't be decoded; draw a box around it")
        written = f"{shown(kind)} with the points {shown(corners)}"
        yield from objects_of(faults, file, number, values.get("classTitle"), box, written)


def _box(kind: object, corners: object) -> Box | None:
    box = box_around_corners(corners)
    if box is None or kind not in ("rectangle", "polygon"):
        return None
    last = 1.0 if kind == "rectangle" else 0.0
    return box[0], box[1], box[2] + last, box[3] + last


def _box_of_bitmap(bitmap: object, max_pixels: int) -> Box | None:
    """The box of the painted pixels, or of all if none is; None for what can't be decoded."""
    values = bitmap if isinstance(bitmap, dict) else {}
    origin = values.get("origin")
    corner = numbers_of(origin) if isinstance(origin, list) else None
    if corner is None or len(corner) != 2:
        return None
    try:
        png = zlib.decompressobj().decompress(b64decode(values.get("data", "")), MAX_BITMAP_BYTES)
        painted = _painted(png, max_pixels)
    except (ImageError, cv2.error, zlib.error, ValueError, TypeError):
        return None
    painted |= not painted.any()
    (left, right), (top, bottom) = (np.flatnonzero(np.any(painted, axis=axis))[[0, -1]].tolist() for axis in (0, 1))
    x, y = corner
    return x + left, y + top, x + right + 1, y + bottom + 1


def _painted(png: bytes, max_pixels: int) -> Bool[np.ndarray, "H W"]:
    """The pixels that are not transparent, as Supervisely takes them; where none is, those that are not black."""
    pixels = decode_image(png, max_pixels=max_pixels)
    stored = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png.startswith(b"\x89PNG") else None
    if stored is not None and stored.shape[2:] == (4,) and not stored[:, :, 3].all():
        return stored[:, :, 3] > 0
    return pixels.max(axis=2) > 0
