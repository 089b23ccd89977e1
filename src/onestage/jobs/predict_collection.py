"""Detect in a collection of images too large for one machine, on all cores and GPUs of a Ray cluster."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from onestage.errors import UserError
from onestage.inference.predictor import load
from onestage.models.hub import local_model
from onestage.terminal import Display, command_display


@dataclass(frozen=True)
class PredictedCollection:
    """What `predict_collection` did, in numbers; its results are the Parquet files in `folder`."""

    folder: str  # path or address
    images: int  # in the whole collection
    done_before: int  # of these, by an earlier run
    unreadable: int  # images that this run could not read; their rows say why
    detections: int  # of this run


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
    score_threshold: float | Literal["auto"] = "auto",
    nms: Literal["hard", "soft"] | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool = False,
    max_detections: int | None = None,
    tile: int | str | None = None,
    tile_overlap: int | None = None,
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> PredictedCollection:
    """Detect in every image of a collection and write Parquet: a row for each image, in no order, with its detections
    or why it could not be read. Started again with the same `out`, it does what is missing there.

    Args:
        model: a run folder, a model file, an exported file or a hub's name; it is sent to workers on other machines.
        sources: images, folders, globs, `@list.txt`, Parquet files, addresses in object storage (`s3://bucket/folder`)
            or on the web; see `collection.plan.find_pieces`.
        out: a folder, or an address in object storage.
        address: address of a Ray cluster, or "auto"; None: this machine alone.
        concurrency: number of workers; None: one a GPU, or where there is none one a core.
        gpus_per_worker: may be a fraction; None: 1 where there are GPUs, else 0.
        column: column of the encoded images in Parquet files; a dot leads into a struct (`image.bytes`).
        source_column: column of the images' names in Parquet files; None: they are called `FILE#ROW`.
        part_size: images in a file of results, which is also what a worker that died does again; None: a 256th of the
            collection, from 64 to 2,000. A run that goes on keeps its own.
        score_threshold, nms, iou_threshold, class_agnostic, max_detections, tile, tile_overlap, batch_size: as in
            `predict`.
        device: "cpu" or "cuda"; None: cuda where workers have a GPU.
        display: where to print.

    Raises:
        UserError: Ray is missing, no model, no sources, an `out` with other results, or a worker failed.
    """
    try:
        from onestage.inference.collection import plan, results, storage, workers
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'onestage[ray]'") from error
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: give 1 or more")
    display, folder = command_display(display), results.ResultFolder.at(os.fspath(out))
    model = local_model(model)
    predictor = load(model, device="cpu", tile=tile, tile_overlap=tile_overlap)
    asked_selection = score_threshold, nms, iou_threshold, class_agnostic, max_detections
    predictor.selection = predictor.selection_for(*asked_selection)  # an exported file may refuse it
    asked = results.RunSettings.of(predictor, sources, (column, source_column), part_size)
    with display.stage("listing", 0) as stage:
        run = folder.begin(asked, model, plan.find_pieces(sources, asked.columns), stage.advance)
    parts, left = folder.parts(run)
    images, to_do = (sum(part.images for part in some) for some in (parts, left))
    display.say(f"{images:,} images in {len(parts):,} parts, {to_do:,} images left to do")
    new: Counter[str] = Counter()  # of this run
    if left:
        with workers.joined_cluster(address) as machines:
            division = workers.choose_workers(machines, concurrency, gpus_per_worker, device)
            outcomes = workers.predict_parts(left, division, folder, run, storage.Storage.of(sources), batch_size)
            new = _follow(outcomes, str(division), to_do, display)
    found = f"{to_do:,} images ({new['unreadable']:,} unreadable), {new['detections']:,} detections"
    display.say(f"{found}, in {display.took}: {folder.name}")
    return PredictedCollection(folder.name, images, images - to_do, new["unreadable"], new["detections"])


def _follow(parts_done: Iterable[Counter[str]], workers: str, images: int, display: Display) -> Counter[str]:
    """Show the workers and the progress; return the sums over all parts."""
    display.say(workers)
    done = Counter[str]()
    with display.stage("predicting", images) as stage:
        try:
            for part in parts_done:
                stage.advance(part["images"])
                done += part
        except KeyboardInterrupt:
            display.say("stopping; what is done is kept, and the same command goes on with the rest")
            raise
    return done
