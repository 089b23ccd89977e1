"""The images of a collection: found by what the user named, listed in a plan, divided into parts, and read.

A piece is an image file, or some rows of a Parquet file. A part is consecutive pieces: what a worker does at once,
whose results are one file. The plan doesn't change once it is written, so every run and worker has the same parts.
"""

import glob
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import TypeAlias
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from onestage.errors import UserError
from onestage.inference.collection.storage import TRIES, Storage, first_line, in_storage, named, tried_again
from onestage.inference.sources import IMAGE_SUFFIXES, STREAM_SCHEMES, VIDEO_SUFFIXES, is_address, matching, walk
from onestage.inference.threads import mapped_ahead
from onestage.runtime.decode import ImageError
from onestage.texts import as_unicode

PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
MAX_PIECES = 16  # pieces in a Parquet row group: reading one also reads the rows of the group before it
MIN_ROWS = 32  # rows in such a piece, unless the row group ends
PIECES_TOGETHER = 10_000  # pieces in a row group of the plan, which are in memory together
FOOTERS = 16  # Parquet footers (they list the row groups) read at the same time
ROWS_AT_ONCE = 16  # rows of a Parquet file in memory
BUFFER_BYTES = 1 << 24  # bytes of one of its columns in memory
BINARY_TYPES = r"(large_)?binary"  # column types, as patterns
NAME_TYPES = r"(large_)?string|u?int\d+|dictionary<values=((large_)?string|u?int\d+),.*"
PLAN_SCHEMA = pa.schema([("source", pa.string()), ("row_group", pa.int32()), ("row", pa.int64()), ("rows", pa.int64())])
Content: TypeAlias = bytes | ImageError | None  # an encoded image, why there is none, or None where its name opens it


@dataclass(frozen=True)
class Piece:
    """An image file, or some rows of one row group of a Parquet file."""

    source: str  # absolute path or address of the file
    row_group: int | None = None  # None: the file is an image
    row: int = 0  # index of the first row in the file
    rows: int = 1  # number of rows, which are images


@dataclass
class Part:
    """Consecutive pieces of the plan."""

    number: int  # place in the collection; it names the file of results
    first_piece: int  # index in the plan
    pieces: int = 0
    images: int = 0  # in all of the pieces


def find_pieces(words: Sequence[str], columns: Sequence[str]) -> Iterator[Piece]:
    """The pieces of everything that the user named, found while they are asked for.

    A word is an image; a Parquet file; a folder (its images and Parquet files, and those of the folders in it,
    hidden ones left out); a glob of this machine's files; an address of an image, a Parquet file or a folder in object
    storage; an image's web address; or `@list.txt`, a file with one such word a line. An image that isn't there is
    noticed when it is read.

    Raises:
        UserError: a word that names nothing or a video, or a Parquet file without the columns.
    """
    storage = Storage.of(words)
    parquet: list[str] = []
    for name in (name for word in dict.fromkeys(words) for name in _files_of(word, storage)):
        name = as_unicode(name)  # one that is no UTF-8 names no file then: its row has an error
        if _suffix(name) in PARQUET_SUFFIXES:
            parquet.append(name)
        else:
            yield Piece(name)
    found = mapped_ahead(lambda name: _pieces_of_parquet(name, storage, columns), parquet, 2 * FOOTERS, FOOTERS)
    yield from chain.from_iterable(found)


def _files_of(word: str, storage: Storage) -> Iterator[str]:
    """The files that a word stands for, by name; at least one."""
    names = _expanded(word, storage)
    first = next(names, None)
    if first is None:
        raise UserError(f"{word}: no image and no Parquet file in it; name another")
    yield from chain([first], names)


def _expanded(word: str, storage: Storage) -> Iterator[str]:
    if word.startswith("@") and not os.path.exists(word):
        yield from _files_of_list(word[1:], storage)
        return
    if word == "-" or word.startswith("camera:") or word.partition("://")[0].lower() in STREAM_SCHEMES:
        raise UserError(f"{word}: not a collection; predict it without --engine ray")
    name = named(word)[0]
    if _suffix(name) in VIDEO_SUFFIXES:
        raise UserError(f"{word}: a video; predict it without --engine ray")
    if glob.has_magic(name) and "://" not in name and not os.path.exists(name):
        for match in matching(name):
            if os.path.isfile(match) and _is_wanted(os.path.basename(match)):
                yield match
            elif os.path.isdir(match) and "**" not in name:  # "**" matches the files below by itself
                yield from _files_below(match)
    elif is_address(word) or _suffix(name) in IMAGE_SUFFIXES or os.path.isfile(name):
        yield name  # a file whatever its suffix: its first bytes say whether it is an image
    elif in_storage(name):
        yield from _files_in_storage(name, storage)
    elif os.path.isdir(name):
        yield from _files_below(name)
    else:
        raise UserError(f"{word}: no such file or folder; name images, Parquet files, a folder or a glob")


