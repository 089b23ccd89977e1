"""A folder that several formats fit: which of them counts, and which images only another one annotates."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from typing import NamedTuple

from onestage.data.folder import DataFolder, folder_of, key_of, stem_of
from onestage.data.formats.yolo import YoloSource
from onestage.data.reading import Faults, Source
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.errors import UserError
from onestage.texts import counted

Labelled = Mapping[str, str]  # image -> its annotation file
EMPTY = re.compile(r'"(?:shapes|objects)"\s*:\s*\[\s*\]')


class Labels(NamedTuple):
    """What a format says of the images of a folder."""

    file_of: Labelled
    with_object: Set[str]  # images
    one_image_each: bool  # of its files


def choose_format(folder: DataFolder, fitting: Mapping[str, Source]) -> tuple[str, Labelled]:
    """The format that counts of those that fit, and the images that only another one labels.

    It is the one that finds objects in most images, of equal ones the first; but YOLO where a YAML names it. What has
    the confidence of a model comes last.
    """
    kind = next(iter(fitting))
    if len(fitting) == 1:
        return kind, {}
    yolo = fitting.get("yolo")
    by_yaml = isinstance(yolo, YoloSource) and bool(yolo.file)
    drawn = {name: one for name, one in fitting.items() if by_yaml or not one.with_confidence} or fitting
    labels = {name: _labels(folder, source) for name, source in drawn.items() if source.one_image_each}
    if not by_yaml:
        labelled = set[str]().union(*(one.with_object for one in labels.values()))
        if len(drawn) > len(labels) and (kind not in labels or not labelled.issuperset(folder.images)):
            labels |= {name: _listed_labels(folder, one) for name, one in drawn.items() if name not in labels}
        kind = max((name for name in drawn if name in labels), key=lambda name: len(labels[name].with_object))
    ours = labels.pop(kind)
    files = [file for name in drawn if name != kind for file in getattr(drawn[name], "files", ())]
    second = {} if by_yaml else _in_folders_of_their_own(folder, ours.file_of, files)
    return kind, second | _beside(folder, ours, labels.values())


def _labels(folder: DataFolder, source: Source) -> Labels:
    """The images of a format with a file an image, also where that holds no object."""
    found = {}
    if isinstance(source, YoloSource):
        found = {image: file for image in folder.images if (file := source.labels.of(image))}
    else:
        for file in getattr(source, "files", ()):
            with suppress(UserError):  # of no image, or of several
                found[folder.find_image(stem_of(file), folder_of(file))] = file
    return Labels(found, {image for image, file in found.items() if _holds_object(folder, file)}, True)


def _listed_labels(folder: DataFolder, source: Source) -> Labels:
    """The images of a format with many images a file."""
    found: dict[str, str] = {}
    with_object = set[str]()
    with suppress(UserError):  # whoever reads it will say so
        for split in source.splits:
            for image in source.images(split, Faults(folder, split)):
                found[image.path] = image.file
                with_object |= {image.path} if any(image.objects) else set()
    return Labels(found, with_object, False)


def _holds_object(folder: DataFolder, file: str) -> bool:
    head = folder.head(file)
    return "<object" in head if file.lower().endswith(".xml") else bool(head.strip()) and not EMPTY.search(head)


def _beside(folder: DataFolder, ours: Labels, others: Iterable[Labels]) -> dict[str, str]:
    """Images with objects in another format alone: a tool saved a part of them otherwise.

    A file of one image lies beside images or beside the labels of ours; of a list, the images lie beside ours. A list
    may name images that were never labelled, so those without an object may have some in another format.
    """
    labelled = ours.file_of.keys() if ours.one_image_each else ours.with_object
    of_images = {folder_of(image) for image in ours.file_of}
    folders = {folder_of(file) for file in (*folder.images, *ours.file_of.values())}
    found = {
        image: one.file_of[image]
        for one in others
        for image in one.with_object - labelled
        if (folder_of(one.file_of[image]) in folders if one.one_image_each else folder_of(image) in of_images)
    }
    known = {_identity(folder, image) for image in labelled} if found else ()
    return {image: file for image, file in found.items() if _identity(folder, image) not in known}


def _in_folders_of_their_own(folder: DataFolder, ours: Labelled, files: Iterable[str]) -> dict[str, str]:
    """The images in the top folders of these files, where ours labels none of them: a second data set."""
    tops = {file.partition("/")[0]: file for file in files if "/" in file}
    images: dict[str, list[str]] = defaultdict(list)  # of each top folder
    for image in folder.images:
        images[image.partition("/")[0]].append(image)
    known = {_identity(folder, image) for image in ours}
    second = [top for top in tops if known.isdisjoint(_identity(folder, image) for image in images[top])]
    return {image: tops[top] for top in second for image in images[top]}


def _identity(folder: DataFolder, image: str) -> tuple[str, int]:
    """Equal for an image and its copy in another folder; images that are only numbered alike differ in size."""
    path = f"{folder.root}/{image}"
    return key_of(stem_of(image)), os.path.getsize(path) if os.path.exists(path) else 0


def without_images_of_others(table: Table, others: Labelled) -> tuple[Table, list[Problem]]:
    """The table without the images that only another format labels, which is an error: they are no background."""
    if not others:
        return table, []
    files = sorted(set(others.values()))
    message = (
        f"{counted(len(others), 'image')} with labels in another format alone ({', '.join(files[:3])}"
        f"{', ...' if len(files) > 3 else ''}), none in {table.kind}: left out; convert one of the two, join "
        f"folders of their own with +, or read one format alone with --format {table.kind}"
    )
    kept = [row for row, name in enumerate(table.image_names()) if name not in others]
    return table.subset(indices=kept), [Problem(files[0], None, message, "annotation")]
