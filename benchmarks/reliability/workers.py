"""Case `workers`: runs with different loader workers must end with the same weights, to the last bit.

python benchmarks/reliability/workers.py

Real processes of the command line on a small drawn data set: 0, 1, 2, 4 and 8 workers, started by fork and by spawn,
each run with another PYTHONHASHSEED (sets and dicts of strings then have another order). No GPU is used.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table as Screen

from onestage.data.generated import write_generated_voc
from onestage.models.model_file import read_tensors

DETECTOR = ("--detector", "retinanet-test_efficientnet", "--image-size", "96", "--backbone-weights", "none")
LENGTH = ("--batch-size", "2", "--steps", "30", "--evaluations", "2", "--ema-decay", "0.9")


@dataclass(frozen=True)
class Options:
    """What is varied."""

    workers: tuple[int, ...] = (0, 1, 2, 4, 8)
    start_methods: tuple[Literal["fork", "spawn", "forkserver"], ...] = ("fork", "spawn")
    hash_seeds: tuple[int, ...] = (0, 1, 4_294_967_295)  # taken in turn
    rounds: int = 2  # over all workers and start methods, each with other hash seeds


@dataclass(frozen=True)
class Run:
    """How one is started; None where there are no workers to start."""

    workers: int
    start_method: str | None
    hash_seed: int


def runs(options: Options) -> Iterator[Run]:
    number = 0
    for _ in range(options.rounds):
        for workers in options.workers:
            for start_method in options.start_methods if workers else (None,):
                yield Run(workers, start_method, options.hash_seeds[number % len(options.hash_seeds)])
                number += 1
        number += 1  # else the next round could have the same hash seeds


def train(data: Path, out: Path, run: Run) -> None:
    command = [sys.executable, "-m", "onestage", "train", str(data), "--out", str(out), *DETECTOR, *LENGTH]
    command += ["--workers", str(run.workers), "--device", "cpu"]
    command += ["--worker-start-method", run.start_method] if run.start_method else []
    # one thread: steps so small are slowed by threads that wait for others
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONHASHSEED": str(run.hash_seed)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"exit {done.returncode}: {done.stderr}")


def digest(run: Path) -> str:
    """Of the tensors in the checkpoint (weights, averages, optimizer) and in the model file.

    Not of the files: their headers hold the recipe, workers included, and how long the run took.
    """
    digest = hashlib.sha256()
    for file in (run / "checkpoint/training.safetensors", run / "model.safetensors"):
        tensors, _ = read_tensors(file)
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def main(options: Options) -> None:
    screen = Screen("workers", "started by", "PYTHONHASHSEED", "SHA-256 of the final weights", "seconds")
    digests: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_generated_voc(root / "data", seed=1, train=12, test=3)
        for number, run in enumerate(runs(options)):
            began = time.monotonic()
            train(root / "data", root / f"run{number}", run)
            found = digest(root / f"run{number}")
            digests[found] += 1
            seconds = f"{time.monotonic() - began:.0f}"
            screen.add_row(str(run.workers), run.start_method or "", str(run.hash_seed), found[:16], seconds)
    Console().print(screen)
    print(f"{digests.total()} runs, {len(digests)} SHA-256 of the final weights: {', '.join(digests)}")
    if len(digests) != 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
