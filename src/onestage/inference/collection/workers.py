"""Prediction by Ray: the cluster, the division of its cores and GPUs, and the workers that do the parts."""

import logging
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import ray
import ray.exceptions
import torch

from onestage.errors import UserError
from onestage.inference.collection.plan import Content, Part, Piece, images_of, pieces_of
from onestage.inference.collection.results import ResultFolder, RunSettings
from onestage.inference.collection.storage import Storage, first_line, in_storage
from onestage.inference.predictor import BasePredictor, PreparedImage, load, read_image
from onestage.inference.threads import ahead, mapped_ahead
from onestage.runtime.decode import MAX_FILE_BYTES, ImageError
from onestage.structures import Detections
from onestage.texts import one_line

TRIES_OF_A_PART = 5  # one that killed so many workers would go on killing them
SECONDS_TO_ANSWER = 10.0  # of a cluster
STORAGE_THREADS = 16  # that read from object storage; most of the time they wait for an answer


@contextmanager
def joined_cluster(address: str | None) -> Iterator[list[dict[str, float]]]:
    """A Ray cluster, while in `with`: the one that this process has joined already, the one at an address, or one of
    this machine's own that ends with it; a UserError where it can't be joined.

    Gives what each machine of it has, by Ray's names: "CPU", "GPU", ...
    """
    joined_before = ray.is_initialized()
    if not joined_before:
        _join(address)
    elif address is not None:
        raise UserError(f"--address {address}: this process is in a Ray cluster already; ray.shutdown() leaves it")
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        if not joined_before:
            ray.shutdown()


