"""VOC: an XML file an image, wherever it lies, and lists of the splits in `ImageSets/Main`.

Boxes of VOC are 1-based and inclusive (Everingham et al., VOC development kit, 2.2): pixels are 1..W, and the last one
belongs to the box. Ours are 0-based and half-open, so (xmin, ymin, xmax, ymax) is read as (xmin - 1, ymin - 1, xmax,
ymax) and written back the other way. Tools that count otherwise are told by what else they write (`_ORIGINS`).
`difficult` objects are `ignored`. Without lists, folders such as `train` are the splits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import cached_property
from math import degrees
from typing import Any
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser, ParseError
from jaxtyping import Bool, Float

from onestage.data.folder import DataFolder, MissingImageError, OutsideError, folder_of, key_of, shown, some_of, stem_of
from onestage.data.reading import (
    ALL,
    AnnotatedImage,
    AnnotatedObject,
    Faults,
    Source,
    class_list,
    numbers_of,
    whole_size,
)
from onestage.data.shapes import turned_box, turned_by
from onestage.data.split_names import is_split, without_annotations
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.terminal import watched
from onestage.texts import one_line

MAX_XML_BYTES = 2 << 20
MAX_XML_DEPTH = 32
CLASS_LISTS = ("classes.txt", "labels.txt", "predefined_classes.txt")
_SIDES = ("xmin", "ymin", "xmax", "ymax")
# lines of split lists
_STEM_AND_SIGN, _IMAGE_AND_FILE = re.compile(r"(\S+)\s+(?:-1|0|1)"), re.compile(r"(.*\S)\s+\S+\.xml")
# in the first line of XML; the parser itself knows those of one byte a letter, UTF-8 and UTF-16
_ENCODING_OF_SEVERAL_BYTES = re.compile(
    rb"\s*<\?xml[^>]*\sencoding\s*=\s*[\"'](gb[\w-]+|big5[\w-]*|euc[_-]\w+|shift_jis\w*|cp9\d\d|ks_c_5601[\w-]*)[\"']",
    re.IGNORECASE,
)
# tool -> (a field that it alone writes, its text, what x0 and y0 and what x1 and y1 have to lose)
_ORIGINS = {
    "CVAT": ("source/image", "Unknown", 0.0, 0.0),
    "Label Studio": ("owner/name", "Label Studio", 0.0, 0.0),
    "Roboflow": ("source/database", "roboflow.com", 1.0, 1.0),
    "makesense.ai": ("source/database", "Unspecified", 0.0, 0.0),
}


def find_voc(folder: DataFolder) -> VocSource | None:
    """The XML files of a folder, if the first of them are VOC's."""
    files = folder.annotations(".xml")
    looked_at = some_of(files)
    is_voc = any(map(_is_voc, (folder.head(file, 4096) for file in looked_at)))
    folders = {folder_of(file).rpartition("/")[2].lower() for file in (*files, *folder.images)}
    is_voc |= bool(files) and {"annotations", "jpegimages"} <= folders  # whatever is in the files
    return VocSource(folder, files) if is_voc else None


def _is_voc(head: str) -> bool:
    """True for the beginning of VOC's XML, not for MIT LabelMe's."""
    return bool(re.search(r"<annotation[\s>]", head, re.IGNORECASE)) and "<sourceAnnotation>" not in head


