"""COCO: one JSON file a split, with images, annotations and categories; the images lie anywhere below the folder.

Boxes are (x, y, width, height), 0-based; where they are missing, those of the segments are taken. Category ids may be
sparse: labels follow their order (COCO data format, "annotations"). Objects with `iscrowd` or `ignore` are `ignored`;
of a segment only its box and its `area` are used. Ids written as 7, 7.0, "7" or "007" are the same id, unless images
have both "7" and "007". Annotation ids are not used, so 0 and repeated ones do no harm. Roboflow's root category, which
no object has, is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from onestage.data.folder import DataFolder, folder_of, shown, stem_of
from onestage.data.formats.coco_files import LISTS, MAX_JSON_BYTES, coco_files
from onestage.data.json_text import parse_json
from onestage.data.reading import (
    ALL,
    AnnotatedImage,
    AnnotatedObject,
    Box,
    Faults,
    Source,
    box_around,
    name_of,
    numbers_of,
    whole_size,
)
from onestage.data.rows import BORDER_TOLERANCE
from onestage.data.shapes import turned_by
from onestage.data.split_names import is_split, without_annotations
from onestage.errors import UserError
from onestage.structures import Categories, repeated
from onestage.texts import as_unicode

LARGEST_AREA = 1e30  # square pixels: more is no area, and the table holds no more
MAX_SIDE = 1e9  # pixels: more is no side of a box
CHECKED_BOXES = 5_000  # of a file, as many about
MAX_ID = 400  # letters: the table keeps as many for each image as the longest needs
Record = dict[str, Any]
IdOf = Callable[[object], str | None]  # one spelling for an id; None for what is no id


def find_coco(folder: DataFolder) -> CocoSource | None:
    """The JSON files of a folder that have COCO's lists."""
    files, not_annotated = coco_files(folder)
    return CocoSource(folder, files, not_annotated) if files else None


class CocoSource(Source):
    """The JSON files of a folder, one a split; those of images that are not annotated are of no use."""

    def __init__(self, folder: DataFolder, files: list[str], not_annotated: list[str]) -> None:
        self.folder, self.files, self.not_annotated = folder, files, not_annotated
        self._files_of = _splits_of(files)
        self._content = lru_cache(maxsize=1)(self._load)  # both lists of a file are asked for, one after the other

    @property
    def about(self) -> str:
        tool = " by Roboflow" if "_annotations.coco.json" in self.files[0] else ""
        found = f"COCO{tool}: {', '.join(self.files[:3])}{', ...' if len(self.files) > 3 else ''}"
        return found + without_annotations(self.not_annotated)

    @property
    def splits(self) -> list[str]:
        return sorted(self._files_of)

    def categories(self, split: str) -> Categories:
        lists = [self._categories_of(file) for file in self._files_of[split]]
        if all(one == lists[0] for one in lists):
            return lists[0]
        return Categories.from_names(dict.fromkeys(name for one in lists for name in one.names))

    def _categories_of(self, file: str) -> Categories:
        content = self._content(file)
        root = phantom_root(content)
        return _own_categories(f"{self.folder.root / file}", [one for one in content["categories"] if one is not root])

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        files = self._files_of[split]
        for file in files:
            yield from self._images_of(file, faults, unique_ids=len(files) == 1)

    def _images_of(self, file: str, faults: Faults, unique_ids: bool) -> Iterator[AnnotatedImage]:
        """The images of one file; their ids are not kept where several files have their own."""
        content, own = self._content(file), self._categories_of(file)
        class_names = dict(zip(map(str, own.source_ids), own.names, strict=True))
        id_of = ids_of(content["images"])
        annotations = _by_image(file, content, id_of, faults)
        _report_corners(file, content, faults)
        taken: set[str] = set()
        for number, record in enumerate(content["images"], start=1):
            found = _image(file, number, record, id_of, faults)
            if found is None:
                continue
            image_id, path = found
            if image_id in taken:
                message = f"image {number}: id {image_id} is taken by an earlier image; give each its own"
                faults.report(file, "id", message)
                continue
            taken.add(image_id)
            place = f"{file}, image {image_id}"
            size_hw = whole_size(record.get("height"), record.get("width"))
            objects = list(_objects(place, annotations[image_id], class_names, faults))
            yield AnnotatedImage(place, path, objects, size_hw, image_id if unique_ids else "")
        without_area = sum(_area(record) is None for records in annotations.values() for _, record in records)
        if without_area:
            message = f"{without_area:,} objects have no usable area; the area of their boxes is taken"
            faults.report(file, "area", message, "notice")
        if (root := phantom_root(content)) is not None:
            message = f"the category {shown(root['name'])} heads the others and has no object; it is no class"
            faults.report(file, "root-category", message, "notice")

    def _load(self, file: str) -> Record:
        """The content of a file; its three lists are there and hold only objects."""
        data = self.folder.read(file, MAX_JSON_BYTES)
        # only where a list may stand twice is it worth to look at each key of a file that may be large
        once = any(data.count(f'"{key}"'.encode()) > 1 for key in LISTS)
        content = parse_json(data, f"{self.folder.root / file}", once)
        for key in LISTS:
            records = content.get(key) if isinstance(content, dict) else None
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                expected = "expected COCO's images, annotations, categories"
                raise UserError(f"{self.folder.root / file}: it has no list of {key}; {expected}")
        return content


