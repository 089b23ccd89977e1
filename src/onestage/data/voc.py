"""VOC folders: `Annotations/STEM.xml`, `JPEGImages/STEM.jpg`, `ImageSets/Main/SPLIT.txt`.

VOC's boxes are 1-based and inclusive (Everingham et al., VOC development kit, 2.2): pixel 1..W, the last one belongs to
the box. Ours are 0-based and half-open, so (xmin, ymin, xmax, ymax) is read as (xmin - 1, ymin - 1, xmax, ymax) and
written back the other way. `difficult` objects are `ignored`. Where a folder has no `ImageSets/Main`, its one split is
called "all": every annotation.

Annotations come from strangers: no DTD or entity, a bounded size and depth, and no file name leads out of the folder.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError
from jaxtyping import Bool, Float

from onestage.data.folder import IMAGE_EXTENSIONS, DataFolder, OutsideError, shown
from onestage.data.table import Table, TableBuilder
from onestage.data.validate import ImageObjects, Problem, unknown_class
from onestage.errors import UserError
from onestage.structures import Categories

MAX_XML_BYTES = 2 << 20
MAX_XML_DEPTH = 32
ALL = "all"
CLASS_LISTS = ("classes.txt", "labels.txt")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """What one XML file says, unchecked: texts by their path below `<annotation>` and below each `<object>`."""

    fields: dict[str, str]
    objects: list[dict[str, str]]


def voc_splits(root: str | Path) -> list[str]:
    """The splits of a VOC folder, sorted ("all" where it has no `ImageSets/Main`); class-wise lists are left out."""
    stems = sorted(path.stem for path in (Path(root) / "ImageSets" / "Main").glob("*.txt"))
    splits = [stem for stem in stems if not any(stem.endswith(f"_{split}") for split in stems)]
    return splits or [ALL]


def read_voc(root: str | Path, split: str, categories: Categories | None = None) -> tuple[Table, list[Problem]]:
    """Read one split of one VOC folder.

    Args:
        root: the folder that holds `Annotations`.
        split: a file of `ImageSets/Main`, or "all".
        categories: the classes by name; None takes `classes.txt` or `labels.txt` of the folder, else the names found.

    Returns:
        The table of everything usable, and all that was wrong (what an error names is not in the table).

    Raises:
        UserError: the folder or the split is not there, the split is empty, or nothing in it is usable.
    """
    folder = DataFolder(root)
    problems: list[Problem] = []
    stems = _stems(folder, split, problems)
    annotations = [(stem, file, read) for stem, file in stems if (read := _read_annotation(folder, file, problems))]
    if categories is None:
        categories = _listed_classes(folder) or Categories.from_names(
            sorted({name for _, _, read in annotations for found in read.objects if (name := found.get("name"))})
        )
    builder = TableBuilder(folder.root, split, "voc")
    for stem, file, annotation in annotations:
        path = _find_image(folder, stem, file, annotation, problems)
        size_hw = _size_hw(file, annotation, problems)
        if path is not None and size_hw is not None:
            image = ImageObjects(file, size_hw, problems)
            for number, found in enumerate(annotation.objects, start=1):
                _add_object(image, number, found, categories)
            image.add_to(builder, path=path, image_id=stem)
    return builder.build(categories), problems


def parse_annotation(data: bytes) -> Annotation:
    """Parse one VOC XML file without a DTD, entities or deep nesting.

    Raises:
        ValueError: it is not such a file; the text says why.
    """
    target = _Collector()
    parser = DefusedXMLParser(target=target, forbid_dtd=True)
    try:
        parser.feed(data)
        parser.close()
    except DefusedXmlException as error:
        raise ValueError("it declares a DTD or entities, which are refused; delete the declaration") from error
    except (ParseError, ExpatError, LookupError) as error:
        raise ValueError(f"damaged XML ({error}); write it again") from error
    if target.root != "annotation":
        raise ValueError(f"the outer element is <{shown(target.root)}>, expected <annotation>")
    return Annotation(target.fields, target.objects)


def voc_annotation(
    file_name: str,
    size_hw: tuple[int, int],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    names: Sequence[str],
    difficult: Bool[np.ndarray, " N"] | Sequence[bool],
) -> str:
    """One VOC XML file from 0-based half-open boxes in pixels of the image."""
    objects = []
    for box_xyxy, name, hard in zip(boxes_xyxy, names, difficult, strict=True):
        x0, y0, x1, y1 = (float(side) for side in box_xyxy)
        sides = (x0 + 1.0, y0 + 1.0, x1, y1)  # 0-based half-open -> 1-based inclusive
        bndbox = "".join(f"<{tag}>{side:.8g}</{tag}>" for tag, side in zip(_SIDES, sides, strict=True))
        head = f"<name>{escape(name)}</name><difficult>{int(hard)}</difficult>"
        objects.append(f"  <object>{head}<bndbox>{bndbox}</bndbox></object>\n")
    height, width = size_hw
    size = f"<width>{width}</width><height>{height}</height><depth>3</depth>"
    head = f"  <filename>{escape(file_name)}</filename>\n  <size>{size}</size>\n"
    return f"<annotation>\n{head}{''.join(objects)}</annotation>\n"


def write_voc(table: Table, root: str | Path, split: str | None = None) -> None:
    """Write a table as one split of a VOC folder: annotations, the split's list, and copies of the images.

    Raises:
        UserError: two images have the same stem, or an image can't be copied.
    """
    root, split = Path(root), split or table.split
    names = [PurePosixPath(table.image_name(index)) for index in range(len(table))]
    stems = [name.stem for name in names]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise UserError(f"{table.root}: two images are called {twice}; VOC needs a stem of its own for each")
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        boxes_xyxy, labels, ignored = table.objects(index)
        height, width = (int(side) for side in table.image_sizes_hw[index])
        classes = [table.categories.names[label] for label in labels]
        text = voc_annotation(name.name, (height, width), boxes_xyxy, classes, ignored)
        (root / "Annotations" / f"{name.stem}.xml").write_text(text, encoding="utf-8")
        try:
            shutil.copyfile(table.image_path(index), root / "JPEGImages" / name.name)
        except OSError as error:
            raise UserError(f"{table.image_path(index)}: can't be copied to {root} ({error.strerror})") from error
    lines = "".join(f"{stem}\n" for stem in stems)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(lines, encoding="utf-8")


class _Collector:
    """The parser's target: keeps texts by path instead of a tree, and bounds the depth."""

    def __init__(self) -> None:
        self.root = ""
        self.fields: dict[str, str] = {}
        self.objects: list[dict[str, str]] = []
        self._path: list[str] = []
        self._text: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._text.clear()
        if len(self._path) > MAX_XML_DEPTH:
            raise ValueError(f"its elements are more than {MAX_XML_DEPTH} deep; write it again")
        if len(self._path) == 1:
            self.root = tag
        elif len(self._path) == 2 and tag == "object":
            self.objects.append({})

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self._text).strip()
        self._text.clear()
        if len(self._path) > 1 and self._path[1] == "object":
            self.objects[-1].setdefault("/".join(self._path[2:]), text)
        else:
            self.fields.setdefault("/".join(self._path[1:]), text)
        self._path.pop()

    def close(self) -> None:
        pass


