"""KITTI: a text file an image (`label_2/000001.txt`), with a line of 15 or 16 words an object.

They are the class, truncated, occluded, alpha, then the box: left, top, right, bottom in pixels from 0; what follows
is about space (KITTI object development kit). What is in a `DontCare` box is ignored, of whatever class.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from onestage.data.folder import DataFolder, folder_of, shown, some_of
from onestage.data.reading import AnnotatedImage, AnnotatedObject, Box, Faults, FilesSource, name_of, numbers_of
from onestage.errors import UserError
from onestage.structures import Categories

MAX_LABEL_BYTES = 8 << 20


def find_kitti(folder: DataFolder) -> KittiSource | None:
    """The text files of folders called `label_2`, or of all folders, whose first files hold KITTI's lines."""
    files_of: dict[str, list[str]] = defaultdict(list)
    for file in folder.annotations(".txt"):
        files_of[folder_of(file)].append(file)
    named = [one for one in files_of if re.search(r"(^|/)label_\d+$", one)]
    tried = named or list(files_of)
    fitting = [one for one in tried if any(is_kitti(folder.head(file, 4096)) for file in some_of(files_of[one]))]
    return KittiSource(folder, [file for one in fitting for file in files_of[one]]) if fitting else None


def is_kitti(head: str) -> bool:
    """True for the beginning of a file of KITTI's lines."""
    line = next(filter(None, (line.strip() for line in head.splitlines())), "")
    return _name_and_box(line) is not None


def _name_and_box(line: str) -> tuple[str, Box] | None:
    """The class and the box of a line; None for what is no line of KITTI."""
    words = line.split()
    numbers = numbers_of(words[1:])
    if len(words) not in (15, 16) or numbers is None or numbers_of(words[:1]) is not None or not name_of(words[0]):
        return None
    return words[0], (numbers[3], numbers[4], numbers[5], numbers[6])


class KittiSource(FilesSource):
    """Text files, one an image."""

    tool = "KITTI"
    one_image_each = True

    @cached_property
    def _categories(self) -> Categories:
        names: set[str] = set()
        for file in self.files:
            try:
                lines = self.folder.read_lines(file, MAX_LABEL_BYTES)
            except UserError:  # reported when the images are read
                continue
            names |= {found[0] for line in lines if (found := _name_and_box(line)) is not None}
        return Categories.from_names(sorted(names - {"DontCare"}))

    def categories(self, split: str) -> Categories:
        """The classes of all splits; regions to ignore are of each of them."""
        return self._categories

    def images(self, split: str, faults: Faults) -> Iterator[AnnotatedImage]:
        for file in self.of_split(split):
            try:
                lines = self.folder.read_lines(file, MAX_LABEL_BYTES)
            except UserError as error:
                faults.report(file, "annotation", str(error).removeprefix(f"{self.folder.root / file}: "))
                continue
            # label_2 has the objects of image_2, the left colour camera; image_3 is the right one
            path = faults.find_image(re.sub(r"(^|/)label(_\d)?/([^/]*)$", r"\1image\2/\3", file)[: -len(".txt")], file)
            if path is not None:
                yield AnnotatedImage(file, path, list(_objects(file, lines, faults)))


def _objects(file: str, lines: list[str], faults: Faults) -> Iterator[AnnotatedObject]:
    for number, line in enumerate(lines, start=1):
        found = _name_and_box(line)
        if found is not None:
            name, box = found
            dont_care = name == "DontCare"
            yield AnnotatedObject(number, None if dont_care else name, box, f"box {shown(box)}", dont_care)
        elif line:
            message = f"{shown(line)} is not a class and 14 or 15 numbers; correct or delete it"
            faults.report(file, "annotation", message, number=number)
