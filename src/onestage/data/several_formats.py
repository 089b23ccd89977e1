"""A folder that several formats fit: which of them counts, and which images only another one annotates."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

from onestage.data.folder import DataFolder, folder_of, key_of, stem_of
from onestage.data.formats.yolo import YoloSource
from onestage.data.reading import Source
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.errors import UserError
from onestage.texts import counted

Labelled = Mapping[str, str]  # image -> its annotation file
EMPTY = re.compile(r'"(?:shapes|objects)"\s*:\s*\[\s*\]')


def choose_format(folder: DataFolder, fitting: Mapping[str, Source]) -> tuple[str, Labelled]:
    """The first format that fits, and the images that only another one labels.

    Of formats with a file an image, the one counts that finds objects in most images. YOLO comes last where all its
    labels have the confidence of a model; it comes first where a YAML names it.
    """
    kind = next(iter(fitting))
    if len(fitting) == 1:
        return kind, {}
    yolo = fitting.get("yolo")
    by_yaml = isinstance(yolo, YoloSource) and bool(yolo.file)
    labelled = {name: _labelled(folder, source) for name, source in fitting.items()}
    if isinstance(yolo, YoloSource) and not by_yaml and yolo.with_confidence:
        del labelled["yolo"]
        kind = next(iter(labelled))
    if by_yaml or not labelled[kind]:
        return kind, _beside(folder, kind, labelled)
    # of equal ones the first
    kind = max(labelled, key=lambda name: sum(_holds_object(folder, file) for file in labelled[name].values()))
    files = [file for name in labelled.keys() - {kind} for file in getattr(fitting[name], "files", ())]
    return kind, _in_folders_of_their_own(folder, labelled[kind], files) | _beside(folder, kind, labelled)


def _labelled(folder: DataFolder, source: Source) -> Labelled:
    """The images of a format with a file an image, also where that holds no object."""
    if isinstance(source, YoloSource):
        return {image: file for image in folder.images if (file := source.labels.of(image))}
    found = {}
    for file in getattr(source, "files", ()) if source.one_image_each else ():
        with suppress(UserError):  # of no image, or of several
            found[folder.find_image(stem_of(file), folder_of(file))] = file
    return found


def _holds_object(folder: DataFolder, file: str) -> bool:
    head = folder.head(file)
    return "<object" in head if file.lower().endswith(".xml") else bool(head.strip()) and not EMPTY.search(head)


def _beside(folder: DataFolder, kind: str, labelled: Mapping[str, Labelled]) -> dict[str, str]:
    """Files beside the images, or beside the labels of the format: a tool saved a part of them otherwise."""
    ours = labelled[kind]
    folders = {folder_of(file) for file in (*folder.images, *ours.values())} if ours else set()
    found = {
        image: file
        for theirs in labelled.values()
        for image, file in theirs.items()
        if image not in ours and folder_of(file) in folders and _holds_object(folder, file)
    }
    known = {_identity(folder, image) for image in ours} if found else ()
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
