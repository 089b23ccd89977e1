"""A data folder: every file below it, and the image that an annotation means.

File names come from annotations that strangers wrote, on other machines and in other folders. An image is looked for by
its path, then by its name, then by its stem, whatever their case; of several, the one counts whose folders are most
like those of the name, of its split and of the annotation. Only files below the named folder are ever opened (a folder
or a file in it may be a symbolic link to another disk).
"""

from __future__ import annotations

import codecs
import os
import re
import reprlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from onestage.data.json_text import parse_json
from onestage.data.masks import folders_of_masks, outermost
from onestage.data.split_names import is_split, may_be_of, split_key, split_of
from onestage.errors import UserError
from onestage.runtime.decode import EXTENSIONS, UNREAD_EXTENSIONS
from onestage.texts import decode_text, is_utf8

IMAGE_EXTENSIONS = (*(one for extensions in EXTENSIONS.values() for one in extensions), *UNREAD_EXTENSIONS)
MAX_FILES = 20_000_000
MAX_DEPTH = 64  # folders in folders
MAX_TEXT_BYTES = 1 << 28
IMAGE_FOLDERS = re.compile(r"images?|img|jpegimages|photos?|pictures?|frames", re.IGNORECASE)
# folders beside those of the images
ANNOTATION_FOLDERS = re.compile(r"annotations?|anns?|annots|labels?|json|configs?|cfg", re.IGNORECASE)
# left by Macs, Windows, Python and network storage (thumbnails, bins); names that begin with a dot are hidden
JUNK = {"__macosx", "thumbs.db", "desktop.ini", "__pycache__", "lost+found", "system volume information"}
JUNK |= {"@eadir", "@recycle", "#recycle", "$recycle.bin"}
# digits and letters that Label Studio puts before the names of uploaded images
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")

_SHORT = reprlib.Repr()  # of lists in lists, which may be endless
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 80, 80


class OutsideError(UserError):
    """A file name that leads out of the data folder."""


class MissingImageError(UserError):
    """An image that is not in the data folder."""


def is_image(name: str) -> bool:
    """True for a file name that ends as those of images do."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def shown(value: object) -> str:
    """A value from a stranger's file as one short line for a message."""
    is_text, is_small = isinstance(value, str | bytes), isinstance(value, int | float | None)
    text = " ".join((repr(value) if is_text else str(value) if is_small else _SHORT.repr(value)).split())
    return text if len(text) <= 80 else text[:77] + "..."


def folder_of(file: str) -> str:
    """The folder of a file below the root; "" for the root itself."""
    return file.rpartition("/")[0]


def stem_of(file: str) -> str:
    """The name of a file without its folder and its extension."""
    return os.path.splitext(file.rpartition("/")[2])[0]


