"""Write tables in VOC's, COCO's and YOLO's format, so that reading them again gives the same tables.

    VOC     Annotations/STEM.xml, JPEGImages/STEM.jpg, ImageSets/Main/SPLIT.txt, classes.txt
    COCO    annotations/instances_SPLIT.json, images/SPLIT/NAME.jpg
    YOLO    data.yaml, labels/SPLIT/STEM.txt, images/SPLIT/NAME.jpg

Boxes are written with all digits that they have. YOLO can't say that an object is to be ignored.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float, Float32, Int64

from onestage.data.folder import stem_of
from onestage.data.formats.voc import voc_annotation
from onestage.data.table import Table
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.terminal import watched
from onestage.texts import as_file_name, json_text, one_line

MAX_NAME_BYTES = 200  # of a file, without its extension

Tables = Mapping[str, Table]  # split -> table; all have the same classes


def write_voc(tables: Tables, out: Path, *, copy: bool = False) -> None:
    """Write a VOC folder; ignored objects are `difficult`."""
    names = _new_names(tables)
    _write_lines(out / "classes.txt", _categories(tables).names)
    for split, table in tables.items():
        stems = []
        for index in watched(range(len(table)), f"writing {split}", len(table)):
            name = names[table.image_path(index)]
            boxes_xyxy, labels, ignored = table.objects(index)
            size_hw = tuple(table.image_sizes_hw[index].tolist())
            classes = [table.categories.names[label] for label in labels]
            text = voc_annotation(name, size_hw, boxes_xyxy, classes, ignored)
            stems.append(stem_of(name))
            file = out / "Annotations" / f"{stems[-1]}.xml"
            if file.exists() and file.read_text(encoding="utf-8") != text:
                raise UserError(
                    f"{name}: two splits have other objects in it; VOC has one file an image; write --to coco"
                )
            _write(file, text)
            _place(table.image_path(index), out / "JPEGImages" / name, copy)
        _write_lines(out / "ImageSets" / "Main" / f"{split}.txt", stems)


def write_coco(tables: Tables, out: Path, *, copy: bool = False) -> None:
    """Write a COCO folder; ignored objects have `iscrowd` 1. COCO's own ids are kept."""
    names = _new_names(tables)
    categories = _categories(tables)
    from_coco = all("coco" in table.kind for table in tables.values())
    class_ids = categories.source_ids if from_coco else range(1, len(categories) + 1)
    ids = [table.image_id(index) for table in tables.values() for index in range(len(table))]
    keep_ids = all(one.isascii() and one.isdigit() for one in ids) and len(set(map(int, ids))) == len(ids)
    image_number = annotation_number = 0
    for split, table in tables.items():
        images, annotations = [], []
        for index in watched(range(len(table)), f"writing {split}", len(table)):
            image_number += 1
            image_id, name = int(table.image_id(index)) if keep_ids else image_number, names[table.image_path(index)]
            height, width = table.image_sizes_hw[index].tolist()
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
            rows = range(int(table.first_object[index]), int(table.first_object[index + 1]))
            for row in rows:
                annotation_number += 1
                class_id, area = class_ids[int(table.labels[row])], _decimals(table.areas[row : row + 1])[0]
                one = coco_annotation(annotation_number, image_id, class_id, table.boxes_xyxy[row], area)
                annotations.append(one | {"iscrowd": int(table.ignored[row])})
            _place(table.image_path(index), out / "images" / split / name, copy)
        named = [{"id": number, "name": name} for number, name in zip(class_ids, categories.names, strict=True)]
        content = {"images": images, "annotations": annotations, "categories": named}
        _write(out / "annotations" / f"instances_{split}.json", json_text(content))


def write_yolo(tables: Tables, out: Path, *, copy: bool = False) -> None:
    """Write a YOLO folder. Ignored objects are not written."""
    names = _new_names(tables)
    for split, table in tables.items():
        for index in watched(range(len(table)), f"writing {split}", len(table)):
            name = names[table.image_path(index)]
            height, width = table.image_sizes_hw[index].tolist()
            boxes_xyxy, labels, ignored = table.objects(index)
            lines = yolo_lines(boxes_xyxy[~ignored], labels[~ignored], (height, width))
            _write_lines(out / "labels" / split / f"{stem_of(name)}.txt", lines)
            _place(table.image_path(index), out / "images" / split / name, copy)
    settings = {split: f"images/{split}" for split in tables}
    names_of = dict(enumerate(_categories(tables).names))
    _write(out / "data.yaml", yaml.safe_dump({**settings, "names": names_of}, allow_unicode=True, sort_keys=False))


def coco_annotation(
    number: int, image_id: int, category_id: int, box_xyxy: Float32[np.ndarray, " 4"], area: float | None = None
) -> dict[str, Any]:
    """One of COCO's `annotations`, of an object that is no crowd; `area` None is the box's."""
    x0, y0, x1, y1 = _decimals(box_xyxy)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0) if area is None else area,
        "iscrowd": 0,
        "segmentation": [],
    }


def yolo_lines(
    boxes_xyxy: Float[np.ndarray, "N 4"], labels: Int64[np.ndarray, " N"], size_hw: tuple[int, int]
) -> list[str]:
    """The lines of an image's label file: class, centre, width and height, in parts of the image."""
    size = np.array(size_hw[::-1], dtype=np.float64)
    low, high = boxes_xyxy[:, :2].astype(np.float64), boxes_xyxy[:, 2:].astype(np.float64)
    sides = np.concatenate([(low + high) / 2 / size, (high - low) / size], axis=1).tolist()
    return [" ".join([str(label), *map(repr, box)]) for label, box in zip(labels.tolist(), sides, strict=True)]


WRITERS: dict[str, Callable[..., None]] = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}


def _categories(tables: Tables) -> Categories:
    categories = next(iter(tables.values())).categories
    if bad := [name for name in categories.names if one_line(name) != name]:
        raise UserError(f"class {bad[0]!r}: its name has a line break or a control character; rename it")
    return categories


def _new_names(tables: Tables) -> dict[Path, str]:
    """Image -> its name in the new folder: its own, with its folders before it where another has the same stem."""
    paths = {
        table.image_path(index): table.image_name(index) for table in tables.values() for index in range(len(table))
    }
    stems = Counter(stem_of(name).lower() for name in paths.values())
    names = {
        path: as_file_name(name.replace("/", "_") if stems[stem_of(name).lower()] > 1 else name.rpartition("/")[2])
        for path, name in paths.items()
    }
    taken: set[str] = set()
    for path, name in sorted(names.items(), key=lambda item: (stems[stem_of(item[1]).lower()], item[1])):
        stem, dot, extension = name.rpartition(".")
        stem = stem if len(os.fsencode(stem)) <= MAX_NAME_BYTES else hashlib.sha256(os.fsencode(stem)).hexdigest()
        others = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        free = next(one for one in others if one.lower() not in taken)
        taken.add(free.lower())
        names[path] = f"{free}{dot}{extension}"
    return names


def _decimals(values: np.ndarray) -> list[float]:
    """Numbers of 32 bits with as many digits as tell them apart."""
    return [float(str(value)) for value in values.astype(np.float32)]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    _write(path, "".join(f"{line}\n" for line in lines))


def _place(source: Path, target: Path, copy: bool) -> None:
    """Give an image another name without copying it where the disk can do that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    real = source.resolve()
    try:
        if copy:
            shutil.copyfile(real, target)
        else:
            os.link(real, target)
    except OSError as error:
        if copy:
            raise UserError(f"{target}: can't be written ({error.strerror}); choose another --out") from error
        _place(source, target, copy=True)  # another disk
