"""VOC folders: `Annotations/STEM.xml`, `JPEGImages/STEM.jpg`, `ImageSets/Main/SPLIT.txt`.

Boxes of VOC are 1-based and inclusive (Everingham et al., VOC development kit, 2.2): pixels are 1..W, and the last one
belongs to the box. Ours are 0-based and half-open, so (xmin, ymin, xmax, ymax) is read as (xmin - 1, ymin - 1, xmax,
ymax) and written back the other way. `difficult` objects are `ignored`. A folder without `ImageSets/Main` has one
split, "all": every annotation.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError
from jaxtyping import Bool, Float

from onestage.data.reading import DataFolder, ImageObjects, OutsideError, SplitBuilder, is_image, shown, whole_size
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.errors import UserError
from onestage.structures import Categories

MAX_XML_BYTES = 2 << 20
MAX_XML_DEPTH = 32
ALL = "all"
CLASS_LISTS = ("classes.txt", "labels.txt")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def is_voc(root: Path) -> bool:
    return (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir()


def voc_splits(root: str | Path) -> list[str]:
    """The splits of a VOC folder, sorted ("all" if it has no `ImageSets/Main`), without lists for one class."""
    stems = sorted(path.stem for path in (Path(root) / "ImageSets" / "Main").glob("*.txt"))
    splits = [stem for stem in stems if not any(stem.endswith(f"_{split}") for split in stems)]
    return splits or [ALL]


def read_voc(root: str | Path, split: str, categories: Categories | None = None) -> tuple[Table, list[Problem]]:
    """Read one split, a file of `ImageSets/Main` or "all"; see `read_dataset`.

    `categories` None takes `classes.txt` or `labels.txt` of the folder, else the class names found, sorted.
    """
    builder = SplitBuilder(root, split, "voc")
    folder = builder.folder
    annotations = []
    for stem, file in _listed_files(builder):
        try:
            annotations.append((stem, file, parse_annotation(folder.read(file, MAX_XML_BYTES))))
        except ValueError as error:
            builder.report(file, "annotation", str(error).removeprefix(f"{folder.root / file}: "))
    if categories is None:
        class_list = folder.first_existing(CLASS_LISTS)
        listed = [] if class_list is None else list(filter(None, folder.read_lines(class_list, 1 << 20)))
        found = {name for _, _, annotation in annotations for one in annotation.objects if (name := one.get("name"))}
        categories = Categories.from_names(listed or sorted(found))
    for stem, file, annotation in annotations:
        path = _image_of(builder, stem, file, annotation.fields.get("filename", ""))
        width, height = (annotation.fields.get(f"size/{side}", "") for side in ("width", "height"))
        size_hw = whole_size(*(_numbers([height, width]) or (None, None)))
        if size_hw is None:
            message = f"no size of the image ({shown(width)} x {shown(height)}); write <size> with width and height"
            builder.report(file, "no-size", message)
        elif path is not None:
            image = ImageObjects(file, size_hw, categories, builder.problems)
            for number, texts in enumerate(annotation.objects, start=1):
                _add_object(image, number, texts)
            builder.add(image, path=path, image_id=stem)
    return builder.build(categories)


class Annotation:
    """What a parser fills, without a tree, from one XML file: texts by path below `<annotation>` and `<object>`s."""

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


def parse_annotation(data: bytes) -> Annotation:
    """Parse one VOC XML file, from a stranger: a DTD, entities, deep nesting or other content is a `ValueError`."""
    annotation = Annotation()
    parser = DefusedXMLParser(target=annotation, forbid_dtd=True)
    try:
        parser.feed(data)
        parser.close()
    except DefusedXmlException as error:
        raise ValueError("it declares a DTD or entities, which are refused; delete the declaration") from error
    except (ParseError, ExpatError, LookupError) as error:
        raise ValueError(f"damaged XML ({error}); write it again") from error
    if annotation.root != "annotation":
        raise ValueError(f"the outer element is <{shown(annotation.root)}>, expected <annotation>")
    return annotation


def voc_annotation(
    file_name: str,
    size_hw: tuple[int, int],
    boxes_xyxy: Float[np.ndarray, "N 4"],
    names: Sequence[str],
    difficult: Bool[np.ndarray, " N"] | Sequence[bool],
) -> str:
    """The text of one VOC XML file, from 0-based half-open boxes in pixels of the image."""
    objects = ""
    for box_xyxy, name, hard in zip(boxes_xyxy, names, difficult, strict=True):
        x0, y0, x1, y1 = (float(side) for side in box_xyxy)
        sides = (x0 + 1.0, y0 + 1.0, x1, y1)  # 0-based half-open -> 1-based inclusive
        bndbox = "".join(f"<{tag}>{side:.8g}</{tag}>" for tag, side in zip(_SIDES, sides, strict=True))
        head = f"<name>{escape(name)}</name><difficult>{int(hard)}</difficult>"
        objects += f"  <object>{head}<bndbox>{bndbox}</bndbox></object>\n"
    size = f"<width>{size_hw[1]}</width><height>{size_hw[0]}</height><depth>3</depth>"
    head = f"  <filename>{escape(file_name)}</filename>\n  <size>{size}</size>\n"
    return f"<annotation>\n{head}{objects}</annotation>\n"


def _listed_files(builder: SplitBuilder) -> list[tuple[str, str]]:
    """(stem, annotation file) of every image of the split, each once."""
    folder, split = builder.folder, builder.split
    list_file = f"ImageSets/Main/{split}.txt"
    if split == ALL and folder.find(list_file) is None:
        lines = sorted(name[:-4] for name in folder.listing("Annotations") if name.lower().endswith(".xml"))
    else:
        lines = folder.read_lines(list_file)
    files: dict[str, str] = {}
    for line in filter(None, lines):
        try:
            stem, file = _stem_of_line(folder, line)
        except OutsideError as error:
            builder.report(list_file, "path", str(error))
            continue
        if stem in files:
            builder.report(list_file, "duplicate-image", f"{stem} is listed again; left out", "notice")
        files[stem] = file
    if not files and not builder.problems:
        raise UserError(f"{folder.root / list_file}: the split {split} names no image")
    return list(files.items())


def _stem_of_line(folder: DataFolder, line: str) -> tuple[str, str]:
    """(stem, annotation file): a line is a stem, a stem and 1, 0 or -1 (lists for one class), or an image's name."""
    with_sign = re.fullmatch(r"(\S+)\s+(?:-1|0|1)", line)
    without_extension = line.rpartition(".")[0] if is_image(line) else ""
    for stem in filter(None, (line, with_sign and with_sign[1], without_extension)):
        if (file := folder.find(str(PurePosixPath("Annotations", f"{stem}.xml")))) is not None:
            return stem, file
    return line, f"Annotations/{line}.xml"