class VocSource(Source):
    """The XML files of a folder."""

    one_image_each = True

    def __init__(self, folder: DataFolder, files: list[str]) -> None:
        self.folder, self.files = folder, files
        self._files_of: dict[str, list[str]] = defaultdict(list)  # stem -> XML files
        for file in files:
            self._files_of[key_of(stem_of(file))].append(file)
        lists = self._split_lists()
        annotated = {split: lists[split] for split in lists if self._is_annotated(lists[split])}
        self._lists = annotated or lists
        self.not_annotated = sorted(set(lists).difference(self._lists))

    @cached_property
    def about(self) -> str:
        tool = ""
        for file in self.files[:3]:
            try:
                tool = tool or tool_of(parse_annotation(self.folder.read(file, MAX_XML_BYTES)))
            except ValueError:  # reported when it is read
                continue
        beside = any(folder_of(file) == folder_of(image) for file in self.files[:1] for image in self.folder.images)
        where = f" beside {len(self.folder.images):,} images" if beside else f", {len(self.files):,} files"
        return f"VOC{f' by {tool}' if tool else ''}: XML{where}" + without_annotations(self.not_annotated)

    @property
    def splits(self) -> list[str]:
        return sorted(self._lists) or sorted({self.folder.split_of(file) or ALL for file in self.files})

    def _split_lists(self) -> dict[str, list[str]]:
        """Split -> its lists, without those of one class (`cat_train`). CVAT calls a list of all images `default`."""
        found: dict[str, list[str]] = defaultdict(list)
        for file in self.folder.annotations(".txt"):
            if re.search(r"(^|/)imagesets/(main/)?[^/]+$", file, re.IGNORECASE) or self._is_list(file):
                found[stem_of(file)].append(file)
        splits = [name for name in found if not any(name.endswith(f"_{split}") for split in found)]
        return {ALL if name == "default" else name: found[name] for name in splits}

    def _is_annotated(self, lists: list[str]) -> bool:
        """False for lists of images of which none has an XML file, as the test images of VOC 2012."""
        lines = [(line, _root_of(file)) for file in lists for line in filter(None, self.folder.read_lines(file))]
        for line, root in lines:
            with suppress(OutsideError):
                if self._file_of_line(line, root) is not None:
                    return True
        return not lines

    def _is_list(self, file: str) -> bool:
        """True for a text file that is named as a split and whose first line means one of the annotations."""
        first = self.folder.head(file, 4096).splitlines()[:1] if is_split(stem_of(file)) else []
        words = [word for line in first for word in (line.strip(), *line.split())]
        return any(key_of(stem_of(word.replace("\\", "/"))) in self._files_of for word in words if word)

    def categories(self, split: str) -> Categories | None:
        return class_list(self.folder, *CLASS_LISTS)

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        files = self._files(split, faults)
        for file in watched(files, f"reading {split}", len(files)):
            try:
                annotation = parse_annotation(self.folder.read(file, MAX_XML_BYTES))
            except OtherXmlError as error:
                is_named = bool(self._lists) or bool(self.folder.images_of_stem(stem_of(file)))
                kind, level = ("annotation", "error") if is_named else ("other-file", "notice")
                faults.report(file, kind, str(error), level)
                continue
            except ValueError as error:
                faults.report(file, "annotation", str(error).removeprefix(f"{self.folder.root / file}: "))
                continue
            path = self._image_of(file, annotation.fields.get("filename", ""), faults)
            if path is not None:
                size = (annotation.fields.get(f"size/{side}", "") for side in ("height", "width"))
                objects = _objects(file, annotation, faults)
                yield AnnotatedImage(file, path, objects, whole_size(*size), image_id=stem_of(file))

    def _files(self, split: str, faults: Faults) -> list[str]:
        """The annotation files of a split, each once."""
        if not self._lists:
            return [file for file in self.files if (self.folder.split_of(file) or ALL) == split]
        files: dict[str, None] = {}
        for list_file in self._lists[split]:
            root = _root_of(list_file)
            for line in filter(None, self.folder.read_lines(list_file)):
                try:
                    file = self._file_of_line(line, root)
                except OutsideError as error:
                    faults.report(list_file, "path", str(error))
                    continue
                if file is None:
                    faults.report(f"{root}Annotations/{line}.xml", "annotation", "no such file")
                elif file in files:
                    faults.report(list_file, "duplicate-image", f"{shown(line)} is listed again; left out", "notice")
                else:
                    files[file] = None
        if not files and not faults.problems:
            raise UserError(f"{self.folder.root / self._lists[split][0]}: the split {split} names no image")
        return list(files)

    def _file_of_line(self, line: str, root: str) -> str | None:
        """A line is a stem, a stem and 1, 0 or -1 (lists for one class), an image's path, or that and the XML's.

        `root` is the folder of its list, with a slash. None: there is no such file. A list may have a million lines.
        """
        if len(alone := self._files_of.get(key_of(line), ())) == 1:
            return alone[0]
        with_sign, with_file = _STEM_AND_SIGN.fullmatch(line), _IMAGE_AND_FILE.fullmatch(line)
        parts, outside = self.folder.parts_of((with_file or [line, line])[1])
        last = parts[-1] if parts else ""
        for name in filter(None, (last, with_sign and with_sign[1], stem_of(last))):
            found = self._files_of.get(key_of(name), [])
            if found:
                return min(found, key=lambda file: self._unlikeness(file, parts, root.lower()))
        if outside or ".." in line:
            raise OutsideError(f"{shown(line)} leads outside the data folder {self.folder.root}; name a file inside it")
        return None

    def _unlikeness(self, file: str, parts: list[str], root: str) -> tuple[Any, ...]:
        """Least for the file in the folders that a line names, below the folder of its list."""
        folders, named = key_of(folder_of(file)).split("/"), [key_of(part) for part in parts[:-1]]
        return folders[len(folders) - len(named) :] != named, not file.lower().startswith(root), len(file), file

    def _image_of(self, file: str, filename: str, faults: Faults) -> str | None:
        """The image of an annotation: by its stem if one alone has that; else by `<filename>`."""
        stem = stem_of(file)
        if not filename or len(self.folder.images_of_stem(stem)) == 1:
            return faults.find_image(stem, file)
        try:
            return self.folder.find_image(filename, folder_of(file), faults.split)
        except MissingImageError:
            return faults.find_image(stem, file)
        except OutsideError as error:
            return faults.report(file, "path", str(error))