def _files_of_list(path: str, storage: Storage) -> Iterator[str]:
    """The files that a list names, read line by line: it may be longer than memory."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for word in map(str.strip, file):
                if word.startswith("@"):
                    raise UserError(f"@{path}: {word} in a list; give it by itself")
                if word and not word.startswith("#"):
                    yield from _files_of(word, storage)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"@{path}: the list can't be read ({getattr(error, 'strerror', None) or error})") from error


def _files_below(folder: str) -> Iterator[str]:
    for parent, files in walk(folder):
        for name in filter(_is_wanted, files):
            yield os.path.join(parent, name)


def _files_in_storage(name: str, storage: Storage) -> Iterator[str]:
    filesystem, path = storage.locate(name)
    try:
        kind = tried_again(lambda: filesystem.get_file_info(path)).type
        if kind == fs.FileType.NotFound:
            raise UserError(f"{name}: no such file or folder in the storage")
        yield from _files_below_in_storage(name, storage) if kind == fs.FileType.Directory else (name,)
    except OSError as error:
        raise UserError(f"{name}: can't be listed ({first_line(error)})") from error


def _files_below_in_storage(folder: str, storage: Storage) -> Iterator[str]:
    """Files first, then folder by folder: the names of the whole collection are never in memory at once."""
    entries = (entry for entry in storage.entries(folder) if entry.base_name[:1] not in ("", "."))
    for entry in sorted(entries, key=lambda entry: (entry.type == fs.FileType.Directory, entry.base_name)):
        if entry.type == fs.FileType.Directory:
            yield from _files_below_in_storage(f"{folder}/{entry.base_name}", storage)
        elif _is_wanted(entry.base_name):
            yield f"{folder}/{entry.base_name}"


def _pieces_of_parquet(name: str, storage: Storage, columns: Sequence[str]) -> list[Piece]:
    try:
        with tried_again(lambda: open_parquet(name, storage, columns)) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except OSError as error:
        raise UserError(f"{name}: can't be read ({first_line(error)})") from error
    pieces, start = [], 0
    for group, rows in enumerate(sizes):
        step = max(MIN_ROWS, -(-rows // MAX_PIECES))
        pieces += [Piece(name, group, start + row, min(step, rows - row)) for row in range(0, rows, step)]
        start += rows
    return pieces


def _suffix(name: str) -> str:
    return PurePosixPath(urlsplit(name).path if is_address(name) else name).suffix.lower()


def _is_wanted(file_name: str) -> bool:
    return not file_name.startswith(".") and _suffix(file_name) in IMAGE_SUFFIXES | PARQUET_SUFFIXES


def write_plan(pieces: Iterable[Piece], file: pa.NativeFile, progress: Callable[[int], object]) -> int:
    """Write the plan of a collection, and return its number of images; `progress` is called with parts of it."""
    total, remaining = 0, iter(pieces)
    with pq.ParquetWriter(file, PLAN_SCHEMA, compression="zstd") as writer:
        while together := list(islice(remaining, PIECES_TOGETHER)):
            writer.write_table(pa.Table.from_pylist([vars(piece) for piece in together], PLAN_SCHEMA))
            images = sum(piece.rows for piece in together)
            progress(images)
            total += images
    return total


def parts_of(plan: pq.ParquetFile, part_size: int) -> list[Part]:
    """Divide a collection into parts of about `part_size` images. Part n has the pieces whose first image is one of the
    n-th `part_size` images: a large piece makes a part larger, and a part without pieces is left out."""
    parts: list[Part] = []
    images_before = 0
    sizes = (rows for batch in plan.iter_batches(columns=["rows"]) for rows in batch["rows"].to_pylist())
    for index, images in enumerate(sizes):
        number = images_before // part_size
        if not parts or parts[-1].number != number:
            parts.append(Part(number, first_piece=index))
        parts[-1].pieces += 1
        parts[-1].images += images
        images_before += images
    return parts


def pieces_of(plan: pq.ParquetFile, part: Part) -> list[Piece]:
    """The pieces of a part; neighbours in one row group of a Parquet file are joined, to be read in one go."""
    first_group, last_group = (n // PIECES_TOGETHER for n in (part.first_piece, part.first_piece + part.pieces - 1))
    table = plan.read_row_groups(list(range(first_group, last_group + 1)))
    rows = table.slice(part.first_piece - first_group * PIECES_TOGETHER, part.pieces).to_pylist()
    pieces: list[Piece] = []
    for piece in (Piece(**row) for row in rows):
        before = pieces[-1] if pieces else Piece("")
        if piece.row_group is not None and (piece.source, piece.row_group) == (before.source, before.row_group):
            pieces[-1] = replace(before, rows=before.rows + piece.rows)
        else:
            pieces.append(piece)
    return pieces


def images_of(pieces: Iterable[Piece], storage: Storage, columns: Sequence[str]) -> Iterator[tuple[str, Content]]:
    """Name and content of every image of some pieces; a row of a Parquet file that can't be read has an error."""
    for piece in pieces:
        if piece.row_group is None:
            yield piece.source, None
        else:
            yield from _rows_of(piece, piece.row_group, storage, columns)


