"""What to say of a folder that holds no data set: what lies in it, and the nearest thing to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from onestage.data.folder import DataFolder, is_image, shown, stem_of
from onestage.data.formats.csv_tables import what_lacks
from onestage.runtime.decode import UNREAD_EXTENSIONS

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


@runtime_checkable
class Expected(Protocol):
    """A format, as far as messages need it."""

    @property
    def expected(self) -> str: ...


def what_is_there(folder: DataFolder, formats: Mapping[str, Expected]) -> str:
    """One line: what was found, what was expected, what mends it."""
    if folder.only is not None and folder.only.lower().endswith(ARCHIVES):
        return "an archive; unpack it, and give the folder that comes out"
    if folder.only is not None:
        return "not an annotation file that is read; give the folder of the labelled images (docs/data.md)"
    if not folder.files:
        return "the folder is empty; put labelled images into it"
    others = Counter(
        PurePosixPath(file).suffix.lower() or "(no extension)" for file in folder.files if not is_image(file)
    )
    found = ", ".join(f"{count:,} {extension}" for extension, count in others.most_common(4))
    images = f"{len(folder.images):,} image{'s' if len(folder.images) != 1 else ''}"
    nearest = _nearest(folder, formats)
    if len(formats) == 1:
        ((name, one),) = formats.items()
        expected = nearest or f"expected {one.expected}"
        return f"no {name} data set ({images}; {found or 'no other file'}); {expected}, or drop --format"
    archives = [file for file in folder.files if file.lower().endswith(ARCHIVES)]
    if not folder.images and archives:
        return f"no image in it, but the archive {archives[0]}; unpack it"
    if not folder.images:
        return f"no image in it (but {found}); put the images beside their annotations"
    if not others:
        return f"{images}, but no annotation; export the labels of your labelling tool into the folder"
    listed = [file for file in folder.annotations(".txt") if _is_list_of_papers(folder, file)]
    if listed:
        return (
            f"not a data set ({images}; {found}): {listed[0]} lists images with files of boxes, in no format that is "
            "read; convert them to VOC, COCO or YOLO by a short script, or name another format with --format"
        )
    if all(image.lower().endswith(UNREAD_EXTENSIONS) for image in folder.images):
        return f"{images}, all of a kind that is not read ({folder.images[0]}, ...); convert them to PNG"
    mend = f"{nearest + '; or ' if nearest else ''}export it as one of {', '.join(formats)} (docs/data.md)"
    return f"not a data set: {images}, {found}, but no annotation that is read; {mend}"


def _nearest(folder: DataFolder, formats: Mapping[str, Expected]) -> str:
    """The first table, else text file of an image, with what it has and what is expected; "" if there is none."""
    for file in folder.annotations(".csv", ".tsv") if "csv" in formats else ():
        if lacking := what_lacks(folder.head(file, 4096)):
            return f"{file} {lacking}"
    for file in folder.annotations(".txt") if "yolo" in formats else ():
        line = next(filter(str.strip, folder.head(file, 4096).splitlines()), "")
        if line and folder.images_of_stem(stem_of(file)) and not re.fullmatch(r"\d+(\s+[01]?\.\d+){4,}\s*", line):
            expected = "a class's number, then cx cy w h as fractions of the image: 0 0.5 0.5 0.25 0.125"
            return f"{file} begins with {shown(line)}; YOLO expects {expected}"
    return ""


def _is_list_of_papers(folder: DataFolder, file: str) -> bool:
    """True for lines of an image's path and that of a text file."""
    words = (folder.head(file, 4096).splitlines() or [""])[0].split()
    return len(words) == 2 and is_image(words[0]) and words[1].lower().endswith(".txt")
