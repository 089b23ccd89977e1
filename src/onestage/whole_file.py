"""Files that are whole or not there at all, whenever the process or the machine dies."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from onestage.errors import UserError

# Names of temporary files: those of `written_whole`, and safetensors' own.
LEFTOVER = re.compile(r"\..+\.[0-9a-f]{32}|\.tmp[0-9A-Za-z]{6}", re.DOTALL)


@contextmanager
def written_whole(path: Path, *, keep_as: Path | None = None) -> Iterator[Path]:
    """Give the name of a temporary file, which takes the place of `path` at the end of `with`; the folder is made.

    A crash or an error before that leaves the old file, which is kept as `keep_as` in the end if that is given. A
    process that is killed leaves its temporary file too: see `remove_leftovers`.

    Raises:
        OSError: it can't be written; the error names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # of this writer alone, on a shared disk too
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors' files are for their owner alone
        _flush(temporary)
        if keep_as is not None and path.exists():
            path.replace(keep_as)
        temporary.replace(path)
        _flush(path.parent)  # the names in it
    except OSError as error:  # of a full disk it names no file, else the temporary one
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file; a crash leaves the old one or the new one, on the disk too."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def make_folder(folder: Path) -> None:
    """Make the folder of results before the work begins; a `UserError` where no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise UserError(f"{folder}: no results can be written there ({reason}); name another with --out") from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder that nobody else writes into."""
    for path in folder.glob(".*"):
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
