"""Files by path or address: on this machine's disks, in object storage (s3, gs, abfs, ... by pyarrow), on the web."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from onestage.errors import UserError
from onestage.inference.remote import fetch_image, is_address
from onestage.runtime.decode import MAX_FILE_BYTES, ImageError

TRIES = 5  # of a read from object storage, before it counts as failed; the pauses between them double from a second on
OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})  # where a file appears when it is closed, whole

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Storage:
    """Opens files by name: a path, `s3://bucket/key`, or an image's web address.

    Attributes:
        roots: where a bucket was named with options or credentials, how: `{"s3://street":
            "s3://KEY:SECRET@street?endpoint_override=..."}`. Names that stand in results have neither.
    """

    roots: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Iterable[str]) -> Storage:
        """That opens what these words of a person name."""
        return cls({shown: root for word in words for shown, root in named(word)[1].items()})

    def locate(self, name: str) -> tuple[fs.FileSystem, str]:
        """The file system of a name and the path in it.

        Raises:
            UserError: an address that pyarrow doesn't know, or storage that can't be reached.
        """
        if not in_storage(name):
            return fs.LocalFileSystem(), name
        root, path = _split(name)
        filesystem, start = _file_system(self.roots.get(root, root))
        return filesystem, f"{start.rstrip('/')}/{path}".rstrip("/")

    def image(self, name: str) -> Path | bytes:
        """What the decoder takes of the image of a name; storage that fails is asked again, `TRIES` times in all.

        Raises:
            ImageError: it can't be fetched, or is too large.
        """
        if is_address(name):
            return fetch_image(name)
        if not in_storage(name):
            return Path(name)
        try:
            return tried_again(lambda: self._read(name, MAX_FILE_BYTES))
        except FileNotFoundError as error:
            raise ImageError(f"{name}: no such image") from error
        except OSError as error:
            raise ImageError(f"{name}: can't be read ({first_line(error)})") from error

    def open_output(self, name: str) -> pa.NativeFile:
        """A file to be written bit by bit, whose folder is made."""
        filesystem, path = self.locate(name)
        if filesystem.type_name not in OBJECT_STORES:  # which have no folders
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        return filesystem.open_output_stream(path)

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file so that a reader sees all of it or none, whenever this process ends.

        Raises:
            OSError: it can't be written.
        """
        filesystem, path = self.locate(name)
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(Path(path), content)
            return
        written = name if filesystem.type_name in OBJECT_STORES else _temporary(name)
        with self.open_output(written) as file:
            file.write(content)
        if written != name:
            filesystem.move(self.locate(written)[1], path)

    def _read(self, name: str, max_bytes: int) -> bytes:
        filesystem, path = self.locate(name)
        with filesystem.open_input_file(path) as file:
            if file.size() > max_bytes:
                raise ImageError(f"{name}: {file.size():,} bytes, more than the {max_bytes:,} allowed for an image")
            return file.read()


def in_storage(name: str) -> bool:
    """Whether a name is an address in object storage, and no path and no web address."""
    return "://" in name and not is_address(name)


def named(word: str) -> tuple[str, dict[str, str]]:
    """What a person typed -> the name that results may show, and the entry of `Storage.roots` that it needs, if any.

    A path becomes absolute, so that it means the same in every process. Of an address, options (`?region=...`) and
    credentials (`KEY:SECRET@`) go from the name to the entry.
    """
    if is_address(word):
        return word, {}
    if word.startswith("file://"):
        return unquote(urlsplit(word).path), {}
    if not in_storage(word):
        return os.path.abspath(word), {}
    scheme, _, rest = word.partition("://")
    rest, _, options = rest.partition("?")
    authority, _, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    shown = f"{scheme}://{host if ':' in user else authority}"
    root = f"{scheme}://{authority}" + (f"?{options}" if options else "")
    return f"{shown}/{path}".rstrip("/"), {} if root == shown else {shown: root}


def tried_again(read: Callable[[], _Result]) -> _Result:
    """Call it until it doesn't raise an OSError, `TRIES` times at most; a file that isn't there is not waited for."""
    for attempt in range(TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(2.0**attempt)
    return read()


def first_line(error: BaseException) -> str:
    """Of its text, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _split(name: str) -> tuple[str, str]:
    scheme, _, rest = name.partition("://")
    authority, _, path = rest.partition("/")
    return f"{scheme}://{authority}", path


@lru_cache
def _file_system(root: str) -> tuple[fs.FileSystem, str]:
    try:
        return fs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError, ValueError) as error:
        shown, _ = named(root)
        raise UserError(
            f"{shown}: {first_line(error)}; give a path, or an address as s3://bucket/folder, gs:// or abfs://"
        ) from error


def _write_local(path: Path, content: bytes | pa.Buffer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(_temporary(str(path)))
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: str) -> str:
    """Of each writer its own, and hidden: readers of Parquet folders pass it over."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.{uuid.uuid4().hex}"