def open_parquet(name: str, storage: Storage, columns: Sequence[str], buffer_bytes: int = 0) -> pq.ParquetFile:
    """Open a Parquet file and check its columns: the first holds the encoded images, a second one their names.

    A dot in a column's name leads into a struct (`image.bytes`). `buffer_bytes` is how much of a column is in memory at
    a time; 0: a row group. Raises an OSError if the file can't be read, a UserError if it doesn't have the columns.
    """
    filesystem, path = storage.locate(name)
    try:
        file = pq.ParquetFile(path, filesystem=filesystem, buffer_size=buffer_bytes)
    except pa.ArrowInvalid as error:
        raise UserError(f"{name}: no Parquet file, or a damaged one ({first_line(error)}); leave it out") from error
    types = _types_by_name(file.schema_arrow)
    wanted = [(BINARY_TYPES, "binary, the bytes of image files", "--column")]
    wanted += [(NAME_TYPES, "strings or whole numbers, the names of the images", "--source-column")]
    for column, (pattern, expected, option) in zip(columns, wanted, strict=False):
        if not re.fullmatch(pattern, types.get(column, "")):
            has = ", ".join(f"{other} ({kind})" for other, kind in types.items())
            problem = f"column {column!r} is {types[column]}" if column in types else f"no column {column!r}"
            raise UserError(f"{name}: {problem}; expected {expected}; the file has {has}; name one by {option}")
    return file


def _types_by_name(schema: pa.Schema | pa.StructType, prefix: str = "") -> dict[str, str]:
    """The types of all columns by name; a column in a struct has a dot in its name."""
    types: dict[str, str] = {}
    for field in schema:
        name = prefix + field.name
        types |= _types_by_name(field.type, f"{name}.") if pa.types.is_struct(field.type) else {name: str(field.type)}
    return types


def _rows_of(piece: Piece, group: int, storage: Storage, columns: Sequence[str]) -> Iterator[tuple[str, Content]]:
    """Name and content of every row of a piece. A failed read goes on from its row; a lost row has an error."""
    row, end, failures = piece.row, piece.row + piece.rows, 0
    while row < end:
        try:
            with open_parquet(piece.source, storage, columns, BUFFER_BYTES) as file:
                for name, content in _read_rows(file, group, row, end, columns):
                    name = name or f"{piece.source}#{row}"
                    yield name, ImageError(f"{name}: null, not an image") if content is None else content
                    row, failures = row + 1, 0
            if row < end:
                raise UserError(f"{piece.source}: changed since the collection was listed")
        except (OSError, pa.ArrowException, UserError) as error:
            failures += 1
            if in_storage(piece.source) and failures < TRIES and not isinstance(error, UserError):
                time.sleep(2.0 ** (failures - 1))
                continue
            reason = ImageError(f"{piece.source}: can't be read ({first_line(error)})")
            yield from ((f"{piece.source}#{lost}", reason) for lost in range(row, end))
            return


def _read_rows(
    file: pq.ParquetFile, group: int, row: int, end: int, columns: Sequence[str]
) -> Iterator[tuple[str | None, bytes | None]]:
    """Names and bytes of the rows `row` to `end` of a row group, of which a few are in memory at a time."""
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    if group >= len(sizes):
        return
    start = sum(sizes[:group])  # of each batch, as an index in the file
    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(columns), use_threads=False):
        rows = batch[max(row - start, 0) : max(end - start, 0)].to_struct_array()
        start += batch.num_rows
        # pyarrow makes struct_field at run time
        images, *names = (pc.struct_field(rows, column.split(".")) for column in columns)  # pyright: ignore
        strings = pc.cast(names[0], pa.string()).to_pylist() if names else [None] * len(images)
        yield from zip(strings, images.to_pylist(), strict=True)
        if start >= end:
            return
