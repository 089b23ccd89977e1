"""Files by path or address: on a disk, or in object storage (S3, Google's, Azure's) as pyarrow opens it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from onestage.errors import UserError
from onestage.inference.sources import is_address
from onestage.runtime.decode import ImageError
from onestage.whole_file import write_whole

TRIES = 5  # of a read from object storage before it counts as failed, with pauses of 1, 2, 4 and 8 seconds
WHOLE_FILES = frozenset({"s3", "gcs", "abfs"})  # file systems (pyarrow's names) where a file appears when it is closed


@dataclass(frozen=True)
class Storage:
    """Opens files by name: a path, or an address such as `s3://bucket/key`.

    Names stand in results, so they have no options and no credentials. `roots` has these for each bucket that the user
    gave with some: `{"s3://street": "s3://KEY:SECRET@street?endpoint_override=..."}`.
    """

    roots: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Iterable[str]) -> Storage:
        """The storage that opens what a user named."""
        return cls({root: address for word in words for root, address in named(word)[1].items()})

    def locate(self, name: str) -> tuple[fs.FileSystem, str]:
        """The file system of a name, and the path in it; a UserError for an address that pyarrow can't open."""
        if not in_storage(name):
            return fs.LocalFileSystem(), name
        root = "/".join(name.split("/", 3)[:3])  # as s3://bucket
        filesystem, start = _file_system(self.roots.get(root, root))
        return filesystem, start.rstrip("/") + name.removeprefix(root).rstrip("/")

    def open(self, name: str) -> pa.NativeFile:
        """A file to read; raises an OSError where it can't be."""
        filesystem, path = self.locate(name)
        return filesystem.open_input_file(path)

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """The content of a file, tried again where storage fails; an ImageError where it is larger than `max_bytes`."""

        def read() -> bytes:
            with self.open(name) as file:
                if max_bytes is not None and file.size() > max_bytes:
                    raise ImageError(f"{name}: {file.size():,} bytes, more than the {max_bytes:,} allowed for an image")
                return file.read()

        return tried_again(read)

    def open_output(self, name: str) -> pa.NativeFile:
        """A file to write bit by bit, in a folder that exists."""
        filesystem, path = self.locate(name)
        return filesystem.open_output_stream(path)

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that readers see all of it or nothing, whenever this process dies."""
        if in_storage(name):
            with self.open_output(name) as file:
                file.write(content)
        else:
            write_whole(Path(name), content)

    def entries(self, folder: str) -> list[fs.FileInfo]:
        """The files and folders in a folder; none where it doesn't exist."""
        filesystem, path = self.locate(folder)
        return tried_again(lambda: filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)))


def in_storage(name: str) -> bool:
    """Whether a name is an address in object storage, not a path or a web address."""
    return "://" in name and not is_address(name)


def named(word: str) -> tuple[str, dict[str, str]]:
    """What a user typed, as a name that may stand in results, and the entry of `Storage.roots` that it needs, if any.

    A path becomes absolute, so that it means the same in every process. Options (`?region=...`) and credentials
    (`KEY:SECRET@`) of an address go into the entry.
    """
    if is_address(word):
        return word, {}
    if word.startswith("file://"):
        return unquote(urlsplit(word).path), {}
    if not in_storage(word):
        return os.path.abspath(word), {}
    address, question_mark, options = word.partition("?")
    scheme, _, rest = address.partition("://")
    bucket, _, path = rest.partition("/")
    user, _, host = bucket.rpartition("@")
    root, with_options = f"{scheme}://{host if ':' in user else bucket}", f"{scheme}://{bucket}{question_mark}{options}"
    return f"{root}/{path}".rstrip("/"), {} if with_options == root else {root: with_options}


def tried_again(read: Callable[[], Any]) -> Any:
    """Call a function until it raises no OSError, `TRIES` times at most. A missing file is not waited for."""
    for attempt in range(TRIES - 1):
        try:
            return read()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(2.0**attempt)
    return read()


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@lru_cache
def _file_system(address: str) -> tuple[fs.FileSystem, str]:
    root, _ = named(address)
    try:
        filesystem, start = fs.FileSystem.from_uri(address)
        if filesystem.type_name not in WHOLE_FILES:
            raise ValueError(f"{filesystem.type_name} is no object storage")
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = first_line(error).replace(address, root)  # which has no credentials; the error itself may have them
        mend = "give a path, or an address as s3://bucket/folder, gs:// or abfs://"
        raise UserError(f"{root}: {reason}; {mend}") from None
    return filesystem, start
