"""What a person names on the command line -> the list of picture files it stands for: files, folders and globs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from onestage.errors import UserError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Source:
    """One picture to look at.

    Attributes:
        path: the file.
        output_name: what to call the drawn picture: its path below the named folder, with forward slashes, never
            leading upwards; .jpg for a JPEG, .png for any other. Without the suffix it is unique among the sources of
            one call, so that no result overwrites another.
    """

    path: Path
    output_name: str


def open_sources(texts: Sequence[str]) -> list[Source]:
    """The pictures that the given words stand for, in the given order, each file once.

    A word is a picture file (any suffix: what a file is, its first bytes say), a folder (its pictures and those of the
    folders in it, sorted by path, hidden ones left out) or a glob such as `street/*.jpg` or `**/cam1/*` (sorted).

    Raises:
        UserError: a word that names nothing, or nothing but files that are not pictures.
    """
    paths_and_names = [found for text in texts for found in _pictures_of(text)]
    if not paths_and_names:
        raise UserError("no source given; name a picture, a folder of pictures or a glob such as 'street/*.jpg'")
    first_of: dict[Path, tuple[Path, str]] = {}
    for path, name in paths_and_names:
        first_of.setdefault(path.resolve(), (path, name))
    return list(_with_unique_names(first_of.values()))


def _pictures_of(text: str) -> list[tuple[Path, str]]:
    path = Path(text)
    if path.is_file():
        return [(path, path.name)]
    if path.is_dir():
        found = list(_pictures_below(path))
        if not found:
            raise UserError(f"{text}: the folder holds no picture ({_suffix_list()}); name another")
        return found
    if not glob.has_magic(text):
        raise UserError(f"{text}: no such file or folder; name a picture, a folder of pictures or a glob")
    found = list(_pictures_matching(text))
    if not found:
        raise UserError(f"{text}: the glob matches no picture ({_suffix_list()}); try it with ls")
    return found


def _pictures_below(folder: Path) -> Iterator[tuple[Path, str]]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if _is_picture_name(path):
                yield path, path.relative_to(folder).as_posix()


def _pictures_matching(pattern: str) -> Iterator[tuple[Path, str]]:
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        if path.is_dir():
            # `**` yields the files below by itself; `pics/*` means the pictures in the matched folders too
            yield from ((below, f"{path.name}/{name}") for below, name in _pictures_below(path))
        elif _is_picture_name(path):
            yield path, path.name


def _is_picture_name(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def _with_unique_names(paths_and_names: Iterable[tuple[Path, str]]) -> Iterator[Source]:
    taken: set[str] = set()
    for path, name in paths_and_names:
        wanted = PurePosixPath(name)
        wanted = wanted.with_suffix(".jpg" if wanted.suffix.lower() in (".jpg", ".jpeg") else ".png")
        unique, count = wanted, 1
        # Compared without case: a.JPG and A.jpg are one file on some disks.
        while str(unique.with_suffix("")).lower() in taken:
            count += 1
            unique = wanted.with_name(f"{wanted.stem}-{count}{wanted.suffix}")
        taken.add(str(unique.with_suffix("")).lower())
        yield Source(path, str(unique))


def _suffix_list() -> str:
    return " ".join(sorted(PICTURE_SUFFIXES))
