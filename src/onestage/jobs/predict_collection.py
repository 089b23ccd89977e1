"""Detect in a collection of images too large for one machine, on all cores and GPUs of a Ray cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onestage
from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor
from onestage.inference.predictor import load
from onestage.jobs.predict import chosen_selection
from onestage.models.model_file import RunFolder
from onestage.terminal import Display, Stage

SECONDS_BETWEEN_LINES = 60.0  # where there is no terminal to show a bar
PIECES_BETWEEN_COUNTS = 1000  # while the collection is listed


@dataclass(frozen=True)
class PredictedCollection:
    """What `predict_collection` did; its results are the Parquet files in `folder`.

    Attributes:
        folder: a path or an address.
        images: in the whole collection.
        done_before: those of them that an earlier run had done.
        unreadable: those of this run that could not be read; their rows say why.
        detections: of this run.
    """

    folder: str
    images: int
    done_before: int
    unreadable: int
    detections: int


def predict_collection(
    model: str | os.PathLike[str],
    sources: Sequence[str],
    *,
    out: str | os.PathLike[str] = "predictions",
    address: str | None = None,
    concurrency: int | None = None,
    gpus_per_worker: float | None = None,
    column: str = "bytes",
    source_column: str | None = None,
    part_size: int | None = None,
    score_threshold: float = 0.5,
    nms: Literal["hard", "soft"] | None = None,
    class_agnostic: bool = False,
    max_detections: int = 200,
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> PredictedCollection:
    """Detect in every image of a collection and write Parquet: a row an image, in no order, with its detections or
    why it could not be read. Started again with the same `out`, it does what is missing there.

    Args:
        model: a run folder, a model file or an exported file; workers on other machines are sent it.
        sources: images, folders, globs, `@list.txt`, Parquet files, addresses in object storage (`s3://bucket/folder`)
            or on the web; see `collection.find_pieces`.
        out: a folder, or an address in object storage.
        address: of a Ray cluster, as `auto`; None: the cores and GPUs of this machine.
        concurrency: workers; None: one a GPU, or where there is none one a core.
        gpus_per_worker: may be a fraction; None: 1 where there are GPUs, else 0.
        column: of Parquet files, the one with the images' bytes; a dot leads into a struct (`image.bytes`).
        source_column: of Parquet files, the one with the images' names; None: they are called `FILE#ROW`.
        part_size: images in a file of results, which is also what a worker that died does again; None: a 256th of the
            collection, from 64 to 2,000. A run that goes on keeps its own.
        score_threshold, nms, class_agnostic, max_detections, batch_size: as `predict` takes them.
        device: "cpu" or "cuda"; None: cuda where workers have a GPU.
        display: where to print.

    Raises:
        UserError: Ray is missing, no model, no sources, an `out` with other results, or a worker failed.
    """
    try:
        from onestage.inference.collection.cluster import choose_workers, joined_cluster, machines_of_cluster
        from onestage.inference.collection.engine import Work, predict_parts
        from onestage.inference.collection.plan import Columns, find_pieces, parts_of
        from onestage.inference.collection.results import ResultFolder
        from onestage.inference.collection.storage import Storage, named
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'onestage[ray]'") from error
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: give 1 or more")
    display, columns, folder = display or Display(), Columns(column, source_column), ResultFolder.at(os.fspath(out))
    predictor = load(model, device="cpu")
    selection = chosen_selection(predictor.papers_selection, score_threshold, nms, class_agnostic, max_detections)
    predictor.selection = selection  # an exported file has its own, and may refuse
    asked = {**_about(predictor), "sources": [named(word)[0] for word in sources], "columns": columns.wanted}
    with display.stage("listing", 0) as stage:
        settings = folder.begin(asked, _file_of(model), _watched(find_pieces(sources, columns), stage), part_size)
    parts, done = parts_of(folder.open_plan(), settings["part_size"]), folder.parts_done()
    left = [part for part in parts if part.number not in done]
    images, to_do = (sum(part.images for part in some) for some in (parts, left))
    display.say(f"{images:,} images in {len(parts):,} parts" + (f", {to_do:,} images left to do" if done else ""))
    unreadable = detections = 0
    if left:
        work = Work(folder, settings, Storage.of(sources), columns, selection, batch_size)
        with joined_cluster(address):
            workers = choose_workers(machines_of_cluster(), concurrency, gpus_per_worker, device)
            display.say(str(workers))
            unreadable, detections = _follow(predict_parts(left, work, workers), to_do, display)
    display.say(f"{to_do:,} images ({unreadable:,} unreadable), {detections:,} detections: {folder.name}")
    return PredictedCollection(folder.name, images, images - to_do, unreadable, detections)


def _file_of(model: str | os.PathLike[str]) -> Path:
    return RunFolder(Path(model)).model if Path(model).is_dir() else Path(model)


def _about(predictor: BasePredictor) -> dict[str, Any]:
    """What decides over the results, other than the model's weights and the images."""
    return {
        "onestage": onestage.__version__,
        "detector": predictor.detector_name,
        "categories": {"names": predictor.categories.names, "source_ids": predictor.categories.source_ids},
        "selection": asdict(predictor.selection),
    }


def _watched(pieces: Iterable[Any], stage: Stage) -> Iterator[Any]:
    for number, piece in enumerate(pieces, start=1):
        yield piece
        if number % PIECES_BETWEEN_COUNTS == 0:  # there may be a hundred million
            stage.advance(PIECES_BETWEEN_COUNTS)


def _follow(done_parts: Iterable[Any], images: int, display: Display) -> tuple[int, int]:
    """Show how far it is; returns how many images could not be read and how many detections there are."""
    unreadable = detections = 0
    said = time.monotonic()
    with display.stage("predicting", images) as stage:
        try:
            for part in done_parts:
                stage.advance(part.images)
                unreadable, detections = unreadable + part.unreadable, detections + part.detections
                if not display.console.is_terminal and time.monotonic() - said > SECONDS_BETWEEN_LINES:
                    said = time.monotonic()
                    display.say(stage.facts())
        except KeyboardInterrupt:
            display.say("stopping; what is done is kept, and the same command goes on with the rest")
            raise
    return unreadable, detections