def _stems(folder: DataFolder, split: str, problems: list[Problem]) -> list[tuple[str, str]]:
    """(stem, annotation file) of every image of a split, each once."""
    list_file = f"ImageSets/Main/{split}.txt"
    if folder.find(list_file) is None:
        if split != ALL:
            known = ", ".join(voc_splits(folder.root))
            raise UserError(f"{folder.root / list_file}: no such split; there is {known}")
        lines = sorted(name[:-4] for name in folder.listing("Annotations") if name.lower().endswith(".xml"))
    else:
        lines = folder.read(list_file, 1 << 28).decode("utf-8-sig", errors="replace").splitlines()
    stems: dict[str, str] = {}
    for line in filter(None, (line.strip() for line in lines)):
        try:
            stem, file = _stem_of_line(folder, line)
        except OutsideError as error:
            problems.append(Problem(list_file, None, str(error), "path"))
            continue
        if stem in stems:
            problems.append(Problem(list_file, None, f"{stem} is listed again; left out", "duplicate-image", "notice"))
        stems[stem] = file
    if not stems and not problems:
        raise UserError(f"{folder.root / list_file}: the split {split} names no image")
    return list(stems.items())


def _stem_of_line(folder: DataFolder, line: str) -> tuple[str, str]:
    """A line is a stem; or a stem and 1, 0 or -1 (class-wise lists); or an image's file name."""
    by_class = re.fullmatch(r"(\S+)\s+(?:-1|0|1)", line)
    without_extension = line.rpartition(".")[0] if line.lower().endswith(IMAGE_EXTENSIONS) else ""
    for stem in filter(None, (line, by_class and by_class[1], without_extension)):
        if (file := folder.find(str(PurePosixPath("Annotations", f"{stem}.xml")))) is not None:
            return stem, file
    return line, f"Annotations/{line}.xml"


