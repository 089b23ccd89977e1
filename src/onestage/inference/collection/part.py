"""The images of one part of a collection: read and decoded ahead of the network, a row of results for each."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor, PreparedImage
from onestage.inference.collection.storage import TRIES, Storage, first_line, in_storage
from onestage.inference.remote import fetch_image, is_address
from onestage.inference.threads import ahead, mapped_ahead
from onestage.runtime.decode import MAX_FILE_BYTES, ImageError, decode_image
from onestage.structures import Detections

ROWS_AT_ONCE = 16  # of a Parquet file in memory
BUFFER_BYTES = 1 << 24  # of a column of it in memory
STORAGE_THREADS = 16  # most of the time they wait for an answer
BINARY = r"(large_)?binary"  # types of columns, as patterns
NAME = r"(large_)?string|u?int\d+|dictionary<values=((large_)?string|u?int\d+),.*"
DETECTION = {"name": pa.string(), "label": pa.int32(), "score": pa.float32(), "box_xyxy": pa.list_(pa.float32())}
RESULT_SCHEMA = pa.schema(
    {
        "source": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "error": pa.string(),
        "detections": pa.list_(pa.struct(DETECTION)),
    }
)

Content: TypeAlias = bytes | ImageError | None
"""An encoded image, why there is none, or None where the image's name opens it."""


@dataclass(frozen=True)
class Piece:
    """An image file, or some rows of one row group of a Parquet file."""

    source: str  # absolute path or address of the file
    row_group: int | None = None  # None: the file is an image
    row: int = 0  # index of the first row in the file
    rows: int = 1  # number of rows, which are images


def predict_pieces(
    predictor: BasePredictor,
    pieces: Sequence[Piece],
    storage: Storage,
    columns: Sequence[str],
    batch_size: int,
    cores: int,
) -> Iterator[dict[str, Any]]:
    """A row of `RESULT_SCHEMA` for each image of some pieces, in order.

    The next images are read and decoded meanwhile, in a thread for each core, or more where they are in storage.
    """

    def prepared(image: tuple[str, Content]) -> tuple[str, PreparedImage | ImageError]:
        name, content = image
        try:
            return name, predictor.prepare(decode_image(_encoded(name, content, storage)))
        except ImageError as error:
            return name, error

    remote = any(piece.row_group is None and "://" in piece.source for piece in pieces)
    threads = max(cores, STORAGE_THREADS if remote else 2)
    depth = batch_size + threads
    ready = mapped_ahead(prepared, ahead(images_of(pieces, storage, columns), depth), depth, threads)
    while batch := list(islice(ready, batch_size)):
        found = iter(predictor.detect([image for _, image in batch if isinstance(image, PreparedImage)]))
        for name, image in batch:
            yield _error_row(name, image) if isinstance(image, ImageError) else _row(name, image, next(found))


def images_of(pieces: Iterable[Piece], storage: Storage, columns: Sequence[str]) -> Iterator[tuple[str, Content]]:
    """Name and content of every image of some pieces. A row of a Parquet file that can't be read has its error."""
    for piece in pieces:
        if piece.row_group is None:
            yield piece.source, None
        else:
            yield from _rows_of(piece, piece.row_group, storage, columns)


def open_parquet(name: str, storage: Storage, columns: Sequence[str], buffer_bytes: int = 0) -> pq.ParquetFile:
    """A Parquet file that has the columns: that of the encoded images and, where there are two, that of their names.

    A dot in a column's name leads into a struct (`image.bytes`). So many bytes of a column are in memory at a time; 0:
    those of a row group.

    Raises:
        UserError: no Parquet file, or one without these columns, or with other types in them.
        OSError: it can't be read.
    """
    filesystem, path = storage.locate(name)
    try:
        file = pq.ParquetFile(path, filesystem=filesystem, buffer_size=buffer_bytes)
    except pa.ArrowInvalid as error:
        raise UserError(f"{name}: no Parquet file, or a damaged one ({first_line(error)}); leave it out") from error
    types = _types(file.schema_arrow)
    image, *names = columns
    if not re.fullmatch(BINARY, types.get(image, "")):
        raise _unfit_column(name, image, types, "binary, the bytes of image files", "--column")
    if names and not re.fullmatch(NAME, types.get(names[0], "")):
        expected = "strings or whole numbers, the names of the images"
        raise _unfit_column(name, names[0], types, expected, "--source-column")
    return file


def _unfit_column(name: str, column: str, types: Mapping[str, str], expected: str, option: str) -> UserError:
    has = ", ".join(f"{column} ({kind})" for column, kind in types.items())
    problem = f"column {column!r} is {types[column]}" if column in types else f"no column {column!r}"
    return UserError(f"{name}: {problem}; expected {expected}; the file has {has}; name one by {option}")


def _types(schema: pa.Schema | pa.StructType, prefix: str = "") -> dict[str, str]:
    """The types of all columns by name; a column in a struct has a dot in its name."""
    types: dict[str, str] = {}
    for field in schema:
        name = prefix + field.name
        types |= _types(field.type, f"{name}.") if pa.types.is_struct(field.type) else {name: str(field.type)}
    return types


def _encoded(name: str, content: Content, storage: Storage) -> Path | bytes:
    """What the decoder takes."""
    if isinstance(content, ImageError):
        raise content
    if content is not None:
        if len(content) > MAX_FILE_BYTES:
            raise ImageError(f"{name}: more than the {MAX_FILE_BYTES:,} bytes allowed for an image")
        return content
    if is_address(name):
        return fetch_image(name)
    if not in_storage(name):
        return Path(name)
    try:
        return storage.read(name, MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such image") from error
    except OSError as error:
        raise ImageError(f"{name}: can't be read ({first_line(error)})") from error


def _row(name: str, image: PreparedImage, found: Detections) -> dict[str, Any]:
    height, width = image.original_hw
    labels, scores, boxes_xyxy = found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist()
    detections = [
        {"name": found.name_of(label), "label": label, "score": score, "box_xyxy": box_xyxy}
        for label, score, box_xyxy in zip(labels, scores, boxes_xyxy, strict=True)
    ]
    return {"source": name, "width": width, "height": height, "error": None, "detections": detections}


def _error_row(name: str, error: ImageError) -> dict[str, Any]:
    one_line = " ".join(str(error).split())
    return {"source": name, "width": None, "height": None, "error": one_line, "detections": None}


def _rows_of(piece: Piece, group: int, storage: Storage, columns: Sequence[str]) -> Iterator[tuple[str, Content]]:
    """Every row of a piece, whatever happens: a read that failed goes on where it was; a lost row has the reason."""
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
    """Names and bytes of some rows of a row group, a few of which are in memory at a time."""
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    if group >= len(sizes):
        return
    at = sum(sizes[:group])
    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(columns), use_threads=False):
        rows = batch[max(row - at, 0) : max(end - at, 0)].to_struct_array()
        at += batch.num_rows
        # pyarrow makes struct_field at run time
        images, *names = (pc.struct_field(rows, column.split(".")) for column in columns)  # pyright: ignore
        strings = pc.cast(names[0], pa.string()).to_pylist() if names else [None] * len(images)
        yield from zip(strings, images.to_pylist(), strict=True)
        if at >= end:
            return