class DataFolder:
    """All files below a folder, named by their path below it, with forward slashes.

    `named` may be an annotation file: then `only` is its path below the root.
    """

    def __init__(self, named: str | Path) -> None:
        path = Path(named)
        self.root = _folder_of_data(path) if path.is_file() else path
        if not self.root.is_dir():
            raise UserError(f"{named}: no such folder or file; give the folder of your labelled images")
        self.only = path.absolute().relative_to(self.root.absolute()).as_posix() if path.is_file() else None

    @cached_property
    def files(self) -> list[str]:
        """The paths of all files, sorted, without hidden ones and those that machines leave."""
        found: list[str] = []
        seen: set[tuple[int, int]] = set()  # folders, so that links that go round in a circle end

        def walk(folder: str, below: str) -> None:
            try:
                status = os.stat(folder)
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                if below and isinstance(error, FileNotFoundError):  # it has gone meanwhile
                    return
                raise UserError(f"{folder}: can't be read ({error.strerror}); mend its permissions") from error
            if (status.st_dev, status.st_ino) in seen or below.count("/") > MAX_DEPTH:
                return
            seen.add((status.st_dev, status.st_ino))
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in JUNK:
                    continue
                # os.path says False of a link to itself, where the entry raises
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    walk(entry.path, f"{below}{entry.name}/")
                else:
                    found.append(below + entry.name)
            if len(found) > MAX_FILES:
                raise UserError(f"{self.root}: more than {MAX_FILES:,} files; name the folder of the data set alone")

        walk(os.fspath(self.root), "")
        return found

    def without(self, passed: Collection[str]) -> DataFolder:
        """The same folder as if some of its files were not there."""
        rest = DataFolder(self.root)
        rest.only, rest.files = self.only, [file for file in self.files if file not in passed]
        return rest

    @cached_property
    def images(self) -> list[str]:
        """The paths of all images, but for those of an unread kind beside a read one: a.pgm is a mask of a.jpg."""
        found = [file for file in self.files if is_image(file)]
        unread = {file for file in found if file.lower().endswith(UNREAD_EXTENSIONS)}
        stems = {os.path.splitext(file)[0] for file in found if file not in unread} if unread else set()
        return [file for file in found if file not in unread or os.path.splitext(file)[0] not in stems]

    @cached_property
    def _of_extension(self) -> dict[str, list[str]]:
        """Extension in lower case -> files."""
        found: dict[str, list[str]] = defaultdict(list)
        for file in self.files if self.only is None else [self.only]:
            found[os.path.splitext(file)[1].lower()].append(file)
        return found

    def annotations(self, *extensions: str) -> list[str]:
        """The files of these extensions; of a data set that is named by one file, that file alone."""
        return sorted(file for extension in extensions for file in self._of_extension.get(extension, ()))

    def annotations_like(self, is_like: Callable[[str], bool], *extensions: str) -> list[str]:
        """The files of these extensions whose beginnings are as wanted; none if those of some are not."""
        files = sorted(self.annotations(*extensions), key=lambda file: (file.count("/"), file))
        fits = any(is_like(self.head(file)) for file in some_of(files))
        return [file for file in files if is_like(self.head(file))] if fits else []

    @cached_property
    def _path_of(self) -> dict[str, str]:
        """Key of a path -> path."""
        return {key_of(file): file for file in reversed(self.files)}

    @cached_property
    def _files_of(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def _images_of_name(self) -> dict[str, list[str]]:
        """Key of the name of an image, also without its extension -> paths."""
        found: dict[str, list[str]] = defaultdict(list)
        for image in self.images:
            name = key_of(image.rpartition("/")[2])
            found[name].append(image)
            found[name.rpartition(".")[0]].append(image)
        return found

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        """How an absolute path into this folder begins."""
        return tuple(dict.fromkeys(f"{path}/" for path in (os.path.abspath(self.root), os.path.realpath(self.root))))

    def parts_of(self, name: str, near: str = "") -> tuple[list[str], bool]:
        """The folders and the name of a path as written anywhere, and whether it leads out of this folder.

        `near` is the folder that a relative path starts from.
        """
        if "\0" in name or not name.strip():
            raise OutsideError(f"{shown(name)} is no name of a file")
        name = re.sub(r"^(file://|[a-z]+://[^/]*/|[A-Za-z]:(?=/))", "/", name.strip().replace("\\", "/"))
        for root in self._roots:
            if name.startswith(root):
                name, near = name[len(root) :], ""
                break
        outside = name.startswith("/")
        parts = [part for part in near.split("/") if part] if not outside else []
        for part in name.split("/"):
            if part == "..":
                outside = outside or not parts
                del parts[-1:]
            elif part not in ("", "."):
                parts.append(part)
        return parts, outside

    def find(self, name: str, near: str = "") -> str | None:
        """The path of a file by its name, relative to `near` or to the root; None if there is no such file.

        Raises:
            OutsideError: there is none, and the name leads out of the folder.
        """
        if not near and name in self._files_of:
            return name
        leads_out = False
        for start in dict.fromkeys((near, "")):
            parts, outside = self.parts_of(name, start)
            path = "/".join(parts)
            leads_out |= outside
            if not outside and (path in self._files_of or key_of(path) in self._path_of):
                return path if path in self._files_of else self._path_of[key_of(path)]
        if leads_out:
            raise OutsideError(f"{shown(name)} leads outside the data folder {self.root}; name a file inside it")
        return None

    def find_image(self, name: str, near: str = "", split: str = "") -> str:
        """The path of the image that an annotation in the folder `near` calls `name`.

        Raises:
            OutsideError: there is none, and the name leads out of the folder.
            MissingImageError: there is none.
        """
        for start in dict.fromkeys((near, "")):
            exact = f"{start}/{name}" if start else name
            if is_image(name) and exact in self._files_of:  # also with spaces around it, or a backslash in it
                return exact
            parts, outside = self.parts_of(name, start)
            if not outside and is_image(name) and "/".join(parts) in self._files_of:
                return "/".join(parts)
        parts, outside = self.parts_of(name)
        known, last = self._images_of_name, key_of(parts[-1]) if parts else ""
        stem = last.rpartition(".")[0] if is_image(last) else last
        others = (UPLOAD_PREFIX.sub("", last), UPLOAD_PREFIX.sub("", stem), unquote(last))
        found = next((known[key] for key in (last, stem, *others) if key in known), [])
        folders = [*parts[:-1], *near.split("/")]
        photos = [path for path in found if self.is_photo(path, folders)]
        possible = [path for path in photos if may_be_of(path.removeprefix(self._outer), split)]
        if not possible and len(photos) == 1 and len(self._splits) == 1:  # train_images has those of all splits
            possible = photos
        own = ("/".join(parts[:-1]), near)
        if own[0] and (there := self._names_in.get(own[0])):  # where folders share names, it is none elsewhere
            possible = [one for one in possible if folder_of(one) in own or not there & self._names_in[folder_of(one)]]
        ranked = sorted((self._unlikeness(path, parts, near, split), path) for path in possible)
        if not ranked and outside:
            raise OutsideError(f"{shown(name)} leads outside the data folder {self.root}; name an image inside it")
        if not ranked:
            there = f" ({photos[0]} lies in another folder)" if photos else ""
            mend = f"{self.root}{there}; add it or delete its annotation"
            raise MissingImageError(f"the image {shown(name)} is missing in {mend}")
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            fitting = " and ".join(path for _, path in ranked[:2])
            raise MissingImageError(f"{fitting} both fit the image {shown(name)}; name its folder, or move one away")
        return ranked[0][1]

    def split_of(self, path: str) -> str | None:
        """The split that the folders of a path name; one around all images names none where others do inside."""
        return split_of(path.removeprefix(self._outer))

    @cached_property
    def _outer(self) -> str:
        """The folders around all images, as `dev/`, if there are splits inside; else ""."""
        outer = f"{os.path.commonpath(self._names_in or {''})}/"
        return outer if any(split_of(f"{folder}/".removeprefix(outer)) for folder in self._names_in) else ""

    @cached_property
    def _splits(self) -> set[str]:
        """The splits that folders of images name."""
        inner = (f"{folder}/".removeprefix(self._outer) for folder in self._names_in)
        return {split_key(one) for folder in inner for one in folder.split("/") if is_split(one)}

    def images_of_stem(self, stem: str) -> list[str]:
        """The paths of all images with this name without extension, whatever its case."""
        key = key_of(stem)
        return [image for image in self._images_of_name.get(key, []) if key_of(stem_of(image)) == key]

    @cached_property
    def _names_in(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)  # folder -> the names of its images
        for image in self.images:
            found[folder_of(image)].add(image.rpartition("/")[2])
        return found

    @cached_property
    def _folders_of_masks(self) -> frozenset[str]:
        return folders_of_masks(self.images)

    def is_photo(self, path: str, named: Sequence[str] = ()) -> bool:
        """False for an image in a folder of masks or drawings, unless its annotation or its name has such a folder."""
        folder = outermost(folder_of(path))
        return folder not in self._folders_of_masks or folder.rpartition("/")[2] in named

    def _unlikeness(self, path: str, parts: Sequence[str], near: str, split: str) -> tuple[Any, ...]:
        """Least for the path that is most like `parts`, then like the split's name and the annotation's folder."""
        *folders, name = key_of(path).split("/")
        *written, last = map(key_of, parts)
        start = [folder for folder in key_of(near).split("/") if folder]
        return (
            -_common(reversed(folders), reversed(written)),
            -len({*folders} & {*written}),
            not any(split_key(folder) == split_key(split) for folder in folders),
            -_common(reversed(folders), reversed(start)),
            -_common(folders, start),
            not any(IMAGE_FOLDERS.fullmatch(folder) for folder in folders),
            path.rpartition("/")[2] != parts[-1],
            name != last,
            len(folders),
        )

    def read(self, name: str, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
        """The content of a file; a UserError if there is none, it can't be read, or it is larger than `max_bytes`."""
        found = self.find(name)
        path = f"{self.root}/{found or name}"
        if found is None or not os.path.isfile(path):  # reading a pipe would wait for ever
            raise UserError(f"{path}: no such file")
        try:
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size > max_bytes:
                    raise UserError(f"{path}: more than the {max_bytes:,} bytes allowed for it; make it smaller")
                return file.read()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); mend its permissions") from error

    def read_text(self, name: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
        """The text of a file in UTF-8 or UTF-16, with or without a byte order mark; raises as `read` does."""
        return decode_text(self.read(name, max_bytes))

    def read_lines(self, name: str, max_bytes: int = MAX_TEXT_BYTES) -> list[str]:
        """The lines of a text file, without space around them; raises as `read` does."""
        return [line.strip() for line in self.read_text(name, max_bytes).splitlines()]

    def lines(self, name: str) -> Iterator[str]:
        """The lines of a text file one after the other, of any size; raises as `read` does."""
        path = self.root / name
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            with open(path, "rb") as file:
                head = file.read(1 << 20)
            encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
            if encoding == "utf-8-sig" and not is_utf8(head):
                encoding = "cp1252"
            with open(path, encoding=encoding, errors="replace") as text:
                yield from text
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); mend its permissions") from error

    def read_json(self, name: str, max_bytes: int = 4 << 30) -> Any:
        """The value of a JSON file; a UserError if it holds none, else as `read`."""
        return parse_json(self.read(name, max_bytes), f"{self.root / name}")

    def head(self, name: str, max_bytes: int = 1 << 16) -> str:
        """The beginning and the end of a file as text, to see what it is; "" for one that can't be read."""
        if not os.path.isfile(self.root / name):  # reading a pipe would wait for ever
            return ""
        try:
            with open(self.root / name, "rb") as file:
                data = file.read(max_bytes)
                if len(data) == max_bytes:
                    file.seek(max(max_bytes, os.fstat(file.fileno()).st_size - max_bytes // 4))
                    data += file.read(max_bytes // 4)
                return decode_text(data)
        except OSError:
            return ""


def _folder_of_data(file: Path) -> Path:
    """The folder that an annotation file is of: its own, or that above a folder called annotations and the like."""
    for folder in (own := file.absolute().parent, own.parent):  # annotations/train/a.json
        if ANNOTATION_FOLDERS.fullmatch(folder.name) and not DataFolder(folder).images:
            return folder.parent
    return file.parent


def key_of(name: str) -> str:
    """One spelling for names that differ in case, or in how Unicode composes a letter (Macs take letters apart)."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).lower()


def some_of(files: Sequence[str]) -> list[str]:
    """The first files and some of the others, to see what they are."""
    return [*files[:5], *files[5 :: max(1, len(files) // 40)]]


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """How many items two sequences begin with together."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
