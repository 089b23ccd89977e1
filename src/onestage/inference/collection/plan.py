"""A collection of images too large for a list: what words name, found piece by piece and kept as a plan on disk.

A piece is an image file, or some rows of a Parquet file. A part is consecutive pieces: what is done at once, whose
results are one file. The plan is written before anything is detected and doesn't change afterwards, so a part holds the
same images whichever worker does it, however often, in this run or a later one.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from onestage.errors import UserError
from onestage.inference.collection.storage import Storage, first_line, in_storage, named, tried_again
from onestage.inference.remote import is_address
from onestage.inference.sources import IMAGE_SUFFIXES, STREAM_SCHEMES, VIDEO_SUFFIXES
from onestage.inference.threads import mapped_ahead

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
MAX_PIECES = 16  # of a Parquet row group: to read one, all rows of the group before it are read as well
MIN_ROWS = 32  # of such a piece
PIECES_TOGETHER = 10_000  # in a row group of the plan
FOOTERS_AT_ONCE = 16
PLAN_SCHEMA = pa.schema(
    [("source", pa.string()), ("row_group", pa.int32()), ("first_row", pa.int64()), ("rows", pa.int64())]
)


@dataclass(frozen=True)
class Columns:
    """Where a Parquet file has its images; a dot leads into a struct (`image.bytes`).

    Attributes:
        image: the column of encoded images.
        source: the column of their names; None: `FILE#ROW`.
    """

    image: str = "bytes"
    source: str | None = None

    @property
    def wanted(self) -> list[str]:
        """All that is read of a file."""
        return [self.image] if self.source is None else [self.image, self.source]


@dataclass(frozen=True)
class Piece:
    """An image file, or some rows of one row group of a Parquet file.

    Attributes:
        source: the file: an absolute path or an address.
        row_group: in a Parquet file; None: the file is an image.
        first_row: within the row group.
        rows: images.
    """

    source: str
    row_group: int | None = None
    first_row: int = 0
    rows: int = 1


@dataclass(frozen=True)
class Part:
    """What is done at once.

    Attributes:
        number: its place in the collection; its results' name.
        first_piece: in the plan.
        pieces: how many.
        images: in all of them.
    """

    number: int
    first_piece: int
    pieces: int
    images: int


def find_pieces(words: Sequence[str], columns: Columns) -> Iterator[Piece]:
    """The pieces of everything that the words name, found while they are asked for.

    A word is an image; a Parquet file; a folder (its images and Parquet files, and those of the folders in it,
    hidden ones left out); a glob of this machine's files; an address of an image, a Parquet file or a folder in object
    storage; an image's web address; or `@list.txt`, a file with one such word a line. Whether an image is there is
    seen when it is read.

    Raises:
        UserError: a word that names nothing or a video, or a Parquet file without the column.
    """
    storage = Storage.of(words)
    parquet: list[str] = []
    for name in (name for word in dict.fromkeys(words) for name in _files_of(word, storage)):
        if _suffix(name) in PARQUET_SUFFIXES:
            parquet.append(name)
        else:
            yield Piece(name)
    pieces_of_file = partial(_pieces_of_parquet, storage=storage, columns=columns)
    for pieces in mapped_ahead(pieces_of_file, parquet, depth=2 * FOOTERS_AT_ONCE, threads=FOOTERS_AT_ONCE):
        yield from pieces


def write_plan(pieces: Iterable[Piece], file: pa.NativeFile) -> int:
    """Write the plan of a collection; returns how many images it has."""
    images, remaining = 0, iter(pieces)
    with pq.ParquetWriter(file, PLAN_SCHEMA, compression="zstd") as writer:
        while together := list(islice(remaining, PIECES_TOGETHER)):
            columns = zip(
                *((piece.source, piece.row_group, piece.first_row, piece.rows) for piece in together), strict=True
            )
            table = pa.table(list(columns), schema=PLAN_SCHEMA)
            images += sum(piece.rows for piece in together)
            writer.write_table(table)
    return images


def parts_of(plan: pq.ParquetFile, part_size: int) -> list[Part]:
    """The parts of a collection: a piece belongs to the part in which its first image falls, if parts have
    `part_size` images each. So a part is larger where a piece is; numbers that no piece falls in are left out."""
    numbers, pieces, images, before = [], [], [], 0  # arrays, one for each row group of the plan
    for group in range(plan.num_row_groups):
        rows = plan.read_row_group(group, columns=["rows"])["rows"].to_numpy()
        number_of_piece = (before + np.cumsum(rows) - rows) // part_size
        before += int(rows.sum())
        found, first, count = np.unique(number_of_piece, return_index=True, return_counts=True)
        numbers.append(found)
        pieces.append(count)
        images.append(np.add.reduceat(rows, first))
    if not numbers:
        return []
    numbers_twice = np.concatenate(numbers)  # where a part goes on across row groups
    first = np.flatnonzero(np.diff(numbers_twice, prepend=-1))
    counts, sums = (np.add.reduceat(np.concatenate(arrays), first) for arrays in (pieces, images))
    columns = (numbers_twice[first], np.cumsum(counts) - counts, counts, sums)
    return [Part(*map(int, values)) for values in zip(*columns, strict=True)]


def pieces_of(plan: pq.ParquetFile, part: Part) -> list[Piece]:
    """The pieces of a part; neighbours in one row group of a Parquet file come joined."""
    first_group = part.first_piece // PIECES_TOGETHER
    last_group = (part.first_piece + part.pieces - 1) // PIECES_TOGETHER
    table = plan.read_row_groups(list(range(first_group, last_group + 1)))
    rows = table.slice(part.first_piece - first_group * PIECES_TOGETHER, part.pieces).to_pylist()
    joined: list[Piece] = []
    for piece in (Piece(**row) for row in rows):
        last = joined[-1] if joined else None
        if last and piece.row_group is not None and (last.source, last.row_group) == (piece.source, piece.row_group):
            joined[-1] = Piece(last.source, last.row_group, last.first_row, last.rows + piece.rows)
        else:
            joined.append(piece)
    return joined


def open_parquet(name: str, storage: Storage, columns: Columns, *, buffer_bytes: int = 0) -> pq.ParquetFile:
    """A Parquet file that has the columns.

    Args:
        buffer_bytes: of a column that is read, so much at a time; 0: of a row group all of it.

    Raises:
        UserError: no Parquet file, or one without the columns or with others under their names.
        OSError: it can't be read.
    """
    filesystem, path = storage.locate(name)
    try:
        file = pq.ParquetFile(path, filesystem=filesystem, buffer_size=buffer_bytes)
    except pa.ArrowInvalid as error:
        raise UserError(f"{name}: no Parquet file, or a damaged one ({first_line(error)}); leave it out") from error
    types = _types(file.schema_arrow)
    for column in columns.wanted:
        if column not in types:
            option = "--column" if column == columns.image else "--source-column"
            raise UserError(f"{name}: no column {column!r}; it has {', '.join(types)}; name one by {option}")
    kind = types[columns.image]
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f"{name}: column {columns.image!r} is {kind}; expected binary, the bytes of image files; "
            "name another by --column"
        )
    if columns.source is not None and not _is_name(types[columns.source]):
        raise UserError(
            f"{name}: column {columns.source!r} is {types[columns.source]}; expected strings or whole numbers, the "
            "names of the images; name another by --source-column"
        )
    return file


def _files_of(word: str, storage: Storage) -> Iterator[str]:
    if word.startswith("@") and not os.path.exists(word):
        yield from _files_of_list(word[1:], storage)
        return
    if word == "-" or word.startswith("camera:") or word.partition("://")[0].lower() in STREAM_SCHEMES:
        raise UserError(f"{word}: no collection; predict it without --engine ray")
    name = named(word)[0]
    if _suffix(name) in VIDEO_SUFFIXES:
        raise UserError(f"{word}: a video; predict it without --engine ray")
    if glob.has_magic(name) and "://" not in name and not os.path.exists(name):
        yield from _some(_files_matching(name), word)
    elif is_address(word) or _suffix(name) in IMAGE_SUFFIXES:
        yield name
    elif in_storage(name):
        yield from _files_in_storage(name, storage)
    elif os.path.isfile(name):
        yield name  # an image is told by its first bytes, not its name
    elif os.path.isdir(name):
        yield from _some(_files_below(name), word)
    else:
        raise UserError(f"{word}: no such file or folder; name images, Parquet files, a folder or a glob")


def _files_of_list(path: str, storage: Storage) -> Iterator[str]:
    """Line by line: a list may be longer than memory."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                word = line.strip()
                if word.startswith("@"):
                    raise UserError(f"@{path}: {word} in a list; give it by itself")
                if word and not word.startswith("#"):
                    yield from _files_of(word, storage)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"@{path}: the list can't be read ({getattr(error, 'strerror', None) or error})") from error


