"""COCO folders: `annotations/instances_SPLIT.json` and the images in `SPLIT/`, `images/SPLIT/`, `images/` or beside.

Roboflow's `SPLIT/_annotations.coco.json` is read too. COCO's boxes are (x, y, width, height), 0-based; ids may be
sparse, and labels follow the order of the category ids (COCO data format, "annotations"). `iscrowd` objects are
`ignored`; of a segment only its box and its `area` are used.

Ids written as 7, 7.0 or "7" are the same id. Annotation ids are not used, so 0 and repeated ones do no harm.
"""

from __future__ import annotations

import json
from math import inf
from pathlib import Path, PurePosixPath
from typing import Any

from onestage.data.folder import DataFolder, OutsideError, shown
from onestage.data.table import Table, TableBuilder
from onestage.data.validate import ImageObjects, Problem, unknown_class
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
    """Read one split of a COCO folder.

    Args:
        root: the folder that holds `annotations`.
        split: as in `annotations/instances_SPLIT.json`.
        categories: the classes, matched by name; None takes the file's own, in the order of their ids.

    Returns:
        The table of everything usable, and all that was wrong (what an error names is not in the table).

    Raises:
        UserError: no such folder or split, not a COCO file, or a class named twice.
    """
    folder = DataFolder(root)
    problems: list[Problem] = []
    file = folder.first_existing((f"annotations/instances_{split}.json", f"{split}/_annotations.coco.json"))
    if file is None:
        known = ", ".join(coco_splits(folder.root)) or "none"
        raise UserError(f"{folder.root}/annotations/instances_{split}.json: no such split; there is {known}")
    content = _load(folder, file)
    own = _own_categories(f"{folder.root / file}", content["categories"])
    categories = own if categories is None else categories
    objects_of = _group_by_image(file, content, problems)
    label_of_id = _labels_by_id(own, categories)
    builder = TableBuilder(folder.root, split, "coco")
    without_area = 0
    seen: set[str] = set()
    for number, image in enumerate(content["images"], start=1):
        found = _image(folder, file, number, image, split, problems)
        if found is None:
            continue
        image_id, path, size_hw = found
        if image_id in seen:
            message = f"image {number}: id {image_id} is taken by an earlier image; give each its own"
            problems.append(Problem(file, None, message, "id"))
            continue
        seen.add(image_id)
        checked = ImageObjects(f"{file}, image {image_id}", size_hw, problems)
        for place, record in objects_of.get(image_id, ()):
            without_area += _area(record) is None
            _add_object(checked, place, record, label_of_id, own, categories)
        checked.add_to(builder, path=path, image_id=image_id)
    if without_area:
        problems.append(
            Problem(
                file, None, f"{without_area:,} objects have no usable area; their boxes' is taken", "area", "notice"
            )
        )
    return builder.build(categories), problems