def _image_of(builder: SplitBuilder, stem: str, file: str, filename: str) -> str | None:
    """The image of an annotation: by its stem; if that finds none or several, by `<filename>`."""
    try:
        found = builder.folder.images_with_stem(f"JPEGImages/{stem}")
        ask_name = filename and len(found) != 1
        by_name = builder.folder.find(str(PurePosixPath("JPEGImages", filename))) if ask_name else None
    except OutsideError as error:
        return builder.report(file, "path", str(error))
    if by_name is not None and is_image(by_name):
        return by_name
    if found:
        return found[0]
    message = f"its image JPEGImages/{stem}.jpg (or .png, ...) is missing; add it or delete the annotation"
    return builder.report(file, "missing-image", message)


def _add_object(image: ImageObjects, number: int, texts: dict[str, str]) -> None:
    name = texts.get("name")
    if not name:
        return image.report(number, "annotation", "it has no <name>; name its class")
    label = image.find_label(number, name)
    if label is None:
        return None
    box = {side: texts.get(f"bndbox/{side}", "nothing") for side in _SIDES}
    written = ", ".join(f"{side} {text[:20]}" for side, text in box.items())
    sides = _numbers(list(box.values()))
    if sides is None:
        return image.report(number, "annotation", f"no box in numbers ({written}); write xmin, ymin, xmax, ymax")
    xmin, ymin, xmax, ymax = sides
    for axis, low, high in (("x", xmin, xmax), ("y", ymin, ymax)):
        if high <= low:
            message = f"{axis}max {high:.8g} <= {axis}min {low:.8g}; fix or delete the box"
            return image.report(number, "box-empty", message)
    box_xyxy = (xmin - 1.0, ymin - 1.0, xmax, ymax)  # 1-based inclusive -> 0-based half-open
    ignored = texts.get("difficult", "0").lower() in ("1", "true")
    return image.add(number, label, box_xyxy, written=written, ignored=ignored)


def _numbers(texts: list[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return None