def _files_below(folder: str) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if _is_wanted(name):
                # a name that isn't UTF-8 can't stand in a result: it becomes no file's, and so a row with an error
                yield os.fsencode(os.path.join(parent, name)).decode("utf-8", "replace")


def _files_matching(pattern: str) -> Iterator[str]:
    for match in glob.iglob(pattern, recursive=True):
        if os.path.isfile(match) and _is_wanted(os.path.basename(match)):
            yield match
        elif os.path.isdir(match) and "**" not in pattern:  # which yields the files below by itself
            yield from _files_below(match)


def _files_in_storage(name: str, storage: Storage) -> Iterator[str]:
    """Folder by folder: of all names below, one folder's are in memory at a time."""
    filesystem, path = storage.locate(name)
    shown = name.removesuffix(path.partition("/")[2]).rstrip("/")  # `s3://street` of s3://street/2026 and street/2026
    try:
        kind = tried_again(lambda: filesystem.get_file_info(path)).type
        if kind == fs.FileType.File:
            yield name
        elif kind == fs.FileType.Directory:
            yield from _some(_below_in_storage(filesystem, path, shown), name)
        else:
            raise UserError(f"{name}: no such file or folder in the storage")
    except OSError as error:
        raise UserError(f"{name}: can't be listed ({first_line(error)})") from error


