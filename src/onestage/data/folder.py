"""Files of a data folder, found without ever leaving it.

Names of files come out of annotations that strangers wrote: `..`, absolute paths, NUL bytes and symbolic links that
lead out of the folder are refused. Each folder is listed once, so looking for an image costs no system call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from onestage.errors import UserError
from onestage.runtime.image_header import EXTENSIONS

IMAGE_EXTENSIONS = tuple(extension for extensions in EXTENSIONS.values() for extension in extensions)


class OutsideError(UserError):
    """A file name that leads out of the data folder."""


def shown(value: object) -> str:
    """A value from a stranger's file as one short line for a message."""
    text = repr(value) if isinstance(value, str | bytes) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


class DataFolder:
    """One data folder; names are relative to it, with forward slashes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder of a VOC, COCO or YOLO data set")
        self._real_root = os.path.realpath(self.root)
        self._listings: dict[str, dict[str, bool]] = {}  # folder -> file name -> is a symbolic link
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, name: str) -> str | None:
        """The name, tidied, of a file that exists inside the folder; None where there is none.

        Raises:
            OutsideError: the name leads out of the folder.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        if "\0" in name or path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
            raise OutsideError(f"{shown(name)} leads outside the data folder {self.root}; name a file inside it")
        is_link = self.listing(path.parent.as_posix()).get(path.name)
        if is_link is None:
            return None
        if is_link:
            self._refuse_outside(path.as_posix())
        return path.as_posix()

    def find_image(self, folder: str, stem: str) -> list[str]:
        """The images `folder/stem.EXTENSION`, by any allowed extension.

        Raises:
            OutsideError: the stem leads out of the folder.
        """
        place = PurePosixPath(folder, stem)
        parent = place.parent.as_posix()
        if parent not in self._stems and ".." not in place.parts and not PurePosixPath(stem).is_absolute():
            stems: dict[str, list[str]] = {}
            for name in sorted(self.listing(parent)):
                if name.lower().endswith(IMAGE_EXTENSIONS):
                    stems.setdefault(name.rpartition(".")[0], []).append(name)
            self._stems[parent] = stems
        names = self._stems.get(parent, {}).get(place.name)
        if names is None:
            self.find(f"{folder}/{stem}")  # says where it leads, if outside
            return []
        return [found for name in names if (found := self.find(f"{parent}/{name}")) is not None]

    def listing(self, folder: str) -> dict[str, bool]:
        """The names in a folder below the root, each with whether it is a symbolic link; {} where there is none.

        Raises:
            OutsideError: the folder is a symbolic link that leads out.
        """
        if folder not in self._listings:
            try:
                with os.scandir(self.root / folder) as entries:
                    self._listings[folder] = {entry.name: entry.is_symlink() for entry in entries}
            except OSError:
                self._listings[folder] = {}
            if self._listings[folder]:
                try:
                    self._refuse_outside(folder)
                except OutsideError:
                    del self._listings[folder]
                    raise
        return self._listings[folder]

    def images(self, folder: str) -> list[str]:
        """The names of all images below a folder, sorted; folders that are symbolic links are not entered.

        An image may itself be a symbolic link that leads out: `find` says so.

        Raises:
            OutsideError: the folder is a symbolic link that leads out.
        """
        self.listing(folder)  # refused here where it leads out
        found: list[str] = []
        for path, folders, names in os.walk(self.root / folder):
            folders.sort()
            below = Path(path).relative_to(self.root).as_posix()
            found.extend(f"{below}/{name}" for name in sorted(names) if name.lower().endswith(IMAGE_EXTENSIONS))
        return found

    def read(self, name: str, max_bytes: int) -> bytes:
        """The content of a file inside the folder.

        Raises:
            OutsideError: the name leads out of the folder.
            UserError: no such file, one that can't be read, or larger than `max_bytes`.
        """
        found = self.find(name)
        path = self.root / (found or name)
        if found is None or not path.is_file():  # a pipe would wait for ever
            raise UserError(f"{path}: no such file")
        try:
            if path.stat().st_size > max_bytes:
                raise UserError(f"{path}: more than the {max_bytes:,} bytes allowed for it; make it smaller")
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); mend its permissions") from error

    def first_existing(self, names: Sequence[str]) -> str | None:
        """The first of the names that exists."""
        return next((found for name in names if (found := self.find(name)) is not None), None)

    def _refuse_outside(self, name: str) -> None:
        real = os.path.realpath(self.root / name)
        if real != self._real_root and not real.startswith(self._real_root.rstrip(os.sep) + os.sep):
            raise OutsideError(
                f"{name} is a symbolic link to {real}, outside the data folder {self.root}; copy it inside"
            )
