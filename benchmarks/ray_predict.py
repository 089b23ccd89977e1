"""Images a second of the plain predictor and of --engine ray, in turn, on this machine and the same images.

    python benchmarks/ray_predict.py MODEL IMAGES
    python benchmarks/ray_predict.py MODEL IMAGES --concurrency 1 2 --rounds 5

Both have all cores; the workers share them. Ray's rate is measured from the end of the first part to that of the last
one. Beside it stands the time from Ray's start to the end of the first part, less what that part takes at this rate.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import onestage
from onestage.inference.collection.plan import find_pieces, parts_of
from onestage.inference.collection.results import ResultFolder, RunSettings
from onestage.inference.collection.storage import Storage
from onestage.inference.collection.workers import Workers, joined_cluster, predict_parts
from onestage.inference.predictor import BasePredictor
from onestage.models.model_file import RunFolder
from onestage.runtime.threads import cpu_cores


@dataclass(frozen=True)
class Options:
    """What to compare."""

    model: Annotated[Path, tyro.conf.Positional]
    images: Annotated[str, tyro.conf.Positional]
    concurrency: tuple[int, ...] = (2,)  # numbers of workers, each of which is measured
    rounds: int = 3
    batch_size: int = 8
    part_size: int = 64


@dataclass(frozen=True)
class Run:
    """One run of Ray."""

    rate: float  # images a second
    start_s: float  # before it works at that rate
    images: int


def plain_rate(predictor: BasePredictor, files: Sequence[str], batch_size: int) -> float:
    """Images a second of `predict_files` from the end of the first batch on."""
    began = 0.0
    for number, _ in enumerate(predictor.predict_files(files, batch_size), start=1):
        if number == batch_size:
            began = time.perf_counter()
    return (len(files) - batch_size) / (time.perf_counter() - began)


def ray_run(options: Options, model: Path, predictor: BasePredictor, concurrency: int, out: Path) -> Run:
    """Do what `onestage predict --engine ray` does, with a clock."""
    asked = RunSettings(
        onestage.__version__,
        predictor.detector_name,
        predictor.categories,
        predictor.selection,
        sources=(options.images,),
        columns=("bytes",),
        part_size=options.part_size,
    )
    folder = ResultFolder.at(str(out))
    run = folder.begin(asked, model, find_pieces(asked.sources, asked.columns))
    parts = parts_of(folder.open_plan(), options.part_size)
    workers = Workers(concurrency, max(1.0, cpu_cores() // concurrency))
    began = time.perf_counter()
    ends: list[tuple[float, int]] = []
    with joined_cluster(None):
        for done in predict_parts(parts, workers, folder, run, Storage(), options.batch_size):
            ends.append((time.perf_counter() - began, done["images"]))
    counted = sum(images for _, images in ends[1:])
    rate = counted / (ends[-1][0] - ends[0][0])
    return Run(rate, ends[0][0] - concurrency * ends[0][1] / rate, counted + ends[0][1])


def main(options: Options) -> None:
    model = RunFolder(options.model).model if options.model.is_dir() else options.model
    predictor = onestage.load(model)
    files = [piece.source for piece in find_pieces([options.images], ["bytes"])]
    plain: list[float] = []
    runs: dict[int, list[Run]] = {concurrency: [] for concurrency in options.concurrency}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            plain.append(plain_rate(predictor, files, options.batch_size))
            print(f"plain predictor: {plain[-1]:.2f} images/s", flush=True)
            for concurrency, of_it in runs.items():
                out = Path(folder, f"{number}-{concurrency}")
                of_it.append(ray_run(options, model, predictor, concurrency, out))
                print(f"ray, {concurrency} workers: {of_it[-1]}", flush=True)
    middle = statistics.median(plain)
    print(f"\n{len(files)} images, medians of {options.rounds} rounds: plain {middle:.2f} images/s")
    for concurrency, of_it in runs.items():
        rate, start = (statistics.median(getattr(run, name) for run in of_it) for name in ("rate", "start_s"))
        print(f"ray, {concurrency} workers: {rate:.2f} images/s, {rate / middle:.3f} of it; {start:.1f} s to start")


if __name__ == "__main__":
    main(tyro.cli(Options))
