"""What was found out about the images of a data folder, remembered between runs.

Looking at every byte of every image at each start does not scale. So the check of an image and its fingerprint are kept
in the user's cache folder, by the file's size and time of change, one file a data folder. Without a cache folder, or
with a damaged file in it, images are looked at again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from onestage.compute.threads import in_threads
from onestage.whole_file import write_whole

FORMAT = 1  # of the files; others are not read
MIN_FILES = 64  # of fewer, nothing is remembered


def cache_folder() -> Path:
    """ONESTAGE_CACHE, else the user's cache folder (XDG base directory specification; LOCALAPPDATA on Windows)."""
    if own := os.environ.get("ONESTAGE_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(base).expanduser() / "onestage"


class SeenImages:
    """Values by file, for one question asked of the files of a folder."""

    def __init__(self, root: Path, question: str) -> None:
        self._root = os.fspath(root)
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]
        self._file = cache_folder() / "images" / f"{name}-{question}.json"
        self._known = dict(_load(self._file))

    def ask_all(self, files: Sequence[str], look: Callable[[str], Any], name: str) -> list[Any]:
        """The value of each file (JSON-able): as remembered, else what `look` gives; that is remembered for later.

        `name` says what is done while this takes long.
        """
        stamps = [self._stamp(file) for file in files]
        values = [self._remembered(file, stamp) for file, stamp in zip(files, stamps, strict=True)]
        new = [place for place, value in enumerate(values) if value is None]
        for place, value in zip(new, in_threads(look, [files[place] for place in new], name), strict=True):
            values[place] = value
            if (stamp := stamps[place]) is not None:
                self._known[files[place]] = [*stamp, value]
        if new and len(self._known) >= MIN_FILES:
            with suppress(OSError, UnicodeError):
                write_whole(self._file, json.dumps({"format": FORMAT, "files": self._known}).encode())
        return values

    def _stamp(self, file: str) -> list[int] | None:
        """Size and time of change of a file; None if there is none."""
        try:
            status = os.stat(f"{self._root}/{file}")
        except (OSError, ValueError):
            return None
        return [status.st_size, status.st_mtime_ns]

    def _remembered(self, file: str, stamp: list[int] | None) -> Any:
        match self._known.get(file):
            case [*known, value] if known == stamp:
                return value
        return None


def _load(file: Path) -> dict[str, list[Any]]:
    """What a file remembers; nothing if there is none, or it is damaged."""
    try:
        status = os.stat(file)
        return _parsed(file, status.st_mtime_ns, status.st_size)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


@lru_cache(maxsize=4)  # a start asks several times
def _parsed(file: Path, mtime_ns: int, size: int) -> dict[str, list[Any]]:
    content = json.loads(file.read_bytes())
    return dict(content["files"]) if content["format"] == FORMAT else {}
