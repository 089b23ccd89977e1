"""YOLO folders: `data.yaml` names the classes and the images of each split; every image has a text file of objects.

The labels of `.../images/.../a.jpg` are in `.../labels/.../a.txt`, else beside the image. A line is `class cx cy w h`
in fractions of the image, or `class x y x y ...` (a polygon, whose bounding box is taken). An image without a label
file has no objects. Classes count from 0.
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from onestage.data.reading import DataFolder, ImageObjects, OutsideError, SplitBuilder, is_image, shown
from onestage.data.table import Table
from onestage.data.validate import Problem, in_threads
from onestage.errors import UserError
from onestage.runtime.decode import ImageError, read_header
from onestage.structures import Categories

SETTINGS_FILES = ("data.yaml", "data.yml")
SPLITS = ("train", "val", "valid", "test")
MAX_YAML_BYTES = 1 << 20
MAX_LABEL_BYTES = 8 << 20


def is_yolo(root: Path) -> bool:
    return any((root / name).is_file() for name in SETTINGS_FILES)


def yolo_splits(root: str | Path) -> list[str]:
    """The splits that `data.yaml` names."""
    settings = _settings(DataFolder(root))
    return [split for split in SPLITS if settings.get(split)]


def read_yolo(root: str | Path, split: str, categories: Categories | None = None) -> tuple[Table, list[Problem]]:
    """Read one split of `data.yaml`; see `read_dataset`. `categories` None takes those of `data.yaml`.

    Reads the header of every image, since labels are fractions of its size.
    """
    builder = SplitBuilder(root, split, "yolo")
    folder = builder.folder
    settings = _settings(folder)
    class_names = _class_names(folder, settings)
    categories = Categories.from_names(class_names) if categories is None else categories
    paths = _images(builder, settings)
    if not paths and not builder.problems:
        raise UserError(f"{folder.root}/data.yaml: the split {split} ({shown(settings[split])}) has no images")
    without_labels = 0
    for path, size_hw in zip(paths, in_threads(lambda path: _size_hw(folder, path), paths), strict=True):
        if isinstance(size_hw, str):
            builder.report(path, "unreadable-image", size_hw)
            continue
        try:
            file = _label_file(folder, path)
            lines = folder.read_lines(file, MAX_LABEL_BYTES) if file else []
        except UserError as error:
            builder.report(path, "path" if isinstance(error, OutsideError) else "annotation", str(error))
            continue
        without_labels += file is None
        image = ImageObjects(file or path, size_hw, categories, builder.problems)
        for number, line in enumerate(lines, start=1):
            if line:
                _add_object(image, number, line, class_names)
        builder.add(image, path=path, image_id=PurePosixPath(path).stem)
    if without_labels:
        message = f"{without_labels:,} images of {split} have no label file; they are background"
        builder.report("data.yaml", "background", message, "notice")
    return builder.build(categories)


def _settings(folder: DataFolder) -> dict[str, Any]:
    file = folder.first_existing(SETTINGS_FILES) or SETTINGS_FILES[0]
    try:
        settings = yaml.safe_load(folder.read(file, MAX_YAML_BYTES))
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise UserError(f"{folder.root / file}: not YAML ({shown(str(error))}); write it again") from error
    if not isinstance(settings, dict):
        raise UserError(f"{folder.root / file}: expected names: and train:, found {shown(settings)}")
    return settings


def _class_names(folder: DataFolder, settings: dict[str, Any]) -> list[str]:
    file, names, count = folder.root / "data.yaml", settings.get("names"), settings.get("nc")
    if isinstance(names, dict):
        ids = sorted(names, key=str)
        if ids != sorted(range(len(names)), key=str):
            raise UserError(f"{file}: names has the ids {shown(ids)}, expected 0 to {len(names) - 1}")
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: names is {shown(names)}, expected the list of the classes")
    if count is not None and count != len(names):
        raise UserError(f"{file}: nc is {shown(count)}, but {len(names)} classes are named; make them agree")
    texts = [str(name).strip() for name in names]
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file}: two classes are called {twice!r}; give each its own name")
    return texts


def _images(builder: SplitBuilder, settings: dict[str, Any]) -> list[str]:
    """The images of the split, each once; names in a list are relative to the data folder or to the list."""
    folder, wanted = builder.folder, settings[builder.split]
    found: dict[str, None] = {}
    for place in wanted if isinstance(wanted, list) else [wanted]:
        inside = _place(folder, str(settings.get("path") or ""), str(place))
        names = folder.read_lines(inside) if inside.endswith(".txt") else folder.images_below(inside)
        for name in filter(None, names):
            bare = name.removeprefix("./")
            try:
                image = folder.first_existing((bare, f"{PurePosixPath(inside).parent}/{bare}"))
            except OutsideError as error:
                builder.report(inside, "path", str(error))
                continue
            if image is None or not is_image(image):
                builder.report(inside, "missing-image", f"the image {shown(name)} is missing; add or unlist it")
                continue
            if image in found:
                builder.report(image, "duplicate-image", "listed again; left out", "notice")
            found[image] = None
    return list(found)


def _place(folder: DataFolder, base: str, place: str) -> str:
    """Where a folder or list of images is, below the data folder.

    `path` (here `base`) and a leading `../` often belong to another machine or layout, so each is tried without.
    """
    real_root = os.path.realpath(folder.root)
    bare = re.sub(r"^(\.\./)+", "", place)
    for candidate in (os.path.join(base, place), place, bare):
        if "\0" in candidate:
            continue  # no path has one
        real = os.path.realpath(folder.root / candidate)
        if real.startswith(real_root + os.sep) and os.path.exists(real):
            return Path(real).relative_to(real_root).as_posix()
    raise UserError(f"{folder.root}/data.yaml: {shown(place)} is not in {folder.root}; put the images below it")


def _size_hw(folder: DataFolder, path: str) -> tuple[int, int] | str:
    """The size of an image, or why it can't be read."""
    place = str(folder.root / path)
    try:
        header = read_header(place)
    except ImageError as error:
        return str(error).removeprefix(f"{place}: ")
    return header.height, header.width


def _label_file(folder: DataFolder, image: str) -> str | None:
    beside = str(PurePosixPath(image).with_suffix(".txt"))
    before, images, after = f"/{beside}".rpartition("/images/")
    return folder.first_existing((f"{before}/labels/{after}"[1:] if images else beside, beside))


def _add_object(image: ImageObjects, number: int, line: str, class_names: list[str]) -> None:
    try:
        first, *numbers = (float(word) for word in line.split())
    except ValueError:
        return image.report(number, "annotation", f"{shown(line)} is not numbers; expected class cx cy w h")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        message = f"{shown(line)} has {len(numbers) + 1} numbers; expected class cx cy w h"
        return image.report(number, "annotation", message)
    count = len(class_names)
    if not (first.is_integer() and 0 <= first < count):
        hint = " (do they count from 1?)" if first == count else ""
        message = f"class {first:g}, but data.yaml names the classes 0 to {count - 1}{hint}; correct it or name it"
        return image.report(number, "class", message)
    label = image.find_label(number, class_names[int(first)])
    if label is None:
        return None
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        x0, y0, x1, y1 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:  # a polygon
        x0, y0, x1, y1 = min(numbers[0::2]), min(numbers[1::2]), max(numbers[0::2]), max(numbers[1::2])
    height, width = image.size_hw
    written = f"box {shown(' '.join(line.split()[1:]))}"
    return image.add(number, label, (x0 * width, y0 * height, x1 * width, y1 * height), written=written)