def _root_of(list_file: str) -> str:
    """The folder of `ImageSets`, with a slash."""
    return re.split(r"imagesets/", list_file, flags=re.IGNORECASE)[0]


class OtherXmlError(ValueError):
    """An XML file of something else."""


class Annotation:
    """What a parser fills, without a tree, from one XML file: texts by path below `<annotation>` and `<object>`s."""

    def __init__(self) -> None:
        self.root = ""
        self.fields: dict[str, str] = {}
        self.objects: list[dict[str, str]] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self._object_depth = 0  # of the <object> that is read

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition("}")[2].lower()  # without a namespace
        self._path.append(tag)
        self._text.clear()
        if len(self._path) > MAX_XML_DEPTH:
            raise ValueError(f"its elements are more than {MAX_XML_DEPTH} deep; write it again")
        if len(self._path) == 1:
            self.root = tag
        elif tag == "object" and not self._object_depth:
            self.objects.append({})
            self._object_depth = len(self._path)
        elif self._object_depth and self._below_object() == "bndbox" and "bndbox/xmin" in self.objects[-1]:
            raise ValueError(f"object {len(self.objects)} has two boxes; make it two objects")

    def data(self, text: str) -> None:
        self._text.append(text)

    def end(self, tag: str) -> None:
        text = "".join(self._text).strip()
        self._text.clear()
        if self._object_depth:
            texts, place = self.objects[-1], self._below_object()
            texts.setdefault(place, text)
            if place == "attributes/attribute":  # CVAT's: a name and a value
                texts[f"attribute {texts.pop(f'{place}/name', '')}"] = texts.pop(f"{place}/value", "")
        else:
            self.fields.setdefault("/".join(self._path[1:]), text)
        if len(self._path) == self._object_depth:
            self._object_depth = 0
        self._path.pop()

    def _below_object(self) -> str:
        """The place of an element in its object: those of a `part`, as of a person, are not the object's own."""
        return "/".join(self._path[self._object_depth :])