def _splits_of(files: Sequence[str]) -> dict[str, list[str]]:
    """Split -> files. The split is what is behind `instances_`, else a word of the file's name, else of its folder.

    Files that name none are of one split, as exports of several tasks or a file an image.
    """
    found: dict[str, list[str]] = {}
    for file in files:
        stem = stem_of(file).removesuffix(".coco")
        behind = re.sub(r"^instances[_-]?", "", stem, flags=re.IGNORECASE)
        words = [word for word in re.split(r"[\W_]+", stem) if is_split(word)]
        folders = [folder for folder in folder_of(file).split("/") if is_split(folder)]
        split = behind if behind != stem else next(iter([*words, *reversed(folders)]), ALL)
        found.setdefault(ALL if split in ("", "default") else split, []).append(file)
    return found


def phantom_root(content: Record) -> Record | None:
    """Roboflow's first category, which names the project: the others name it as theirs, and no object has it."""
    for root in content["categories"]:
        others = [record for record in content["categories"] if record is not root]
        if others and all(record.get("supercategory") == root.get("name") for record in others):
            number = normal_id(root.get("id"))
            if all(normal_id(one.get("category_id")) != number for one in content["annotations"]):
                return root
    return None


def normal_id(value: object) -> str | None:
    """One spelling for an id written as 7, 7.0, "7" or a word; None for what is no id."""
    if type(value) is int and abs(value) < 1 << 62:  # nearly all are, and files have millions
        return str(value)
    text = _written_id(value)
    return str(int(text)) if text and text.isascii() and text.isdigit() and len(text) < 20 else text


