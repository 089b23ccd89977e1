"""Which files of a folder an earlier `onestage predict` wrote: these may be replaced, and no others."""

import json
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from onestage.data.predictions import LIST_NAME, Fingerprint, fingerprint_of, is_as_written, read_list
from onestage.errors import UserError
from onestage.whole_file import make_folder


class WrittenFiles(AbstractContextManager["WrittenFiles"]):
    """Keeps a list of the files that `predict` writes into a folder, and refuses to replace any that is not on it.

    A file that was changed since then is the user's, as an annotation that was corrected. The list is written as the
    run goes on, so that a run that was killed can be started again.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        """Read what earlier runs wrote; `overwrite` allows to replace other files, too."""
        self.folder, self.overwrite = folder, overwrite
        self.list = folder / LIST_NAME
        self.known = read_list(folder)
        self._file = None
        self._unfinished: set[Path] = set()

    def __enter__(self) -> "WrittenFiles":
        make_folder(self.folder)
        if self.list.is_symlink():
            raise UserError(f"{self.list}: a link; delete it, or choose another --out")
        self._file = self.list.open("a", encoding="utf-8", buffering=1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        """Close the list. Where a disk was full, what is cut off there goes."""
        assert self._file is not None
        self._file.close()
        if isinstance(error, OSError):
            for path in self._unfinished:
                path.unlink(missing_ok=True)
            if error.filename is None:
                error.filename = os.fspath(self.folder)

    def check(self, targets: Iterable[Path], sources: Iterable[str]) -> None:
        """Raise a `UserError` for the first target that must not be replaced: a source, or a file of the user's."""
        existing = [target for target in targets if os.path.lexists(target)]
        if not existing:
            return
        source_of = {_identity(source): source for source in sources if os.path.exists(source)}
        for target in existing:
            source = source_of.get(_identity(target))
            if source is not None:
                raise UserError(
                    f"{source}: the drawn copy would take its place; choose another --out than {self.folder}"
                )
            if target.is_dir():
                raise UserError(
                    f"{target}: a folder is where a result would be; choose another --out than {self.folder}"
                )
            if not self.overwrite and not self._is_ours(target):
                raise UserError(
                    f"{target}: not as an earlier predict wrote it; choose another --out than {self.folder}, or give "
                    "--overwrite to replace it"
                )

    def begin(self, path: Path) -> Path:
        """Note that a file is being written, in place of the one that is there; returns its path."""
        path.unlink(missing_ok=True)  # or what it is a link to would be overwritten
        path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished.add(path)
        self._note(path, None)
        return path

    def done(self, path: Path) -> None:
        """Note that a file is whole."""
        self._unfinished.discard(path)
        self._note(path, fingerprint_of(path.lstat()))

    def _note(self, path: Path, fingerprint: Fingerprint | None) -> None:
        assert self._file is not None
        self._file.write(json.dumps([path.relative_to(self.folder).as_posix(), fingerprint]) + "\n")

    def _is_ours(self, path: Path) -> bool:
        name = path.relative_to(self.folder).as_posix()
        return name in self.known and is_as_written(path, self.known[name])


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Equal for two names of one file; None for a link that leads nowhere."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
