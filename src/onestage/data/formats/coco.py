"""COCO folders: `annotations/instances_SPLIT.json`, and the images in `SPLIT/`, `images/SPLIT/`, `images/` or beside.

Roboflow's `SPLIT/_annotations.coco.json` is read too. Boxes are (x, y, width, height), 0-based. Category ids may be
sparse: labels follow their order (COCO data format, "annotations"). `iscrowd` objects are `ignored`; of a segment only
its box and its `area` are used.

Ids written as 7, 7.0 or "7" are the same id. Annotation ids are not used, so 0 and repeated ones do no harm.
"""

import json
import re
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any

from onestage.data.reading import DataFolder, ImageObjects, OutsideError, SplitBuilder, shown, whole_size
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.errors import UserError
from onestage.structures import Categories

MAX_JSON_BYTES = 4 << 30
Record = dict[str, Any]


def coco_splits(root: str | Path) -> list[str]:
    """The splits that a COCO folder has annotations of, sorted."""
    root = Path(root)
    splits = [path.stem.removeprefix("instances_") for path in root.glob("annotations/instances_*.json")]
    return sorted({*splits, *(path.parent.name for path in root.glob("*/_annotations.coco.json"))})


def read_coco(root: str | Path, split: str, categories: Categories | None = None) -> tuple[Table, list[Problem]]:
    """Read one split; see `read_dataset`. `categories` None takes the file's own, in the order of their ids."""
    builder = SplitBuilder(root, split, "coco")
    folder = builder.folder
    names = (f"annotations/instances_{split}.json", f"{split}/_annotations.coco.json")
    file = folder.first_existing(names) or names[0]
    content = _load(folder, file)
    own = _own_categories(f"{folder.root / file}", content["categories"])
    class_names = dict(zip(map(str, own.source_ids), own.names, strict=True))
    categories = own if categories is None else categories
    annotations = _by_image(builder, file, content)
    without_area = 0
    for number, record in enumerate(content["images"], start=1):
        found = _image(builder, file, number, record)
        if found is None:
            continue
        image_id, path, size_hw = found
        objects = annotations.pop(image_id, None)
        if objects is None:
            builder.report(file, "id", f"image {number}: id {image_id} is taken by an earlier image; give each its own")
            continue
        image = ImageObjects(f"{file}, image {image_id}", size_hw, categories, builder.problems)
        for place, annotation in objects:
            without_area += _area(annotation) is None
            _add_object(image, place, annotation, class_names)
        builder.add(image, path=path, image_id=image_id)
    if without_area:
        message = f"{without_area:,} objects have no usable area; the area of their boxes is taken"
        builder.report(file, "area", message, "notice")
    return builder.build(categories)


def normal_id(value: object) -> str | None:
    """One spelling for an id written as 7, 7.0, "7" or a word; None for what is no id."""
    if isinstance(value, str):
        text = value.strip()
        return (str(int(text)) if text.isascii() and text.isdigit() and len(text) < 20 else text) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _load(folder: DataFolder, file: str) -> Record:
    """The content of the file; its three lists are there and hold only objects."""
    data = folder.read(file, MAX_JSON_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder.root / file}: not JSON ({error}); write it again") from error
    for key in ("images", "annotations", "categories"):
        records = content.get(key) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            expected = "expected COCO's images, annotations, categories"
            raise UserError(f"{folder.root / file}: it has no list of {key}; {expected}")
    return content


def _own_categories(file: str, records: list[Record]) -> Categories:
    named: list[tuple[int, str]] = []
    for record in records:
        category_id, name = normal_id(record.get("id")) or "", record.get("name")
        if not re.fullmatch(r"-?[0-9]{1,18}", category_id) or not isinstance(name, str) or not name.strip():
            raise UserError(f"{file}: category {shown(record)} needs a whole number as id and a name")
        named.append((int(category_id), name.strip()))
    named.sort()
    numbers, names = tuple(number for number, _ in named), tuple(name for _, name in named)
    if len(set(numbers)) < len(named) or len(set(names)) < len(named):
        number, name = next(one for one in named if numbers.count(one[0]) > 1 or names.count(one[1]) > 1)
        raise UserError(f"{file}: two categories have the id {number} or the name {name!r}; give each its own")
    return Categories(names, numbers)


def _by_image(builder: SplitBuilder, file: str, content: Record) -> dict[str, list[tuple[int, Record]]]:
    """Image id -> its annotations, each with its place in the file, counted from 1."""
    ids = (normal_id(image.get("id")) for image in content["images"])
    groups: dict[str, list[tuple[int, Record]]] = {image_id: [] for image_id in ids if image_id is not None}
    for place, record in enumerate(content["annotations"], start=1):
        image_id = normal_id(record.get("image_id"))
        if image_id in groups:
            groups[image_id].append((place, record))
        else:
            message = f"image_id {shown(record.get('image_id'))} names no image of the file; correct or delete it"
            builder.problems.append(Problem(file, place, message, "id"))
    return groups


def _image(builder: SplitBuilder, file: str, number: int, record: Record) -> tuple[str, str, tuple[int, int]] | None:
    """(id, path, size_hw) of one record of `images`; None, and a problem, for one that can't be used."""

    def report(kind: str, message: str) -> None:
        builder.report(file, kind, f"image {number}: {message}")

    image_id, name = normal_id(record.get("id")), record.get("file_name")
    if image_id is None:
        return report("id", f"id {shown(record.get('id'))} is no id; give a whole number")
    if not isinstance(name, str) or not name:
        return report("annotation", f"file_name {shown(name)} is no name of a file")
    height, width = record.get("height"), record.get("width")
    size_hw = whole_size(_number(height), _number(width))
    if size_hw is None:
        written = f"({shown(width)} x {shown(height)})"
        return report("no-size", f"no size of {shown(name)} {written}; write width and height")
    split = builder.split
    places = (split, f"images/{split}", "images", ".", PurePosixPath(file).parent)
    try:
        path = builder.folder.first_existing(str(PurePosixPath(place, name)) for place in places)
    except OutsideError as error:
        return report("path", str(error))
    if path is None:
        return report("missing-image", f"the image {shown(name)} is missing in {split} and images; add or unlist it")
    return image_id, path, size_hw


def _add_object(image: ImageObjects, place: int, record: Record, class_names: dict[str, str]) -> None:
    """Add one annotation; `class_names` by category id."""
    name = class_names.get(normal_id(record.get("category_id")) or "")
    if name is None:
        written, ids = shown(record.get("category_id")), ", ".join(list(class_names)[:10])
        message = f"category_id {written} is none of the file's categories ({ids}); correct it"
        return image.report(place, "class", message)
    label = image.find_label(place, name)
    if label is None:
        return None
    box = record.get("bbox")
    numbers = [_number(side) for side in box] if isinstance(box, list) else []
    sides = [side for side in numbers if side is not None]
    if len(sides) != 4 or len(numbers) != 4:
        return image.report(place, "annotation", f"bbox {shown(box)} is not four numbers x, y, width, height")
    x, y, width, height = sides
    box_xyxy, written = (x, y, x + width, y + height), f"bbox {shown(box)}"
    ignored = record.get("iscrowd") in (1, "1")  # True and 1.0 too
    return image.add(place, label, box_xyxy, written=written, ignored=ignored, area=_area(record))


def _area(record: Record) -> float | None:
    area = _number(record.get("area"))
    return area if area is not None and 0 < area < inf else None


def _number(value: object) -> float | None:
    """A JSON number as a float (a whole number too large for one is infinite); None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return inf
