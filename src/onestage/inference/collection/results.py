"""The folder with the results of a collection: a Parquet file for each part, and what it takes to go on.

    FOLDER/part-00000000.parquet, ...   a row an image
    FOLDER/_collection/model.*          the model, from which workers on any machine load it
    FOLDER/_collection/plan.parquet     the pieces
    FOLDER/_collection/settings.json    the model, the selection, the words; written when the plan is whole
    FOLDER/_collection/tries-00000000   how often a part that isn't done was begun

A part's file appears whole, under a name that only the part decides. So a part that is done twice leaves one file, and
what is left to do can be told from the names alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from onestage.errors import UserError
from onestage.inference.collection.part import Outcome
from onestage.inference.collection.plan import Piece, write_plan
from onestage.inference.collection.storage import Storage, first_line, named, tried_again
from onestage.structures import Detections

OWN, TRIES = "_collection", "tries-"  # a folder that readers of Parquet pass over
SETTINGS, PLAN = f"{OWN}/settings.json", f"{OWN}/plan.parquet"
METADATA_KEY = "onestage"
PARTS = 256  # of a collection, where its size lets parts be of a good size: so many share well among workers
SMALLEST_PART, LARGEST_PART, MAX_PART = 64, 2000, 100_000  # images; the last: what may be asked for
DETECTION = pa.struct(
    [
        ("name", pa.string()),
        ("label", pa.int32()),
        ("score", pa.float32()),
        ("box_xyxy", pa.list_(pa.float32())),
    ]
)
RESULT_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error", pa.string()),
        ("detections", pa.list_(DETECTION)),
    ]
)


@dataclass(frozen=True)
class ResultFolder:
    """Where the results go.

    Attributes:
        name: an absolute path, or an address in object storage.
        storage: which opens it.
    """

    name: str
    storage: Storage

    @classmethod
    def at(cls, out: str) -> ResultFolder:
        """Where a person says: a path, or an address with or without options."""
        return cls(named(out)[0], Storage.of([out]))

    def begin(
        self, asked: Mapping[str, Any], model: Path, pieces: Iterable[Piece], part_size: int | None
    ) -> dict[str, Any]:
        """The settings of the run that began here; where there is none, begin it: keep the model, list the pieces.

        Args:
            asked: JSON-able, all that decides over the results: a run goes on only with the same.
            model: a model file or an exported file.
            pieces: not looked at where a run goes on.
            part_size: images; None: a 256th of them, from 64 to 2,000, or what the run has that goes on.

        Returns:
            `asked`, with `model_sha256`, `model_files` and `part_size`.

        Raises:
            UserError: other results or other files here, or no pieces.
        """
        if part_size is not None and not 1 <= part_size <= MAX_PART:
            raise UserError(f"--part-size {part_size}: give 1 to {MAX_PART:,} images")
        contents = {f"model{path.suffix}": path.read_bytes() for path in _files_of(model)}
        digest = hashlib.sha256(b"".join(contents.values())).hexdigest()
        asked = {**json.loads(json.dumps(asked)), "model_sha256": digest, "part_size": part_size}
        begun = self._read_settings()
        if begun is not None:
            self._refuse_another(asked, begun)
            return begun
        for name, content in contents.items():
            self.storage.write(f"{self.name}/{OWN}/{name}", content)
        with self.storage.open_output(f"{self.name}/{PLAN}") as file:
            images = write_plan(pieces, file)
        if not images:
            raise UserError("no image in what was named")
        size = part_size or min(max(images // PARTS, SMALLEST_PART), LARGEST_PART)
        settings = {**asked, "model_files": list(contents), "part_size": size}
        self.storage.write(f"{self.name}/{SETTINGS}", json.dumps(settings, indent=1).encode())
        return settings

    @contextmanager
    def model(self, names: Sequence[str]) -> Iterator[Path]:
        """The first of the model's files on a disk of this machine, the others beside it, while in `with`."""
        filesystem, path = self.storage.locate(f"{self.name}/{OWN}")
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                with filesystem.open_input_file(f"{path}/{name}") as file:
                    Path(folder, name).write_bytes(file.read())
            yield Path(folder, names[0])

    def open_plan(self) -> pq.ParquetFile:
        """The pieces; see `collection.pieces_of`.

        Raises:
            UserError: it is damaged.
        """
        filesystem, path = self.storage.locate(f"{self.name}/{PLAN}")
        try:
            return tried_again(lambda: pq.ParquetFile(path, filesystem=filesystem))
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            raise UserError(f"{self.name}/{PLAN}: damaged ({first_line(error)}); choose another --out") from error

    def forget_tries(self) -> None:
        """Begin to count anew: a run that was stopped leaves parts that were begun, and nothing was wrong with them."""
        for name in self._names(OWN):
            if name.startswith(TRIES):
                filesystem, path = self.storage.locate(f"{self.name}/{OWN}/{name}")
                filesystem.delete_file(path)

    def begin_part(self, number: int) -> int:
        """Count how often a part was begun since `forget_tries`, this time included."""
        name = self._tries(number)
        filesystem, path = self.storage.locate(name)
        try:
            with filesystem.open_input_file(path) as file:
                tries = int(file.read())
        except (OSError, ValueError):
            tries = 0
        self.storage.write(name, str(tries + 1).encode())
        return tries + 1

    def end_part(self, number: int, content: pa.Buffer) -> None:
        """Put a part's results in their place, whole."""
        tried_again(lambda: self.storage.write(f"{self.name}/part-{number:08}.parquet", content))
        filesystem, path = self.storage.locate(self._tries(number))
        tried_again(lambda: filesystem.delete_file(path))

    def parts_done(self) -> set[int]:
        """The numbers of the parts whose results are there."""
        matches = (re.fullmatch(r"part-(\d{8,})\.parquet", name) for name in self._names())
        return {int(match[1]) for match in matches if match}

    def _tries(self, number: int) -> str:
        return f"{self.name}/{OWN}/{TRIES}{number:08}"

    def _read_settings(self) -> dict[str, Any] | None:
        filesystem, path = self.storage.locate(self.name)
        try:
            with filesystem.open_input_file(f"{path}/{SETTINGS}") as file:
                settings = json.loads(file.read())
        except FileNotFoundError:
            others = [name for name in self._names() if not name.startswith((".", "_"))]
            if others:
                raise UserError(f"{self.name}: holds something else ({others[0]}); choose another --out") from None
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name}/{SETTINGS}: can't be read ({first_line(error)})") from error
        if not isinstance(settings, dict) or not isinstance(settings.get("part_size"), int):
            raise UserError(f"{self.name}/{SETTINGS}: damaged; choose another --out")
        return settings

    def _refuse_another(self, asked: Mapping[str, Any], begun: Mapping[str, Any]) -> None:
        for name, value in asked.items():
            if begun.get(name) != value and not (name == "part_size" and value is None):
                raise UserError(
                    f"{self.name}: holds results of a run with another {name.replace('_', ' ')} "
                    f"({_short(begun.get(name))}, now {_short(value)}); give what it had, or choose another --out"
                )

    def _names(self, below: str = "") -> list[str]:
        filesystem, path = self.storage.locate(f"{self.name}/{below}")
        selector = fs.FileSelector(path, allow_not_found=True)
        return [entry.base_name for entry in tried_again(lambda: filesystem.get_file_info(selector))]


