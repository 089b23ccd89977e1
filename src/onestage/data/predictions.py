"""Which files of a data folder hold what a model found: those are no labels while there are others.

A run of `predict` or of another program may have written into the folder of the images. Its boxes are skipped where the
folder has annotations besides; a folder that is named itself, or joined, is read as it is.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from onestage.data.folder import DataFolder, folder_of, is_image, key_of, stem_of

LIST_NAME = ".onestage-predict.jsonl"  # in a folder that `predict` wrote: a list [path, fingerprint] on each line
LABELS = (".txt", ".xml", ".json")  # of formats with a file an image
# folders that are called as those of predictions are; Ultralytics writes runs/detect/predict2/labels
PREDICTED = re.compile(
    r"(?:^|/)(runs/(?:detect|segment|pose|obb|track|val)|(?:predict(?:ion|ed)?s?|preds?|inference)(?:[^\w/]|_)*\d*)/",
    re.IGNORECASE,
)

Fingerprint: TypeAlias = tuple[int, int]  # size in bytes, and time of the last change in nanoseconds


def without_predictions(folder: DataFolder) -> tuple[DataFolder, list[str]]:
    """The folder without what models found in it, and the places that are skipped.

    That is what `predict` lists. Of folders that are only called so, it is the label files of images that have others.
    """
    folders = {folder_of(file) for file in folder.files}
    above = {"/".join(parts[:depth]) for parts in (one.split("/") for one in folders) for depth in range(len(parts))}
    listed = {
        f"{one}/{name}" if one else name: f"{one}/" if one else name
        for one in sorted(folders | above)
        for name in written_by_predict(folder.root / one)
    }
    place_of = {file: listed[file] for file in folder.files if file in listed}
    if called := _called_so(folder, folders):
        labels = [file for file in folder.files if file.lower().endswith(LABELS) and file not in listed]
        elsewhere = {key_of(image_stem(file)) for file in labels if folder_of(file) not in called}
        for file in labels:
            stem = image_stem(file)
            if folder_of(file) in called and key_of(stem) in elsewhere and folder.images_of_stem(stem):
                place_of[file] = called[folder_of(file)]
    if folder.only is not None:
        place_of.pop(folder.only, None)
    return (folder.without(place_of), sorted(set(place_of.values()))) if place_of else (folder, [])


def image_stem(file: str) -> str:
    """The stem of the image that a label file is called after: a for a.xml, and for a.jpg.txt."""
    stem = stem_of(file)
    return stem_of(stem) if is_image(stem) else stem


def _called_so(folder: DataFolder, folders: set[str]) -> dict[str, str]:
    """Folders that are called as those of predictions are, each with that part of its path.

    Not those that a YAML names, and not those with an image that is nowhere else: they are of the data set.
    """
    found = {one: match for one in folders if (match := PREDICTED.search(f"{one}/"))}
    if not found:
        return {}
    settings = [file for file in folder.annotations(".yaml", ".yml") if folder_of(file) not in found]
    text = "\n".join(map(folder.head, settings))
    place_of = {one: f"{one}/"[: match.end()] for one, match in found.items() if match[1] not in text}
    elsewhere = {key_of(stem_of(image)) for image in folder.images if folder_of(image) not in place_of}
    inside = [image for image in folder.images if folder_of(image) in place_of]
    of_the_data = {place_of[folder_of(image)] for image in inside if key_of(stem_of(image)) not in elsewhere}
    return {one: place for one, place in place_of.items() if place not in of_the_data}


def written_by_predict(folder: Path) -> set[str]:
    """The files below a folder that `predict` wrote there, and nobody changed since then."""
    return {name for name, fingerprint in read_list(folder).items() if is_as_written(folder / name, fingerprint)}


def read_list(folder: Path) -> dict[str, Fingerprint | None]:
    """The files that `predict` wrote into a folder, by their paths below it; None: the run ended meanwhile."""
    known: dict[str, Fingerprint | None] = {}
    try:
        lines = (folder / LIST_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return known
    for line in lines:
        with suppress(ValueError, TypeError, LookupError):  # torn when a run was killed
            name, fingerprint = json.loads(line)
            known[str(name)] = None if fingerprint is None else (int(fingerprint[0]), int(fingerprint[1]))
    return known


def is_as_written(path: Path, fingerprint: Fingerprint | None) -> bool:
    """True for a file that nobody changed since `predict` wrote it."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and fingerprint in (None, fingerprint_of(status))


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    return status.st_size, status.st_mtime_ns