def normal_id(value: object) -> str | None:
    """One spelling for an id that may be 7, 7.0, "7" or a word; None for what is no id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if isinstance(value, str):
        text = value.strip()
        return (str(int(text)) if text.isascii() and text.isdigit() and len(text) < 20 else text) or None
    return str(value) if isinstance(value, int) else None


def _load(folder: DataFolder, file: str) -> Record:
    """The file's three lists, each made of objects."""
    try:
        content = json.loads(folder.read(file, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder.root / file}: not JSON ({error}); write it again") from error
    for key in ("images", "annotations", "categories"):
        records = content.get(key) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise UserError(
                f"{folder.root / file}: it has no list of {key}; expected COCO's images, annotations, categories"
            )
    return content


def _own_categories(file: str, records: list[Record]) -> Categories:
    named: list[tuple[int, str]] = []
    for record in records:
        category_id, name = normal_id(record.get("id")), record.get("name")
        if (
            category_id is None
            or not category_id.lstrip("-").isdigit()
            or not isinstance(name, str)
            or not name.strip()
        ):
            raise UserError(f"{file}: category {shown(record)} needs a whole number as id and a name")
        named.append((int(category_id), name.strip()))
    named.sort()
    numbers, names = tuple(number for number, _ in named), tuple(name for _, name in named)
    if len(set(numbers)) < len(numbers) or len(set(names)) < len(names):
        twice = next(record for record in named if numbers.count(record[0]) > 1 or names.count(record[1]) > 1)
        raise UserError(f"{file}: two categories have the id {twice[0]} or the name {twice[1]!r}; give each its own")
    return Categories(names, numbers)


def _labels_by_id(own: Categories, categories: Categories) -> dict[str, int]:
    """Category id, in its one spelling -> label in the wanted list, by name; classes that it lacks are left out."""
    label_of, pairs = categories.label_of, zip(own.source_ids, own.names, strict=True)
    return {str(source_id): label_of[name] for source_id, name in pairs if name in label_of}


def _group_by_image(file: str, content: Record, problems: list[Problem]) -> dict[str, list[tuple[int, Record]]]:
    """Image id -> its annotations, each with its place in the file counted from 1."""
    known = {normal_id(image.get("id")) for image in content["images"]} - {None}
    groups: dict[str, list[tuple[int, Record]]] = {}
    for place, record in enumerate(content["annotations"], start=1):
        image_id = normal_id(record.get("image_id"))
        if image_id is None or image_id not in known:
            message = f"image_id {shown(record.get('image_id'))} names no image of the file; correct or delete it"
            problems.append(Problem(file, place, message, "id"))
        else:
            groups.setdefault(image_id, []).append((place, record))
    return groups


def _image(
    folder: DataFolder, file: str, number: int, image: Record, split: str, problems: list[Problem]
) -> tuple[str, str, tuple[int, int]] | None:
    """(id, path, size_hw) of one record of `images`; None, and a problem, where it can't be used."""

    def report(kind: str, message: str) -> None:
        problems.append(Problem(file, None, f"image {number}: {message}", kind))

    image_id, name = normal_id(image.get("id")), image.get("file_name")
    height, width = _number(image.get("height")), _number(image.get("width"))
    if image_id is None:
        return report("id", f"id {shown(image.get('id'))} is no id; give a whole number")
    if not isinstance(name, str) or not name:
        return report("annotation", f"file_name {shown(name)} is no name of a file")
    if (
        height is None
        or width is None
        or not all(1 <= side < 1 << 31 and side.is_integer() for side in (height, width))
    ):
        read = f"{shown(image.get('width'))} x {shown(image.get('height'))}"
        return report("no-size", f"no size of {shown(name)} ({read}); write width and height")
    beside = PurePosixPath(file).parent.as_posix()
    try:
        places = (split, f"images/{split}", "images", ".", beside)
        path = folder.first_existing([str(PurePosixPath(place, name)) for place in places])
    except OutsideError as error:
        return report("path", str(error))
    if path is None:
        return report("missing-image", f"the image {shown(name)} is missing in {split} and images; add or unlist it")
    return image_id, path, (int(height), int(width))


def _add_object(
    image: ImageObjects,
    place: int,
    record: Record,
    label_of_id: dict[str, int],
    own: Categories,
    categories: Categories,
) -> None:
    category_id = normal_id(record.get("category_id"))
    box = record.get("bbox")
    if category_id is None or category_id not in label_of_id:
        names = {str(source_id): name for source_id, name in zip(own.source_ids, own.names, strict=True)}
        if category_id in names:
            image.report(place, "class", unknown_class(names[category_id], categories))
        else:
            ids = ", ".join(map(str, own.source_ids[:10]))
            message = (
                f"category_id {shown(record.get('category_id'))} is none of the file's categories ({ids}); correct it"
            )
            image.report(place, "class", message)
        return
    numbers = [_number(side) for side in box] if isinstance(box, list) else []
    sides = [side for side in numbers if side is not None]
    if len(sides) != 4 or len(numbers) != 4:
        image.report(place, "annotation", f"bbox {shown(box)} is not four numbers x, y, width, height")
    else:
        x, y, width, height = sides
        if width <= 0 or height <= 0:
            message = f"bbox {shown(box)} has width {width:.6g} and height {height:.6g}; fix or delete the box"
            image.report(place, "box-empty", message)
            return
        image.add(
            place,
            (x, y, x + width, y + height),
            label_of_id[category_id],
            written=f"bbox {shown(box)}",
            ignored=record.get("iscrowd") in (1, "1"),  # True and 1.0 too
            area=_area(record),
        )


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
