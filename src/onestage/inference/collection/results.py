"""The folder with the results of a collection: a Parquet file for each part, and what a later run goes on with.

    FOLDER/part-00000000.parquet, ...   a row for each image
    FOLDER/_collection/model.*          the model, from which workers on any machine load it
    FOLDER/_collection/plan.parquet     the pieces
    FOLDER/_collection/settings.json    what decides over the results; written when the plan is whole

A part's file appears whole, under a name that only the part decides. So a part that is done twice leaves one file, and
the names alone say which parts are left to do.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onestage import settings
from onestage.errors import UserError
from onestage.inference.collection.part import RESULT_SCHEMA, Piece
from onestage.inference.collection.plan import PLAN_SCHEMA, write_plan
from onestage.inference.collection.storage import Storage, first_line, named, tried_again
from onestage.selection import Selection
from onestage.structures import Categories

PARTS = 256  # parts of a collection of middle size: enough for many workers to share
SMALLEST_PART, LARGEST_PART = 64, 2000  # images, where the user doesn't say
MAX_PART = 100_000  # images that the user may ask for
OWN = "_collection"  # a folder that readers of Parquet pass over


@dataclass(frozen=True)
class RunSettings:
    """What decides over the results of a run: another run goes on with them only if it has the same."""

    onestage: str  # version of the package
    detector: str
    categories: Categories
    selection: Selection
    sources: tuple[str, ...]  # what the user named, without credentials
    columns: tuple[str, ...]  # of Parquet files, see `open_parquet`
    part_size: int | None = None  # images in a part; None: a 256th of the collection, or what the run has that goes on
    model_sha256: str = ""  # filled in by `ResultFolder.begin`, as is the next
    model_files: tuple[str, ...] = ()


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
        progress: Callable[[int], object] = lambda images: None,
    ) -> RunSettings:
        """The settings of the run that began here. Where there is none, begin it: keep the model, write the plan.

        The pieces are not looked at where a run goes on. `progress` is called with numbers of images added to the plan.

        Raises:
            UserError: other results or other files here, or no pieces.
        """
        if asked.part_size is not None and not 1 <= asked.part_size <= MAX_PART:
            raise UserError(f"--part-size {asked.part_size}: give 1 to {MAX_PART:,} images")
        files = [model, model.with_suffix(".bin")] if model.suffix == ".xml" else [model]
        contents = {f"model{file.suffix}": file.read_bytes() for file in files}
        digest = hashlib.sha256(b"".join(contents.values())).hexdigest()
        asked = replace(asked, model_sha256=digest, model_files=tuple(contents))
        begun = self._read_settings()
        if begun is not None:
            self._refuse_another(asked, begun)
            return begun
        for name, content in contents.items():
            self.storage.write(f"{self.name}/{OWN}/{name}", content)
        with self.storage.open_output(f"{self.name}/{OWN}/plan.parquet") as file:
            images = write_plan(pieces, file, progress)
        if not images:
            raise UserError("no image in what was named")
        size = asked.part_size or min(max(images // PARTS, SMALLEST_PART), LARGEST_PART)
        begun = replace(asked, part_size=size)
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
        """The plan, for `parts_of` and `pieces_of`.

        Raises:
            UserError: it is damaged.
        """
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
        tried_again(lambda: self.storage.write(f"{self.name}/part-{number:08}.parquet", content))

    def parts_done(self) -> set[int]:
        """The numbers of the parts whose results are there."""
        matches = (
            re.fullmatch(r"part-(\d{8,})\.parquet", entry.base_name) for entry in self.storage.entries(self.name)
        )
        return {int(match[1]) for match in matches if match}

    def _read_settings(self) -> RunSettings | None:
        name = f"{self.name}/{OWN}/settings.json"
        try:
            begun = settings.read(RunSettings, json.loads(self.storage.read(name)), "settings")
            if begun.part_size is None:
                raise UserError("settings: part_size is none")
            return begun
        except FileNotFoundError:
            others = [e.base_name for e in self.storage.entries(self.name) if not e.base_name.startswith((".", "_"))]
            if others:
                raise UserError(f"{self.name}: holds something else ({others[0]}); choose another --out") from None
            return None
        except (OSError, ValueError, UserError) as error:
            raise UserError(f"{name}: can't be read ({first_line(error)}); choose another --out") from error

    def _refuse_another(self, asked: RunSettings, begun: RunSettings) -> None:
        for name in (field.name for field in fields(asked)):
            had, now = (json.dumps(settings.plain(getattr(run, name))) for run in (begun, asked))
            if had != now and not (name == "part_size" and asked.part_size is None):
                raise UserError(
                    f"{self.name}: holds results of a run with another {name.replace('_', ' ')} "
                    f"({textwrap.shorten(had, 80)}, now {textwrap.shorten(now, 80)}); "
                    "give what it had, or choose another --out"
                )
