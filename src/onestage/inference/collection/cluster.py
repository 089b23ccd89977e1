"""A Ray cluster, of one machine or many, and how its cores and GPUs are divided among workers."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from onestage.errors import UserError
from onestage.inference.collection.storage import first_line

SECONDS_TO_ANSWER = 10.0
QUIET = {  # unless the user's environment says otherwise
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's makers
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # to Ray's core, how Ray Data starts actors is an error to be printed
}


@dataclass(frozen=True)
class Workers:
    """How many workers there are, and what each has of its machine."""

    count: int
    cores: float
    gpus: float = 0.0

    def __str__(self) -> str:
        workers = "1 worker" if self.count == 1 else f"{self.count:,} workers"
        has = f"{self.cores:g} cores" if self.cores != 1 else "1 core"
        return f"{workers} with {has}" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@contextmanager
def joined_cluster(address: str | None) -> Iterator[None]:
    """Ray, while in `with`: what this process has joined already, the cluster at an address, or one of this machine's
    own that ends with it.

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
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        where = "Ray can't be started on this machine" if address is None else f"--address {address}: can't be joined"
        raise UserError(f"{where} ({first_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises an OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()


def machines_of_cluster() -> list[dict[str, float]]:
    """Of each machine that is alive, its resources by Ray's names: "CPU", "GPU", ..."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def choose_workers(
    machines: Sequence[Mapping[str, float]],
    concurrency: int | None = None,
    gpus_per_worker: float | None = None,
    device: str | None = None,
) -> Workers:
    """How to divide a cluster, so that its workers have all cores and fit on its machines.

    Args:
        machines: see `machines_of_cluster`.
        concurrency: workers; None: one a GPU, or where there is none one a core: two workers of one core each did
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
    gpus = gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(machine.get("GPU") for machine in machines) else 0.0
    gpus = 0.0 if device == "cpu" else gpus
    if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
        raise UserError(f"--gpus-per-worker {gpus:g}: give 0, a fraction of 1, or a whole number")
    if device == "cuda" and not gpus:
        raise UserError("--device cuda: no machine of the cluster has a GPU")
    return _on_gpus(machines, concurrency, gpus) if gpus else _on_cores(machines, concurrency)


def _on_gpus(machines: Sequence[Mapping[str, float]], concurrency: int | None, gpus: float) -> Workers:
    """The cores of a machine are divided among the workers for which it has GPUs; the poorest machine decides."""
    places = [int(machine.get("GPU", 0.0) / gpus) for machine in machines]
    if not sum(places):
        raise UserError(f"--gpus-per-worker {gpus:g}: no machine of the cluster has so many")
    cores = min(machine.get("CPU", 0.0) / place for machine, place in zip(machines, places, strict=True) if place)
    return Workers(concurrency or sum(places), float(int(cores)) if cores >= 1 else cores, gpus)


def _on_cores(machines: Sequence[Mapping[str, float]], concurrency: int | None) -> Workers:
    """Without a number, a worker a core; with one, as many cores each as lets all of them fit."""
    cores = [machine["CPU"] for machine in machines if machine.get("CPU")]
    if not cores:
        raise UserError("no machine of the cluster offers a core; start it with `ray start --num-cpus N`")
    concurrency = concurrency or sum(max(1, int(count)) for count in cores)
    for each in range(int(max(cores)), 0, -1):
        if sum(count // each for count in cores) >= concurrency:
            return Workers(concurrency, float(each))
    return Workers(concurrency, sum(cores) / concurrency)
