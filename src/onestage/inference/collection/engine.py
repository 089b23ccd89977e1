"""Prediction by Ray Data: actors that hold a predictor each do the parts of a collection.

Ray Data hands out the parts, and starts an actor that died again, with the parts it had. The actors read the images
and write the results themselves, a file a part: Ray Data's own `write_parquet` names its files anew in every run, so
what a run that died had written would be there twice after the next.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray.data
import ray.exceptions
import torch

from onestage.errors import UserError
from onestage.inference.collection.cluster import Workers
from onestage.inference.collection.part import images_of, predict_images, readers_for
from onestage.inference.collection.plan import Columns, Part, pieces_of
from onestage.inference.collection.results import ResultFolder, result_file
from onestage.inference.collection.storage import Storage, first_line
from onestage.inference.predictor import load
from onestage.postprocess import Selection
from onestage.structures import Detections

TRIES_OF_A_PART = 5  # one that killed so many workers would go on killing them, and Ray Data would never stop
PARTS_AHEAD = 2  # of each worker, so that it doesn't wait for the next
MAX_BLOCKS = 10_000  # Ray Data's own work grows with them
GOES_ON = "what is done is kept, and the same command goes on with the rest"


@dataclass(frozen=True)
class Work:
    """What every worker must know.

    Attributes:
        folder: where the model and the plan are and the results go.
        settings: what `folder.begin` gave.
        storage: which opens the images.
        columns: of Parquet files.
        selection: what is kept of the network's output.
        batch_size: images that go through the network at once.
    """

    folder: ResultFolder
    settings: Mapping[str, Any]
    storage: Storage
    columns: Columns
    selection: Selection
    batch_size: int


@dataclass(frozen=True)
class PartDone:
    """What came of a part: counts, or why it could not be done, in one line and for who looks for a mistake."""

    part: int
    images: int
    unreadable: int
    detections: int
    failure: str = ""
    trace: str = ""


class Worker:
    """What an actor runs: a predictor, loaded once, that does part after part."""

    def __init__(self, work: Work, device: str, threads: int) -> None:
        cv2.setNumThreads(0)  # the readers are the threads
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # which the engines of exported files go by
        self._work, self._threads = work, threads
        with work.folder.model(work.settings["model_files"]) as path:
            self._predictor = load(path, device=device)
        self._predictor.selection = work.selection
        self._plan = work.folder.open_plan()

    def __call__(self, parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Do one part, whose fields come as arrays of length 1; those of `PartDone` go in the same way.

        A failure goes so, too: through Ray's own exceptions its reason does not come.
        """
        part = Part(**{name: int(values[0]) for name, values in parts.items()})
        try:
            done = self._do(part)
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            done = PartDone(part.number, 0, 0, 0, kind + first_line(error), traceback.format_exc())
        return {name: np.array([value]) for name, value in asdict(done).items()}

    def _do(self, part: Part) -> PartDone:
        work, pieces = self._work, pieces_of(self._plan, part)
        if work.folder.begin_part(part.number) > TRIES_OF_A_PART:
            raise UserError(
                f"{TRIES_OF_A_PART} workers died of part {part.number} ({pieces[0].source} to {pieces[-1].source}): "
                "too little memory (try a smaller --batch-size or --concurrency), or an image that breaks a decoder"
            )
        outcomes = list(
            predict_images(
                self._predictor,
                images_of(pieces, work.storage, work.columns),
                work.storage,
                batch_size=work.batch_size,
                readers=readers_for(pieces, self._threads),
            )
        )
        about = {name: value for name, value in work.settings.items() if name != "sources"}  # there may be many
        work.folder.end_part(part.number, result_file(outcomes, self._predictor.categories.names, about))
        found = [outcome.found for outcome in outcomes if isinstance(outcome.found, Detections)]
        return PartDone(part.number, len(outcomes), len(outcomes) - len(found), sum(map(len, found)))


def predict_parts(parts: Sequence[Part], work: Work, workers: Workers) -> Iterator[PartDone]:
    """Have the parts done in the cluster that this process has joined; gives each when it is, in any order.

    Raises:
        UserError: a worker failed, or a part killed one after another.
    """
    work.folder.forget_tries()
    blocks = [_block(parts[first::MAX_BLOCKS]) for first in range(min(MAX_BLOCKS, len(parts)))]
    with _quiet_ray_data():
        done = ray.data.from_arrow(blocks).map_batches(
            Worker,
            fn_constructor_args=(work, "cuda" if workers.gpus else "cpu", max(1, int(workers.cores))),
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                size=min(workers.count, len(blocks)), max_tasks_in_flight_per_actor=PARTS_AHEAD
            ),
            num_cpus=workers.cores,
            num_gpus=workers.gpus,
        )
        try:
            for batch in done.iter_batches(batch_size=None, batch_format="numpy"):
                columns = (batch[field.name].tolist() for field in fields(PartDone))
                for part in (PartDone(*values) for values in zip(*columns, strict=True)):
                    if part.failure:
                        raise UserError(f"{part.failure}; {GOES_ON}") from RuntimeError(part.trace)
                    yield part
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]  # the first ones are Ray's
            raise UserError(f"a worker failed ({reason}); {GOES_ON}") from error
    missing = {part.number for part in parts} - work.folder.parts_done()
    if missing:
        raise UserError(f"{work.folder.name}: {len(missing):,} parts are missing; {GOES_ON}")


def _block(parts: Sequence[Part]) -> pa.Table:
    return pa.Table.from_pylist([asdict(part) for part in parts])


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Without bars, plans and statistics of Ray Data's own."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = context.enable_auto_log_stats = False
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what fails is raised here
    try:
        with ray.data.DataContext.current(context):
            yield
    finally:
        logger.setLevel(level)