def _join(address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # failures are raised here
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if host and port.isdecimal():  # where nothing answers, Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # a slow start is one without a type of its own
        where = "Ray can't be started on this machine" if address is None else f"--address {address}: can't be joined"
        raise UserError(f"{where} ({first_line(error)})") from error


@dataclass(frozen=True)
class Workers:
    """The number of workers, and what each has of its machine."""

    count: int
    cores: float
    gpus: float = 0.0

    def __str__(self) -> str:
        workers = "1 worker" if self.count == 1 else f"{self.count:,} workers"
        cores = "1 core" if self.cores == 1 else f"{self.cores:g} cores"
        return f"{workers} with {cores}" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def choose_workers(
    machines: Sequence[Mapping[str, float]],
    concurrency: int | None = None,
    gpus_per_worker: float | None = None,
    device: str | None = None,
) -> Workers:
    """How to divide a cluster, so that its workers have all cores and fit on its machines.

    `machines` have "CPU" and "GPU", as `joined_cluster` gives them. Unless `concurrency` says otherwise, there is a
    worker for each GPU, or where there is none for each core: two workers of one core did more than one of two
    (`benchmarks/ray_predict.py`). A UserError for values that make no sense, or GPUs that no machine has.
    """
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {device}: with --engine ray cpu or cuda; Ray gives every worker GPUs of its own")
    if concurrency is not None and concurrency < 1:
        raise UserError(f"--concurrency {concurrency}: give 1 worker or more")
    gpus = float(any(machine.get("GPU") for machine in machines)) if gpus_per_worker is None else gpus_per_worker
    gpus = 0.0 if device == "cpu" else gpus
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise UserError(f"--gpus-per-worker {gpus:g}: give 0, a fraction of 1, or a whole number")
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: no machine of the cluster has a GPU")
    if gpus:  # a machine's cores go to the workers for which it has GPUs; the machine with the fewest decides
        places = [int(machine.get("GPU", 0.0) / gpus) for machine in machines]
        if not sum(places):
            raise UserError(f"--gpus-per-worker {gpus:g}: no machine of the cluster has so many")
        cores = min(machine.get("CPU", 0.0) / place for machine, place in zip(machines, places, strict=True) if place)
        return Workers(concurrency or sum(places), float(int(cores)) if cores >= 1 else cores, gpus)
    counts = [machine["CPU"] for machine in machines if machine.get("CPU")]
    if not counts:
        raise UserError("no machine of the cluster offers a core; start it with `ray start --num-cpus N`")
    concurrency = concurrency or sum(max(1, int(count)) for count in counts)
    for cores in range(int(max(counts)), 0, -1):  # the most with which all workers fit
        if sum(count // cores for count in counts) >= concurrency:
            return Workers(concurrency, float(cores))
    return Workers(concurrency, sum(counts) / concurrency)


class Worker:
    """What a Ray actor runs: a predictor, loaded once from the folder, that does part after part."""

    def __init__(
        self, folder: ResultFolder, run: RunSettings, storage: Storage, batch_size: int, device: str, cores: int
    ) -> None:
        cv2.setNumThreads(0)  # several images are decoded at a time already
        torch.set_num_threads(cores)
        os.environ["OMP_NUM_THREADS"] = str(cores)  # the engines of exported files go by it
        self._folder, self._run, self._storage, self._batch_size, self._cores = folder, run, storage, batch_size, cores
        with folder.model(run.model_files) as path:
            self._predictor = load(path, device=device, selection=run.selection)
        self._predictor.tiling = run.tiling
        self._plan = folder.open_plan()

    def do(self, part: Part) -> Counter[str]:
        """Detect in the images of a part, write its results, and count its "images", "unreadable" and "detections"."""
        pieces, columns = pieces_of(self._plan, part), self._run.columns
        rows = list(predict_pieces(self._predictor, pieces, self._storage, columns, self._batch_size, self._cores))
        self._folder.write_part(part.number, rows, self._run)
        found = [len(row["detections"]) for row in rows if row["error"] is None]
        return Counter(images=len(rows), unreadable=len(rows) - len(found), detections=sum(found))


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

    def prepared(
        image: tuple[str, Content],
    ) -> tuple[tuple[str, tuple[int, int] | None], PreparedImage | ImageError]:
        name, content = image
        try:
            ready = predictor.prepare(read_image(_encoded(name, content, storage)))
        except ImageError as error:
            return (name, None), error
        return (name, ready.original_hw), ready

    remote = any(piece.row_group is None and "://" in piece.source for piece in pieces)
    threads = max(cores, STORAGE_THREADS if remote else 2)
    depth = threads + (batch_size if predictor.tiling is None else 0)  # images that are cut are large
    ready = mapped_ahead(prepared, ahead(images_of(pieces, storage, columns), depth), depth, threads)
    for (name, size_hw), found in predictor.detect_each(ready, batch_size):
        row: dict[str, Any] = {"source": name, "width": None, "height": None, "error": None, "detections": None}
        if isinstance(found, ImageError) or size_hw is None:
            yield row | {"error": one_line(" ".join(str(found).split()))}
        else:
            yield row | {"width": size_hw[1], "height": size_hw[0], "detections": _structs(found)}


def _structs(found: Detections) -> list[dict[str, Any]]:
    columns = found.labels.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist()
    return [
        {"name": found.name_of(label), "label": label, "score": score, "box_xyxy": box_xyxy}
        for label, score, box_xyxy in zip(*columns, strict=True)
    ]


def _encoded(name: str, content: Content, storage: Storage) -> str | bytes:
    """The image as `read_image` takes it."""
    if isinstance(content, ImageError):
        raise content
    if content is not None:
        if len(content) > MAX_FILE_BYTES:
            raise ImageError(f"{name}: more than the {MAX_FILE_BYTES:,} bytes allowed for an image")
        return content
    if not in_storage(name):
        return name
    try:
        return storage.read(name, MAX_FILE_BYTES)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such image") from error
    except OSError as error:
        raise ImageError(f"{name}: can't be read ({first_line(error)})") from error


def predict_parts(
    parts: Iterable[Part], workers: Workers, folder: ResultFolder, run: RunSettings, storage: Storage, batch_size: int
) -> Iterator[Counter[str]]:
    """Have parts done in the cluster that this process has joined, in any order; gives what `Worker.do` counts.

    Ray starts an actor that died again, and gives it the part that it had. A UserError where a worker failed, or
    workers died one after another of the same part.
    """
    actor_class = ray.remote(Worker).options(
        num_cpus=workers.cores, num_gpus=workers.gpus, max_restarts=-1, max_task_retries=TRIES_OF_A_PART - 1
    )
    device, cores = "cuda" if workers.gpus else "cpu", max(1, int(workers.cores))
    left = iter(parts)
    under_way: dict[ray.ObjectRef, tuple[Any, Part]] = {}
    for part in islice(left, workers.count):
        actor = actor_class.remote(folder, run, storage, batch_size, device, cores)
        under_way[actor.do.remote(part)] = actor, part
    try:
        while under_way:
            ready = ray.wait(list(under_way))[0][0]
            actor, part = under_way.pop(ready)
            done = _outcome(ready, part, folder)
            if following := next(left, None):
                under_way[actor.do.remote(following)] = actor, following
            else:
                ray.kill(actor)  # and so make room for an actor whose machine died
            yield done
    finally:
        for actor, _ in under_way.values():
            ray.kill(actor)


def _outcome(ready: ray.ObjectRef, part: Part, folder: ResultFolder) -> Counter[str]:
    try:
        return ray.get(ready)
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            kind = "" if isinstance(error.cause, UserError) else f"{type(error.cause).__name__}: "
            reason = kind + first_line(error.cause)
        elif isinstance(error, ray.exceptions.ActorDiedError):  # in its constructor: else it would be started again
            reason = f"a worker failed ({str(error).strip().splitlines()[-1]})"  # the lines before it are Ray's
        else:
            pieces = pieces_of(folder.open_plan(), part)
            reason = (
                f"{TRIES_OF_A_PART} workers died of part {part.number} ({pieces[0].source} to {pieces[-1].source}): "
                "too little memory (try a smaller --batch-size or --concurrency), or an image that breaks a decoder"
            )
        raise UserError(f"{reason}; what is done is kept, and the same command goes on with the rest") from error