def _written_id(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = as_unicode(str(value)).strip()
    return text if 0 < len(text) <= MAX_ID else None


def ids_of(records: list[Record]) -> IdOf:
    """How ids name these records: by `normal_id`, and exactly as written where that would make two of them one."""
    written = {one for record in records if (one := _written_id(record.get("id"))) is not None}
    alike = Counter(map(normal_id, written))

    def exact(value: object) -> str | None:
        return _written_id(value) if alike[normal_id(value)] > 1 else normal_id(value)

    return normal_id if len(alike) == len(written) else exact


def _own_categories(file: str, records: list[Record]) -> Categories:
    named: list[tuple[int, str]] = []
    for record in records:
        category_id, name = normal_id(record.get("id")) or "", record.get("name")
        if not re.fullmatch(r"-?[0-9]{1,18}", category_id) or not isinstance(name, str) or not name.strip():
            raise UserError(f"{file}: category {shown(record)} needs a whole number as id and a name")
        if (known := name_of(name)) is None:
            raise UserError(f"{file}: category {shown(record)} has a name that can't be written; rename it")
        named.append((int(category_id), known))
    named.sort()
    numbers, names = tuple(number for number, _ in named), tuple(name for _, name in named)
    for what, twice in (("id", repeated(numbers)), ("name", repeated(names))):
        if twice is not None:
            raise UserError(f"{file}: two categories have the {what} {shown(twice)}; give each its own")
    return Categories(names, numbers)


def _by_image(file: str, content: Record, id_of: IdOf, faults: Faults) -> dict[str, list[tuple[int, Record]]]:
    """Image id -> its annotations, each with its place in the file, counted from 1."""
    ids = (id_of(image.get("id")) for image in content["images"])
    groups: dict[str, list[tuple[int, Record]]] = {image_id: [] for image_id in ids if image_id is not None}
    for place, record in enumerate(content["annotations"], start=1):
        image_id = id_of(record.get("image_id"))
        if image_id in groups:
            groups[image_id].append((place, record))
        else:
            message = f"image_id {shown(record.get('image_id'))} names no image of the file; correct or delete it"
            faults.report(file, "id", message, number=place)
    return groups


def _report_corners(file: str, content: Record, faults: Faults) -> None:
    """An error for boxes that are corners by their numbers: many reach outside their images unless read so."""
    images = {normal_id(image.get("id")): image for image in content["images"]}
    found = []
    for record in content["annotations"][:: max(1, len(content["annotations"]) // CHECKED_BOXES)]:
        image, box = images.get(normal_id(record.get("image_id")), {}), record.get("bbox")
        numbers = numbers_of(box) if isinstance(box, list) and len(box) == 4 else None
        size_hw = whole_size(image.get("height"), image.get("width"))
        if size_hw is not None and numbers is not None and all(abs(side) < MAX_SIDE for side in numbers):
            found.append((*numbers, *size_hw))
    boxes = np.array(found, dtype=np.float64).reshape(-1, 6)
    start, end, size_wh = boxes[:, :2], boxes[:, 2:4], boxes[:, :3:-1] + BORDER_TOLERANCE
    outside = (start + end > size_wh).any(axis=1)
    if outside.sum() < 5 or outside.mean() < 1 / 3 or not np.all((start < end) & (end <= size_wh)):
        return
    message = (
        f"{outside.sum():,} of {len(boxes):,} boxes reach outside their images as x, y, width, height, but none as "
        "corners x0, y0, x1, y1, which they seem to be; write each bbox as x0, y0, x1 - x0, y1 - y0"
    )
    faults.report(file, "box-outside", message)


def _image(file: str, number: int, record: Record, id_of: IdOf, faults: Faults) -> tuple[str, str] | None:
    """(id, path) of one record of `images`; None, and a problem, for one that can't be used."""
    image_id, name = id_of(record.get("id")), record.get("file_name") or record.get("coco_url")  # as LVIS has it
    if image_id is None:
        message = f"image {number}: id {shown(record.get('id'))} is no id; give a whole number"
        return faults.report(file, "id", message)
    if not isinstance(name, str) or not name:
        return faults.report(file, "annotation", f"image {number}: file_name {shown(name)} is no name of a file")
    path = faults.find_image(name, file)
    return None if path is None else (image_id, path)


def _objects(
    place: str, records: list[tuple[int, Record]], class_names: dict[str, str], faults: Faults
) -> Iterator[AnnotatedObject]:
    """The annotations of one image; `class_names` by category id."""
    for number, record in records:
        name = class_names.get(normal_id(record.get("category_id")) or "")
        box = record.get("bbox")
        numbers = numbers_of(box) if isinstance(box, list) else None
        if not any(numbers or [box]) and record.get("segmentation"):  # none, or four zeros
            box_xyxy, written = segment_box(record["segmentation"]), "segmentation without a box"
        elif numbers is None or len(numbers) != 4:
            box_xyxy, written = None, f"bbox {shown(box)}"
        else:
            x, y, width, height = numbers
            attributes = record.get("attributes")  # CVAT's
            turn = attributes.get("rotation") if isinstance(attributes, dict) else None
            box_xyxy, written = turned_by((x, y, x + width, y + height), turn), f"bbox {shown(box)}"
        if name is None:
            wrong, ids = shown(record.get("category_id")), ", ".join(list(class_names)[:10])
            message = f"category_id {wrong} is none of the file's categories ({ids}); correct it"
            faults.report(place, "class", message, number=number)
        elif box_xyxy is None:
            message = f"{written} is not four numbers x, y, width, height"
            faults.report(place, "annotation", message, number=number)
        else:
            ignored = any(record.get(key) in (1, "1") for key in ("iscrowd", "ignore"))  # True and 1.0 too
            yield AnnotatedObject(number, name, box_xyxy, written, ignored, _area(record))


def segment_box(segment: object) -> Box | None:
    """The box of polygons (lists of x, y, x, y, ...) or of a run-length code; None for what is neither."""
    if isinstance(segment, dict):
        return _box_of_runs(segment)
    polygons = segment if isinstance(segment, list) else []
    if polygons and not isinstance(polygons[0], list):
        polygons = [polygons]
    boxes = [box_around(numbers_of(polygon) or ()) for polygon in polygons if isinstance(polygon, list)]
    return box_around(side for box in boxes if box is not None for side in box)


def _box_of_runs(segment: Record) -> Box | None:
    """The box of a mask in COCO's run-length code, compressed or not; None for an empty mask or another code."""
    import hotcoco  # a third of a second, for the few files that need it

    counts, size = segment.get("counts"), segment.get("size")
    size_hw = whole_size(*size) if isinstance(size, list) and len(size) == 2 else None
    runs = counts if isinstance(counts, str) else numbers_of(counts) if isinstance(counts, list) else None
    if runs is None or size_hw is None:
        return None
    try:
        code = {"size": size_hw, "counts": runs if isinstance(runs, str) else [int(run) for run in runs]}
        x, y, width, height = hotcoco.mask.to_bbox(code).tolist()
    except (ValueError, TypeError, OverflowError):
        return None
    return (x, y, x + width, y + height) if width else None


def _area(record: Record) -> float | None:
    area = record.get("area")
    found = None if isinstance(area, str) else numbers_of((area,))
    return found[0] if found is not None and 0 < found[0] < LARGEST_AREA else None
