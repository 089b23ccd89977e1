"""Files of a data folder, found without ever leaving it.

File names come from annotations that strangers wrote: `..`, absolute paths, NUL bytes and symbolic links out of the
folder are refused. Each folder is listed once, so looking for an image costs no system call.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from onestage.errors import UserError
from onestage.runtime.decode import EXTENSIONS

IMAGE_EXTENSIONS = tuple(extension for extensions in EXTENSIONS.values() for extension in extensions)


class OutsideError(UserError):
    """A file name that leads out of the data folder."""


def shown(value: object) -> str:
    """A value from a stranger's file as one short line for a message."""
    text = repr(value) if isinstance(value, str | bytes) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."


class DataFolder:
    """One data folder. File names are relative to it; an `OutsideError` is raised for one that leads out of it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; give the folder of a VOC, COCO or YOLO data set")
        self._real_root = os.path.realpath(self.root)
        self._listings: dict[str, dict[str, bool]] = {}  # folder -> file name -> is a symbolic link
        self._images: dict[str, dict[str, list[str]]] = {}  # folder -> stem -> file names

    def find(self, name: str) -> str | None:
        """The tidied name of a file in the folder; None if there is no such file."""
        path = self._inside(name)
        is_link = self.listing(path.parent.as_posix()).get(path.name)
        if is_link is None:
            return None
        if is_link:
            self._refuse_link_outside(path.as_posix())
        return path.as_posix()

    def first_existing(self, names: Iterable[str]) -> str | None:
        """The first of the names that exists."""
        return next((found for name in names if (found := self.find(name)) is not None), None)

    def images_with_stem(self, path: str) -> list[str]:
        """The images `PATH.EXTENSION`, with any allowed extension."""
        place = self._inside(path)
        folder = place.parent.as_posix()
        if folder not in self._images:
            by_stem: dict[str, list[str]] = {}
            for name in sorted(self.listing(folder)):
                if name.lower().endswith(IMAGE_EXTENSIONS):
                    by_stem.setdefault(name.rpartition(".")[0], []).append(name)
            self._images[folder] = by_stem
        names = self._images[folder].get(place.name, [])
        return [found for name in names if (found := self.find(f"{folder}/{name}")) is not None]

    def images_below(self, folder: str) -> list[str]:
        """The names of all images below a folder, sorted; folders that are symbolic links are not entered.

        An image may itself be a link that leads out: `find` refuses it.
        """
        self._refuse_link_outside(folder)
        found: list[str] = []
        for path, folders, names in os.walk(self.root / folder):
            folders.sort()
            below = Path(path).relative_to(self.root).as_posix()
            found.extend(f"{below}/{name}" for name in sorted(names) if name.lower().endswith(IMAGE_EXTENSIONS))
        return found

    def listing(self, folder: str) -> dict[str, bool]:
        """File name -> True for a symbolic link, of a folder below the root; {} if there is no such folder."""
        if folder not in self._listings:
            try:
                with os.scandir(self.root / folder) as entries:
                    listing = {entry.name: entry.is_symlink() for entry in entries}
            except OSError:
                listing = {}
            if listing:
                self._refuse_link_outside(folder)
            self._listings[folder] = listing
        return self._listings[folder]

    def read(self, name: str, max_bytes: int) -> bytes:
        """The content of a file; a UserError if there is none, it can't be read, or it is larger than `max_bytes`."""
        found = self.find(name)
        path = self.root / (found or name)
        if found is None or not path.is_file():  # reading a pipe would wait for ever
            raise UserError(f"{path}: no such file")
        try:
            if path.stat().st_size > max_bytes:
                raise UserError(f"{path}: more than the {max_bytes:,} bytes allowed for it; make it smaller")
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); mend its permissions") from error

    def read_lines(self, name: str, max_bytes: int = 1 << 28) -> list[str]:
        """The lines of a text file, without space around them; raises as `read` does."""
        text = self.read(name, max_bytes).decode("utf-8-sig", errors="replace")
        return [line.strip() for line in text.splitlines()]

    def _inside(self, name: str) -> PurePosixPath:
        path = PurePosixPath(name.replace("\\", "/"))
        if "\0" in name or path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
            raise OutsideError(f"{shown(name)} leads outside the data folder {self.root}; name a file inside it")
        return path

    def _refuse_link_outside(self, name: str) -> None:
        real = os.path.realpath(self.root / name)
        if real != self._real_root and not real.startswith(self._real_root.rstrip(os.sep) + os.sep):
            raise OutsideError(
                f"{name} is a symbolic link to {real}, outside the data folder {self.root}; copy it inside"
            )
