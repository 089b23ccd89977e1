"""The images of one part of a collection: read and decoded ahead of the network, row by row of what comes of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor
from onestage.inference.collection.plan import Columns, Piece, open_parquet
from onestage.inference.collection.storage import TRIES, Storage, first_line, in_storage
from onestage.inference.threads import ahead, mapped_ahead
from onestage.runtime.decode import MAX_FILE_BYTES, ImageError, decode_image
from onestage.structures import Detections

ROWS_AT_ONCE = 16  # of a Parquet file
BUFFER_BYTES = 1 << 24  # of a column of it
READERS_OF_STORAGE = 16  # threads: most of the time they wait for an answer


@dataclass(frozen=True)
class StoredImage:
    """An image of the collection, not yet decoded.

    Attributes:
        source: what its result calls it.
        content: its bytes; None: what `source` names is to be read.
        error: why there is nothing to decode.
    """

    source: str
    content: bytes | None = None
    error: ImageError | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of an image: its size (height, width) and detections, or why it could not be read."""

    source: str
    size_hw: tuple[int, int] | None
    found: Detections | ImageError


def images_of(pieces: Iterable[Piece], storage: Storage, columns: Columns) -> Iterator[StoredImage]:
    """All images of some pieces. What can't be read of a Parquet file is there too, with the reason."""
    for piece in pieces:
        if piece.row_group is None:
            yield StoredImage(piece.source)
        else:
            yield from _rows_of(piece, piece.row_group, storage, columns)


def predict_images(
    predictor: BasePredictor, images: Iterator[StoredImage], storage: Storage, *, batch_size: int, readers: int
) -> Iterator[Outcome]:
    """Detect in images, in order; the next ones are read and decoded in `readers` threads while the network works."""

    def opened(stored: StoredImage) -> _Opened:
        try:
            image = decode_image(_content(stored, storage))
        except ImageError as error:
            return _Opened(stored.source, None, None, error)
        return _Opened(stored.source, (image.shape[0], image.shape[1]), predictor.prepare(image), None)

    depth = batch_size + readers
    ready = mapped_ahead(opened, ahead(images, depth), depth, readers)
    while batch := list(islice(ready, batch_size)):
        found = iter(predictor.detect([one.prepared for one in batch if one.error is None]))
        yield from (Outcome(one.source, one.size_hw, one.error or next(found)) for one in batch)


def readers_for(pieces: Sequence[Piece], threads: int) -> int:
    """How many threads should read: of disks as many as decode at once, of storage and the web more."""
    remote = any(piece.row_group is None and "://" in piece.source for piece in pieces)
    return max(threads, READERS_OF_STORAGE) if remote else max(threads, 2)


@dataclass(frozen=True)
class _Opened:
    source: str
    size_hw: tuple[int, int] | None
    prepared: Any
    error: ImageError | None


def _content(image: StoredImage, storage: Storage) -> bytes | Path:
    if image.error is not None:
        raise image.error
    return storage.image(image.source) if image.content is None else image.content


def _rows_of(piece: Piece, group: int, storage: Storage, columns: Columns) -> Iterator[StoredImage]:
    """Every row of a piece, whatever happens: a read that failed goes on where it was; what is lost has a reason."""
    row, end, before, failures = piece.first_row, piece.first_row + piece.rows, 0, 0
    while row < end:
        try:
            with open_parquet(piece.source, storage, columns, buffer_bytes=BUFFER_BYTES) as file:
                before = sum(file.metadata.row_group(earlier).num_rows for earlier in range(group))
                for name, content in _stream(file, group, row, end, columns):
                    yield _stored(name or f"{piece.source}#{before + row}", content)
                    row, failures = row + 1, 0
            if row < end:
                raise UserError(f"{piece.source}: changed since the collection was listed")
        except (OSError, pa.ArrowException, UserError) as error:
            failures += 1
            if in_storage(piece.source) and failures < TRIES and not isinstance(error, UserError):
                time.sleep(2.0 ** (failures - 1))
                continue
            reason = ImageError(f"{piece.source}: can't be read ({first_line(error)})")
            yield from (StoredImage(f"{piece.source}#{before + lost}", error=reason) for lost in range(row, end))
            return


def _stream(
    file: pq.ParquetFile, group: int, first: int, end: int, columns: Columns
) -> Iterator[tuple[str | None, bytes | None]]:
    """Names and bytes of the rows `first` to before `end` of a row group; a few rows are in memory at a time."""
    batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns.wanted, use_threads=False)
    at = 0
    for batch in batches:
        rows = batch.slice(max(first - at, 0), max(end - max(first, at), 0))
        at += batch.num_rows
        images = _column(rows, columns.image).to_pylist()
        if columns.source is None:
            yield from ((None, image) for image in images)
        else:
            names = pc.cast(_column(rows, columns.source), pa.string()).to_pylist()
            yield from zip(names, images, strict=True)
        if at >= end:
            return


def _column(rows: pa.RecordBatch, name: str) -> pa.Array:
    first, *inner = name.split(".")
    array = rows.column(first)
    for field in inner:
        array = array.flatten()[array.type.get_field_index(field)]  # null where the struct is
    return array


def _stored(name: str, content: bytes | None) -> StoredImage:
    if content is None:
        return StoredImage(name, error=ImageError(f"{name}: null, not an image"))
    if len(content) > MAX_FILE_BYTES:
        return StoredImage(name, error=ImageError(f"{name}: more than the {MAX_FILE_BYTES:,} bytes allowed"))
    return StoredImage(name, content)