def _below_in_storage(filesystem: fs.FileSystem, path: str, shown: str) -> Iterator[str]:
    folders = [path]
    while folders:
        selector = fs.FileSelector(folders.pop(), recursive=False)
        entries = tried_again(partial(filesystem.get_file_info, selector))
        entries = sorted((entry for entry in entries if not entry.base_name.startswith(".")), key=lambda e: e.path)
        folders += [entry.path for entry in reversed(entries) if entry.type == fs.FileType.Directory]
        files = (entry for entry in entries if entry.type == fs.FileType.File and _is_wanted(entry.base_name))
        yield from (f"{shown}/{entry.path.partition('/')[2]}" for entry in files)


def _some(names: Iterator[str], word: str) -> Iterator[str]:
    first = next(names, None)
    if first is None:
        raise UserError(f"{word}: no image and no Parquet file in it; name another")
    yield first
    yield from names


def _pieces_of_parquet(name: str, storage: Storage, columns: Columns) -> list[Piece]:
    try:
        with tried_again(lambda: open_parquet(name, storage, columns)) as file:
            groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except OSError as error:
        raise UserError(f"{name}: can't be read ({first_line(error)})") from error
    pieces = []
    for group, rows in enumerate(groups):
        size = max(MIN_ROWS, -(-rows // MAX_PIECES))
        pieces += [Piece(name, group, first, min(size, rows - first)) for first in range(0, rows, size)]
    return pieces


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Of all columns by their names, those in structs with a dot."""
    types: dict[str, pa.DataType] = {}
    for field in schema:
        if pa.types.is_struct(field.type):
            types |= {f"{field.name}.{name}": kind for name, kind in _types(pa.schema(list(field.type))).items()}
        else:
            types[field.name] = field.type
    return types


def _is_name(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)


def _suffix(name: str) -> str:
    return PurePosixPath(urlsplit(name).path if is_address(name) else name).suffix.lower()


def _is_wanted(file_name: str) -> bool:
    return not file_name.startswith(".") and _suffix(file_name) in IMAGE_SUFFIXES | PARQUET_SUFFIXES