def parse_annotation(data: bytes) -> Annotation:
    """Parse one VOC XML file, from a stranger: entities, deep nesting or other content is a `ValueError`."""
    annotation = Annotation()
    parse_xml(data, annotation)
    if annotation.root != "annotation":
        raise OtherXmlError(f"the outer element is <{shown(annotation.root)}>, expected <annotation>")
    return annotation


def parse_xml(data: bytes, target: object) -> None:
    """Feed an XML file to the `start`, `data` and `end` of a target; entities or damage are a `ValueError`."""
    declared = _ENCODING_OF_SEVERAL_BYTES.match(data)
    parser = DefusedXMLParser(target=target, encoding="utf-8" if declared else None)
    try:
        parser.feed(data.decode(declared[1].decode()).encode() if declared else data)
        parser.close()
    except DefusedXmlException as error:
        raise ValueError("it declares entities, which are refused; delete the declaration") from error
    except (ParseError, ExpatError, LookupError, UnicodeDecodeError) as error:
        raise ValueError(f"damaged XML ({error}); write it again") from error


def tool_of(annotation: Annotation) -> str:
    """The labelling tool that wrote a VOC file, "" for an unknown one."""
    fields = annotation.fields
    known = (tool for tool, (field, text, *_) in _ORIGINS.items() if fields.get(field) == text)
    by_labelimg = "path" in fields and fields.get("source/database") == "Unknown"
    return next(known, "LabelImg" if by_labelimg else "")


def _objects(file: str, annotation: Annotation, faults: Faults) -> Iterator[AnnotatedObject]:
    _, _, first, last = _ORIGINS.get(tool_of(annotation), ("", "", 1.0, 0.0))
    for number, texts in enumerate(annotation.objects, start=1):
        name = texts.get("name")
        box = {side: texts.get(f"bndbox/{side}", "nothing") for side in _SIDES}
        written = ", ".join(f"{side} {text[:20]}" for side, text in box.items())
        sides = numbers_of(box.values()) or _turned_sides(texts)
        if not name:
            faults.report(file, "annotation", "it has no <name>; name its class", number=number)
        elif sides is None:
            message = f"no box in numbers ({written}); write xmin, ymin, xmax, ymax"
            faults.report(file, "annotation", message, number=number)
        else:
            xmin, ymin, xmax, ymax = sides
            box_xyxy = turned_by(
                (xmin - first, ymin - first, xmax - last, ymax - last), texts.get("attribute rotation")
            )
            difficult = texts.get("difficult", "0").lower() in ("1", "true")
            yield AnnotatedObject(number, name, box_xyxy, written, ignored=difficult, difficult=difficult)


def _turned_sides(texts: dict[str, str]) -> list[float] | None:
    """The upright box around roLabelImg's turned one; None where there is none."""
    numbers = numbers_of(texts.get(f"robndbox/{side}", "") for side in ("cx", "cy", "w", "h", "angle"))
    if numbers is None:
        return None
    cx, cy, w, h, angle = numbers
    box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    return list(turned_box(box, degrees(angle), (cx, cy)))


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
        x0, y0, x1, y1 = (Decimal(str(np.float32(side))) for side in box_xyxy)
        sides = (x0 + 1, y0 + 1, x1, y1)  # 0-based half-open -> 1-based inclusive, with no digit lost
        bndbox = "".join(f"<{tag}>{side.normalize():f}</{tag}>" for tag, side in zip(_SIDES, sides, strict=True))
        head = f"<name>{escape(one_line(name))}</name><difficult>{int(hard)}</difficult>"
        objects += f"  <object>{head}<bndbox>{bndbox}</bndbox></object>\n"
    size = f"<width>{size_hw[1]}</width><height>{size_hw[0]}</height><depth>3</depth>"
    head = f"  <filename>{escape(one_line(file_name))}</filename>\n  <size>{size}</size>\n"
    return f"<annotation>\n{head}{objects}</annotation>\n"
