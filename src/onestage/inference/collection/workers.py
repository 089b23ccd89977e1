"""Prediction by Ray: the cluster, the division of its cores and GPUs, and the workers that do the parts."""

from __future__ import annotations

import logging
import os
import socket
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
from onestage.inference.collection.part import predict_pieces
from onestage.inference.collection.plan import Part, pieces_of
from onestage.inference.collection.results import ResultFolder, RunSettings
from onestage.inference.collection.storage import Storage, first_line
from onestage.inference.predictor import load

TRIES_OF_A_PART = 5  # one that killed so many workers would go on killing them
SECONDS_TO_ANSWER = 10.0  # of a cluster
QUIET = {  # unless the user's environment says otherwise
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's makers
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # failures are raised here
}


@contextmanager
def joined_cluster(address: str | None) -> Iterator[None]:
    """A Ray cluster, while in `with`: the one that this process has joined already, the one at an address, or one of
    this machine's own that ends with it.

    Raises:
        UserError: no cluster there, or one of other versions.
    """
    if ray.is_initialized():
        if address is not None:
            raise UserError(f"--address {address}: this process is in a Ray cluster already; ray.shutdown() leaves it")
        yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
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
    try:
        yield
    finally:
        ray.shutdown()


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

    Args:
        machines: resources of each machine by Ray's names: "CPU", "GPU", ...
        concurrency: number of workers; None: one a GPU, or where there is none one a core: two workers of one core did
            more than one of two (`benchmarks/ray_predict.py`).
        gpus_per_worker: may be a fraction; None: 1 where there are GPUs, else 0.
        device: "cpu" takes no GPU; "cuda" must have one.

    Raises:
        UserError: values that make no sense, or GPUs that no machine has.
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


@dataclass(frozen=True)
class PartDone:
    """What came of a part: its number of images, of unreadable ones among them, and of detections."""

    images: int
    unreadable: int
    detections: int


class Worker:
    """What a Ray actor runs: a predictor, loaded once from the folder, that does part after part.

    `storage` opens the images; `device` is "cpu" or "cuda".
    """

    def __init__(
        self, folder: ResultFolder, run: RunSettings, storage: Storage, batch_size: int, device: str, cores: int
    ) -> None:
        cv2.setNumThreads(0)  # several images are decoded at a time already
        torch.set_num_threads(cores)
        os.environ["OMP_NUM_THREADS"] = str(cores)  # the engines of exported files go by it
        self._folder, self._run, self._storage, self._batch_size, self._cores = folder, run, storage, batch_size, cores
        with folder.model(run.model_files) as path:
            self._predictor = load(path, device=device, selection=run.selection)
        self._plan = folder.open_plan()

    def do(self, part: Part) -> PartDone:
        """Detect in the images of a part, and write its results."""
        pieces, columns = pieces_of(self._plan, part), self._run.columns
        rows = list(predict_pieces(self._predictor, pieces, self._storage, columns, self._batch_size, self._cores))
        self._folder.write_part(part.number, rows, self._run)
        found = [len(row["detections"]) for row in rows if row["error"] is None]
        return PartDone(len(rows), len(rows) - len(found), sum(found))


def predict_parts(
    parts: Iterable[Part], workers: Workers, folder: ResultFolder, run: RunSettings, storage: Storage, batch_size: int
) -> Iterator[PartDone]:
    """Have parts done in the cluster that this process has joined, in any order.

    Raises:
        UserError: a worker failed, or workers died one after another of the same part.
    """
    # Ray starts an actor that died again, and gives it the part that it had.
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
            following = next(left, None)
            if following is None:
                ray.kill(actor)  # and so make room for an actor whose machine died
            else:
                under_way[actor.do.remote(following)] = actor, following
            yield done
    finally:
        for actor, _ in under_way.values():
            ray.kill(actor)


def _outcome(ready: ray.ObjectRef, part: Part, folder: ResultFolder) -> PartDone:
    try:
        return ray.get(ready)
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            cause = error.cause
            reason = (
                first_line(cause) if isinstance(cause, UserError) else f"{type(cause).__name__}: {first_line(cause)}"
            )
        elif isinstance(error, ray.exceptions.ActorDiedError):  # in its constructor: else it would be started again
            reason = f"a worker failed ({str(error).strip().splitlines()[-1]})"  # the lines before it are Ray's
        else:
            pieces = pieces_of(folder.open_plan(), part)
            reason = (
                f"{TRIES_OF_A_PART} workers died of part {part.number} ({pieces[0].source} to {pieces[-1].source}): "
                "too little memory (try a smaller --batch-size or --concurrency), or an image that breaks a decoder"
            )
        raise UserError(f"{reason}; what is done is kept, and the same command goes on with the rest") from error