def _files_of(model: Path) -> list[Path]:
    return [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


def result_file(outcomes: Sequence[Outcome], names: Sequence[str], metadata: Mapping[str, Any]) -> pa.Buffer:
    """The content of a Parquet file of `RESULT_SCHEMA` with a row for each outcome.

    Args:
        names: of every class, by label.
        metadata: JSON-able; goes under the schema's key `onestage`.
    """
    found = [outcome.found if isinstance(outcome.found, Detections) else None for outcome in outcomes]
    errors = [outcome.found if isinstance(outcome.found, UserError) else None for outcome in outcomes]
    sizes = [outcome.size_hw or (None, None) for outcome in outcomes]
    columns = [
        pa.array([outcome.source for outcome in outcomes], pa.string()),
        pa.array([width for _, width in sizes], pa.int32()),
        pa.array([height for height, _ in sizes], pa.int32()),
        pa.array([None if error is None else " ".join(str(error).split()) for error in errors], pa.string()),
        _detections(found, names),
    ]
    schema = RESULT_SCHEMA.with_metadata({METADATA_KEY: json.dumps(metadata)})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), sink, compression="zstd")
    return sink.getvalue()


def _detections(found: Sequence[Detections | None], names: Sequence[str]) -> pa.Array:
    """A list of detections for each image; null for None."""
    some = [one for one in found if one is not None]
    empty = np.zeros((0, 4), dtype=np.float32)
    boxes_xyxy = np.concatenate([empty, *(one.boxes_xyxy.numpy() for one in some)], dtype=np.float32)
    scores = np.concatenate([empty[:, 0], *(one.scores.numpy() for one in some)], dtype=np.float32)
    labels = np.concatenate([np.zeros(0, dtype=np.int32), *(one.labels.numpy() for one in some)], dtype=np.int32)
    sides = pa.ListArray.from_arrays(np.arange(0, boxes_xyxy.size + 1, 4, dtype=np.int32), boxes_xyxy.ravel())
    names_of_labels = pa.array(names, pa.string()).take(pa.array(labels))
    rows = pa.StructArray.from_arrays([names_of_labels, labels, scores, sides], fields=list(DETECTION))
    ends = np.cumsum([0, *(0 if one is None else len(one) for one in found)], dtype=np.int32)
    unknown = pa.array([one is None for one in found], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends), rows, type=RESULT_SCHEMA.field("detections").type, mask=unknown)
