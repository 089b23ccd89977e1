"""YOLO folders: `data.yaml` names the classes and where each split's images are; each image has a text of objects.

The labels of `.../images/.../a.jpg` are in `.../labels/.../a.txt`, else beside the image. A line is `class cx cy w h`
in fractions of the image, or `class x y x y ...` (a polygon, of which the bounding box is taken). An image without a
label file has no objects. Classes count from 0.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from onestage.data.folder import IMAGE_EXTENSIONS, DataFolder, OutsideError, shown
from onestage.data.table import Table, TableBuilder
from onestage.data.validate import Box, ImageObjects, Problem, unknown_class
from onestage.errors import UserError
from onestage.runtime.decode import read_header
from onestage.runtime.image_header import ImageError
from onestage.structures import Categories

SETTINGS = ("data.yaml", "data.yml")
SPLITS = ("train", "val", "valid", "test")
MAX_YAML_BYTES = 1 << 20
MAX_LABEL_BYTES = 8 << 20


def yolo_splits(root: str | Path) -> list[str]:
    """The splits that `data.yaml` names."""
    settings = _settings(DataFolder(root))
    return [split for split in SPLITS if settings.get(split)]


def read_yolo(root: str | Path, split: str, categories: Categories | None = None) -> tuple[Table, list[Problem]]:
    """Read one split of a YOLO folder. Reads the header of every image, as labels are fractions of its size.

    Args:
        root: the folder that holds `data.yaml`.
        split: "train", "val" or "test", as in `data.yaml`.
        categories: the classes, matched by name; None takes those of `data.yaml`.

    Returns:
        The table of everything usable, and all that was wrong (what an error names is not in the table).

    Raises:
        UserError: no such folder or split, or `data.yaml` can't be used.
    """
    folder = DataFolder(root)
    settings = _settings(folder)
    own = _own_categories(folder, settings)
    categories = own if categories is None else categories
    problems: list[Problem] = []
    images = _images(folder, settings, split, problems)
    if not images and not problems:
        raise UserError(f"{folder.root}/data.yaml: the split {split} ({shown(settings[split])}) has no images")
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as threads:
        sizes_hw = list(threads.map(lambda path: _size_hw(folder, path), images))
    builder = TableBuilder(folder.root, split, "yolo")
    without_labels = 0
    for path, size_hw in zip(images, sizes_hw, strict=True):
        if isinstance(size_hw, Problem):
            problems.append(size_hw)
            continue
        try:
            file = _label_file(folder, path)
            lines = folder.read(file, MAX_LABEL_BYTES).decode("utf-8", errors="replace").splitlines() if file else []
        except UserError as error:
            problems.append(
                Problem(path, None, str(error), "path" if isinstance(error, OutsideError) else "annotation")
            )
            continue
        without_labels += file is None
        image = ImageObjects(file or path, size_hw, problems)
        for number, line in enumerate(lines, start=1):
            if line.strip():
                _add_object(image, number, line, own, categories)
        image.add_to(builder, path=path, image_id=PurePosixPath(path).stem)
    if without_labels:
        message = f"{without_labels:,} images of {split} have no label file; they are background"
        problems.append(Problem("data.yaml", None, message, "background", "notice"))
    return builder.build(categories), problems


def _settings(folder: DataFolder) -> dict[str, Any]:
    file = folder.first_existing(SETTINGS)
    if file is None:
        raise UserError(f"{folder.root}/data.yaml: no such file")
    try:
        settings = yaml.safe_load(folder.read(file, MAX_YAML_BYTES))
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise UserError(f"{folder.root / file}: not YAML ({shown(str(error))}); write it again") from error
    if not isinstance(settings, dict):
        raise UserError(f"{folder.root / file}: expected names: and train:, found {shown(settings)}")
    return settings


def _own_categories(folder: DataFolder, settings: dict[str, Any]) -> Categories:
    file, names, count = folder.root / "data.yaml", settings.get("names"), settings.get("nc")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(
                f"{file}: names has the ids {shown(sorted(names, key=str))}, expected 0 to {len(names) - 1}"
            )
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: names is {shown(names)}, expected the list of the classes")
    if count is not None and count != len(names):
        raise UserError(f"{file}: nc is {shown(count)}, but {len(names)} classes are named; make them agree")
    texts = [str(name).strip() for name in names]
    twice = next((name for name in texts if texts.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{file}: two classes are called {twice!r}; give each its own name")
    return Categories.from_names(texts)


def _images(folder: DataFolder, settings: dict[str, Any], split: str, problems: list[Problem]) -> list[str]:
    """The images of a split: folders and lists of files, below `path` or the data folder itself."""
    wanted = settings.get(split)
    if not wanted:
        known = ", ".join(name for name in SPLITS if settings.get(name)) or "none"
        raise UserError(f"{folder.root}/data.yaml: no such split as {split}; there is {known}")
    found: dict[str, None] = {}
    for place in wanted if isinstance(wanted, list) else [wanted]:
        inside = _place(folder, str(settings.get("path") or ""), str(place))
        if inside.endswith(".txt"):
            lines = folder.read(inside, 1 << 28).decode("utf-8-sig", errors="replace").splitlines()
            names = [line.strip() for line in lines if line.strip()]
        else:
            names = folder.images(inside)
        for image in _existing(folder, inside, names, problems):
            if image in found:
                message = "listed again; left out"
                problems.append(Problem(image, None, message, "duplicate-image", "notice"))
            found[image] = None
    return list(found)


def _place(folder: DataFolder, base: str, place: str) -> str:
    """Where a split's folder or list is, below the data folder.

    `path` and leading `../` are often those of another machine or of another folder layout, so each is tried without.
    """
    real_root = os.path.realpath(folder.root)
    bare = place
    while bare.startswith("../"):
        bare = bare[3:]
    for candidate in (os.path.join(base, place), place, bare):
        real = os.path.realpath(folder.root / candidate)
        if "\0" not in candidate and real.startswith(real_root + os.sep) and os.path.exists(real):
            return Path(real).relative_to(real_root).as_posix()
    raise UserError(f"{folder.root}/data.yaml: {shown(place)} is not in {folder.root}; put the images below it")


def _existing(folder: DataFolder, file: str, names: list[str], problems: list[Problem]) -> list[str]:
    """The images of the names that are there and inside; names are relative to the data folder or to the list."""
    found: list[str] = []
    for name in names:
        try:
            near = PurePosixPath(file).parent.as_posix()
            bare = name.removeprefix("./")
            image = folder.first_existing([bare, f"{near}/{bare}"])
        except OutsideError as error:
            problems.append(Problem(file, None, str(error), "path"))
            continue
        if image is None or not image.lower().endswith(IMAGE_EXTENSIONS):
            message = f"the image {shown(name)} is missing; add or unlist it"
            problems.append(Problem(file, None, message, "missing-image"))
        else:
            found.append(image)
    return found


def _size_hw(folder: DataFolder, path: str) -> tuple[int, int] | Problem:
    place = str(folder.root / path)
    try:
        header = read_header(place)
    except ImageError as error:
        return Problem(path, None, str(error).removeprefix(f"{place}: "), "unreadable-image")
    return header.height, header.width


def _label_file(folder: DataFolder, image: str) -> str | None:
    path = PurePosixPath(image).with_suffix(".txt")
    parts = list(path.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return folder.first_existing(["/".join(parts), path.as_posix()])


def _add_object(image: ImageObjects, number: int, line: str, own: Categories, categories: Categories) -> None:
    try:
        first, *numbers = (float(word) for word in line.split())
    except ValueError:
        image.report(number, "annotation", f"{shown(line)} is not numbers; expected class cx cy w h")
        return
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        image.report(number, "annotation", f"{shown(line)} has {len(numbers) + 1} numbers; expected class cx cy w h")
        return
    if not (first.is_integer() and 0 <= first < len(own)):
        hint = " (do they count from 1?)" if first == len(own) else ""
        message = f"class {first:g}, but data.yaml names the classes 0 to {len(own) - 1}{hint}; correct it or name it"
        image.report(number, "class", message)
        return
    name = own.names[int(first)]
    if name not in categories.label_of:
        image.report(number, "class", unknown_class(name, categories))
        return
    label = categories.label_of[name]
    image.add(number, _box_xyxy(numbers, image.size_hw), label, written=f"box {shown(' '.join(line.split()[1:]))}")


def _box_xyxy(numbers: list[float], size_hw: tuple[int, int]) -> Box:
    """Pixels from fractions: centre and size, or a polygon's points."""
    height, width = size_hw
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        return ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
    xs, ys = numbers[0::2], numbers[1::2]
    return (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
