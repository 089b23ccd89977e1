"""The tables of large folders, remembered between runs as long as no file below the folder changes.

To open and parse 50,000 small label files takes longer than all else that happens before the first step. So what a
reader made of a split is kept in the user's cache folder, with the path, size and time of change of every file that it
may have looked at. A damaged file of the cache, or another version of the readers, is as good as none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path

import numpy as np

from onestage import texts
from onestage.data.folder import DataFolder
from onestage.data.seen_images import cache_folder
from onestage.data.table import IMAGE_COLUMNS, OBJECT_COLUMNS, Table
from onestage.data.validate import Problem
from onestage.runtime import decode
from onestage.structures import Categories
from onestage.whole_file import write_whole

MIN_FILES = 2_000  # of smaller folders, nothing is remembered: they are read in a moment

COLUMNS = (*IMAGE_COLUMNS, "first_object", *OBJECT_COLUMNS)

Reading = tuple[Table, list[Problem]]


def read_unless_seen(folder: DataFolder, question: Hashable, read: Callable[[], Reading]) -> Reading:
    """What `read` makes of a folder; as it was the last time, if the same was asked of the same files.

    `question` holds all else that the table depends on; its text is compared.
    """
    if len(folder.files) < MIN_FILES:
        return read()
    asked = f"{os.path.realpath(folder.root)}\n{folder.root}\n{folder.only}\n{question}"
    file = cache_folder() / "tables" / f"{hashlib.sha256(os.fsencode(asked)).hexdigest()[:24]}.npz"
    stamp = f"{_stamp(folder)} {_version_of_readers()}"
    known = _load(file, stamp, folder.root)
    if known is not None:
        return known
    table, problems = read()
    with suppress(OSError, ValueError):  # a full disk, a name that is no text: read again the next time
        write_whole(file, _as_bytes(table, problems, stamp))
    return table, problems


def _stamp(folder: DataFolder) -> str:
    """A digest of the path, size and time of change of every file."""
    digest = hashlib.sha256()
    root = os.fspath(folder.root)
    for file in folder.files:
        try:
            status = os.stat(f"{root}/{file}")
        except OSError:  # a link to nowhere
            digest.update(os.fsencode(f"{file}\0none\0"))
        else:
            digest.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _version_of_readers() -> str:
    """A digest of the code that reads data sets and images."""
    digest = hashlib.sha256()
    folders = (Path(__file__).parent, Path(decode.__file__).parent)
    for file in (Path(texts.__file__), *(file for folder in folders for file in sorted(folder.rglob("*.py")))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _as_bytes(table: Table, problems: list[Problem], stamp: str) -> bytes:
    """A table and its problems as NumPy's archive, whose only text is JSON."""
    facts = {
        "stamp": stamp,
        "split": table.split,
        "kind": table.kind,
        "categories": [table.categories.names, table.categories.source_ids],
        "max_pixels": table.max_pixels,
        "problems": [astuple(problem) for problem in problems],
    }
    written = io.BytesIO()
    columns = {name: getattr(table, name) for name in COLUMNS}
    np.savez(written, facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8), **columns)
    return written.getvalue()


def _load(file: Path, stamp: str, root: Path) -> Reading | None:
    """The table and the problems in a file of the cache; None if they are not of this stamp, or it is damaged."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as content:
            facts = json.loads(content["facts"].tobytes())
            if facts["stamp"] != stamp:
                return None
            columns = {name: content[name] for name in COLUMNS}
        names, source_ids = facts["categories"]
        table = Table(
            root=root,
            split=facts["split"],
            kind=facts["kind"],
            categories=Categories(tuple(names), tuple(source_ids)),
            max_pixels=facts["max_pixels"],
            **columns,
        )
        return table, [Problem(*one) for one in facts["problems"]]
    except Exception:  # whatever a damaged archive raises
        return None