def _read_annotation(folder: DataFolder, file: str, problems: list[Problem]) -> Annotation | None:
    try:
        return parse_annotation(folder.read(file, MAX_XML_BYTES))
    except ValueError as error:
        problems.append(Problem(file, None, str(error).removeprefix(f"{folder.root / file}: "), "annotation"))
    return None


def _find_image(
    folder: DataFolder, stem: str, file: str, annotation: Annotation, problems: list[Problem]
) -> str | None:
    """By the split's stem; only where that finds none, or several, by what `<filename>` says."""
    named = annotation.fields.get("filename", "")
    try:
        found = folder.find_image("JPEGImages", stem)
        if len(found) == 1:
            return found[0]
        by_name = folder.find(str(PurePosixPath("JPEGImages", named))) if named else None
    except OutsideError as error:
        problems.append(Problem(file, None, str(error), "path"))
        return None
    if by_name is not None and by_name.lower().endswith(IMAGE_EXTENSIONS):
        return by_name
    if found:
        return found[0]
    message = f"its image JPEGImages/{stem}.jpg (or .png, ...) is missing; add it or delete the annotation"
    problems.append(Problem(file, None, message, "missing-image"))
    return None


def _size_hw(file: str, annotation: Annotation, problems: list[Problem]) -> tuple[int, int] | None:
    texts = [annotation.fields.get(f"size/{side}", "") for side in ("width", "height")]
    sides = _numbers(texts)
    if sides is not None and all(1 <= side < 1 << 31 and side.is_integer() for side in sides):
        width, height = sides
        return int(height), int(width)
    read = " x ".join(shown(text) for text in texts)
    problems.append(
        Problem(file, None, f"no size of the image ({read}); write <size> with width and height", "no-size")
    )
    return None


def _add_object(image: ImageObjects, number: int, found: dict[str, str], categories: Categories) -> None:
    name = found.get("name")
    texts = [found.get(f"bndbox/{side}", "nothing") for side in _SIDES]
    written = ", ".join(f"{side} {text[:20]}" for side, text in zip(_SIDES, texts, strict=True))
    sides = _numbers(texts)
    if not name:
        image.report(number, "annotation", "it has no <name>; name its class")
    elif name not in categories.label_of:
        image.report(number, "class", unknown_class(name, categories))
    elif sides is None:
        image.report(number, "annotation", f"no box in numbers ({written}); write xmin, ymin, xmax, ymax")
    else:
        xmin, ymin, xmax, ymax = sides
        for axis, low, high in (("x", xmin, xmax), ("y", ymin, ymax)):
            if high <= low:
                message = f"{axis}max {high:.8g} <= {axis}min {low:.8g}; fix or delete the box"
                image.report(number, "box-empty", message)
                return
        box_xyxy = (xmin - 1.0, ymin - 1.0, xmax, ymax)  # 1-based inclusive -> 0-based half-open
        ignored = found.get("difficult", "0").lower() in ("1", "true")
        image.add(number, box_xyxy, categories.label_of[name], written=written, ignored=ignored)


def _numbers(texts: list[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None


def _listed_classes(folder: DataFolder) -> Categories | None:
    file = folder.first_existing(CLASS_LISTS)
    if file is None:
        return None
    lines = folder.read(file, 1 << 20).decode("utf-8-sig", errors="replace").splitlines()
    return Categories.from_names(filter(None, (line.strip() for line in lines)))
