"""The folder with the results of a collection: a Parquet file for each part, and what a later run goes on with.

    FOLDER/part-00000000.parquet, ...   a row for each image
    FOLDER/_collection/model.*          the model, from which workers on any machine load it
    FOLDER/_collection/plan.parquet     the pieces
    FOLDER/_collection/settings.json    what decides over the results; written when the plan is whole

A part's file appears whole, under a name that only the part decides.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onestage import settings
from onestage.errors import UserError
from onestage.inference.collection.plan import PLAN_SCHEMA, Part, Piece, parts_of, write_plan
from onestage.inference.collection.storage import Storage, first_line, named, tried_again
from onestage.inference.predictor import BasePredictor
from onestage.models.model_file import RunFolder
from onestage.runtime import __version__
from onestage.runtime.tiles import Tiling
from onestage.selection import Selection
from onestage.structures import Categories

PARTS = 256  # parts of a collection of middle size: enough for many workers to share
SMALLEST_PART, LARGEST_PART = 64, 2000  # images, where the user doesn't say
MAX_PART = 100_000  # images that the user may ask for
OWN = "_collection"  # a folder that readers of Parquet pass over
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


@dataclass(frozen=True)
class RunSettings:
    """What decides over the results of a run: another run goes on with them only if it has the same."""

    onestage: str  # version of the package
    detector: str
    categories: Categories
    selection: Selection
    sources: tuple[str, ...]  # what the user named, without credentials
    columns: tuple[str, ...]  # of Parquet files, see `open_parquet`
    tiling: Tiling | None = None
    part_size: int | None = None  # images in a part; None: a 256th of the collection, or what the run has that goes on
    model_sha256: str = ""  # filled in by `ResultFolder.begin`, as is the next
    model_files: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, predictor: BasePredictor, sources: Sequence[str], columns: Sequence[str | None], part_size: int | None
    ) -> RunSettings:
        """The settings of a run as a user asks for it; columns that are None are left out."""
        names = tuple(named(word)[0] for word in sources)
        given = tuple(column for column in columns if column is not None)
        model = predictor.detector_name, predictor.categories, predictor.selection
        return cls(__version__, *model, names, given, predictor.tiling, part_size)


@dataclass(frozen=True)
class ResultFolder:
    """Where the results go."""

    name: str  # absolute path, or address in object storage
    storage: Storage

    @classmethod
    def at(cls, out: str) -> ResultFolder:
        """The folder that a user named by a path, or by an address with or without options."""
        return cls(named(out)[0], Storage.of([out]))

    def begin(
        self,
        asked: RunSettings,
        model: Path,
        pieces: Iterable[Piece],
        progress: Callable[[int], object] = lambda _: None,
    ) -> RunSettings:
        """The settings of the run that began here. Where there is none, begin it: keep the model, write the plan.

        The pieces are not looked at where a run goes on. `progress` is called with numbers of images added to the plan.
        A UserError where there are other results or other files here, or no pieces.
        """
        if asked.part_size is not None and not 1 <= asked.part_size <= MAX_PART:
            raise UserError(f"--part-size {asked.part_size}: give 1 to {MAX_PART:,} images")
        model = RunFolder(model).model if model.is_dir() else model
        files = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]
        contents = {f"model{file.suffix}": file.read_bytes() for file in files}
        digest = hashlib.sha256(b"".join(contents.values())).hexdigest()
        asked = replace(asked, model_sha256=digest, model_files=tuple(contents))
        if begun := self._begun(asked):
            return begun
        for name, content in contents.items():
            self.storage.write(f"{self.name}/{OWN}/{name}", content)
        with self.storage.open_output(f"{self.name}/{OWN}/plan.parquet") as file:
            images = write_plan(pieces, file, progress)
        if not images:
            raise UserError("no image in what was named")
        begun = replace(asked, part_size=asked.part_size or min(max(images // PARTS, SMALLEST_PART), LARGEST_PART))
        self.storage.write(f"{self.name}/{OWN}/settings.json", json.dumps(settings.plain(begun), indent=1).encode())
        return begun

    @contextmanager
    def model(self, files: Sequence[str]) -> Iterator[Path]:
        """A copy of the model on this machine's disk, while in `with`; `files` are the settings' `model_files`."""
        with tempfile.TemporaryDirectory() as folder:
            for name in files:
                Path(folder, name).write_bytes(self.storage.read(f"{self.name}/{OWN}/{name}"))
            yield Path(folder, files[0])

    def open_plan(self) -> pq.ParquetFile:
        """The plan, for `parts_of` and `pieces_of`; a UserError where it is damaged."""
        name = f"{self.name}/{OWN}/plan.parquet"
        try:
            plan = tried_again(lambda: pq.ParquetFile(self.storage.open(name)))
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            raise UserError(f"{name}: damaged ({first_line(error)}); choose another --out") from error
        if plan.schema_arrow != PLAN_SCHEMA:
            raise UserError(f"{name}: of another version of onestage; choose another --out")
        return plan

    def write_part(self, number: int, rows: Sequence[Mapping[str, Any]], run: RunSettings) -> None:
        """Put the rows of a part (of `RESULT_SCHEMA`) in their place, whole."""
        about = {name: value for name, value in settings.plain(run).items() if name != "sources"}  # there may be many
        table = pa.Table.from_pylist(rows, RESULT_SCHEMA.with_metadata({"onestage": json.dumps(about)}))
        file = pa.BufferOutputStream()
        pq.write_table(table, file, compression="zstd")
        content = file.getvalue().to_pybytes()
        tried_again(lambda: self.storage.write(f"{self.name}/{_file_name(number)}", content))

    def parts(self, run: RunSettings) -> tuple[list[Part], list[Part]]:
        """All parts of the collection, and those of them whose results are not there yet."""
        assert run.part_size is not None  # `begin` fills it in
        parts = parts_of(self.open_plan(), run.part_size)
        there = {entry.base_name for entry in self.storage.entries(self.name)}
        return parts, [part for part in parts if _file_name(part.number) not in there]

    def _begun(self, asked: RunSettings) -> RunSettings | None:
        """The settings of the run that began here, if any; an error where they aren't those that are asked for."""
        name = f"{self.name}/{OWN}/settings.json"
        try:
            begun = settings.read(RunSettings, json.loads(self.storage.read(name)), "settings")
            if begun.part_size is None:
                raise UserError("settings: part_size is none")
        except FileNotFoundError:
            others = [e.base_name for e in self.storage.entries(self.name) if not e.base_name.startswith((".", "_"))]
            if others:
                raise UserError(f"{self.name}: holds something else ({others[0]}); choose another --out") from None
            return None
        except (OSError, ValueError, UserError) as error:
            raise UserError(f"{name}: can't be read ({first_line(error)}); choose another --out") from error
        before, now = settings.plain(begun), settings.plain(asked)
        for field in now:
            if before[field] != now[field] and not (field == "part_size" and asked.part_size is None):
                had, has = (textwrap.shorten(json.dumps(values[field]), 80) for values in (before, now))
                raise UserError(
                    f"{self.name}: holds results of a run with another {field.replace('_', ' ')} ({had}, now {has}); "
                    "give what it had, or choose another --out"
                )
        return begun


def _file_name(part_number: int) -> str:
    return f"part-{part_number:08}.parquet"
