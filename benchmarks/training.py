"""Training rates on images from disk: ours and torchvision's side by side, and what the convolutions alone allow.

    python benchmarks/training.py
    python benchmarks/training.py --data NEU-DET --sections ssd300-vgg16 --json training.json

Candidates (see `trainers.py`) are processes of their own, since ours keeps freed memory, a setting of a whole process.
They train in turn, in blocks: a loader that starts afresh, a step that does not count, `steps` that do. "Convolutions
alone" is explained in `convolutions.py`.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeAlias

import augmentation
import torch
import tyro
from convolutions import convolution_seconds
from side_by_side import Result, show, write_results
from trainers import RETINANET_EDGES, Candidate, made, papers, their_retinanet, their_ssd

from onestage.compute.device import Precision, choose_compute
from onestage.data import choose_splits, read_dataset
from onestage.data.table import Table

OURS_MADE, OURS_WHOLE = "onestage, the recipe made for a data set", "onestage, every layer trained"
OURS_PAPER = "onestage, the paper's recipe"
AS_IT_COMES, IN_BF16 = "torchvision as it comes", "torchvision, bf16 and channels last"
SectionName: TypeAlias = Literal["ssd300-vgg16", "ssd300-tf_efficientnet_lite0", "retinanet-resnet50", "m2det320-vgg16"]


@dataclass(frozen=True)
class Options:
    """What is trained."""

    data: str | None = None
    """A VOC, COCO or YOLO folder; without, drawn images of 500x375."""
    sections: tuple[SectionName, ...] = (
        "ssd300-vgg16",
        "ssd300-tf_efficientnet_lite0",
        "retinanet-resnet50",
        "m2det320-vgg16",
    )
    blocks: int = 2
    steps: int = 3
    """That count, a block."""
    images: int = 128
    """To draw."""
    precision: Precision = "auto"
    """Of ours."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    bounds: bool = not torch.cuda.is_available()
    """Time the convolutions alone, too; on processors."""
    json: Path | None = None


# --- what is compared


@dataclass(frozen=True)
class Goal:
    """A candidate's rate against another's, or in images a second."""

    candidate: str
    least: float
    against: str | None = None

    def line(self, rates: Mapping[str, float], most: Mapping[str, float]) -> str:
        """`most`: the rates that the convolutions alone allow."""
        divisor = 1.0 if self.against is None else rates[self.against]
        rate = rates[self.candidate] / divisor
        what = "images/s (set for a CPU with AMX)" if self.against is None else f"times {self.against}"
        allowed = (
            f"; its convolutions alone allow {most[self.candidate] / divisor:.2f}" if self.candidate in most else ""
        )
        verdict = "met" if rate >= self.least else "not met"
        return f"{self.candidate}: at least {self.least:g} {what}; measured {rate:.2f}: {verdict}{allowed}"


@dataclass(frozen=True)
class Section:
    """Candidates that train in turn."""

    title: str
    batch_size: int
    candidates: Mapping[str, Callable[[Table, Precision, str], Candidate]]
    goals: tuple[Goal, ...] = ()


LITE0 = "tf_efficientnet_lite0"
SECTIONS: dict[SectionName, Section] = {
    "ssd300-vgg16": Section(
        "Training SSD300-VGG16",
        8,
        {
            OURS_MADE: partial(made, "ssd300-vgg16", 8),
            AS_IT_COMES: partial(their_ssd, "vgg16", 8, bf16=False),
            IN_BF16: partial(their_ssd, "vgg16", 8, bf16=True),
        },
        (Goal(OURS_MADE, 7), Goal(OURS_MADE, 6, AS_IT_COMES), Goal(OURS_MADE, 1.4, IN_BF16)),
    ),
    "ssd300-tf_efficientnet_lite0": Section(
        f"Training SSD300 on {LITE0}",
        16,
        {
            OURS_MADE: partial(made, f"ssd300-{LITE0}", 16),
            OURS_WHOLE: partial(made, f"ssd300-{LITE0}", 16, whole=True),
            AS_IT_COMES: partial(their_ssd, LITE0, 16, bf16=False),
            IN_BF16: partial(their_ssd, LITE0, 16, bf16=True),
        },
        (Goal(OURS_MADE, 3, AS_IT_COMES),),
    ),
    "retinanet-resnet50": Section(
        f"Training RetinaNet-ResNet50, images brought to {RETINANET_EDGES[0]} pixels",
        2,
        {
            OURS_PAPER: partial(papers, "retinanet-r50-coco", {"batch_size": 2, "edges": RETINANET_EDGES}),
            AS_IT_COMES: partial(their_retinanet, 2, bf16=False),
            IN_BF16: partial(their_retinanet, 2, bf16=True),
        },
        (Goal(OURS_PAPER, 3, AS_IT_COMES),),
    ),
    "m2det320-vgg16": Section("Training M2Det320-VGG16", 4, {OURS_MADE: partial(made, "m2det320-vgg16", 4)}),
}


# --- in turn


def serve(connection: Connection, section: SectionName, name: str, table: Table, options: Options) -> None:
    """A candidate's process: does what it is told, until there is nobody to tell it more."""
    candidate = SECTIONS[section].candidates[name](table, options.precision, options.device)
    connection.send("ready")
    with suppress(EOFError, BrokenPipeError):
        while True:
            asked = connection.recv()
            connection.send(convolutions(candidate) if asked == "convolutions" else block(candidate, asked))


def block(candidate: Candidate, steps: int) -> list[float]:
    """The seconds of each step after the first, waiting for its batch included."""
    seconds: list[float] = []
    with closing(candidate.batches()) as batches:
        for _ in range(1 + steps):
            started = time.perf_counter()
            candidate.step(next(batches))
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return seconds[1:]


def convolutions(candidate: Candidate) -> float:
    """The seconds of a step's convolutions alone."""
    with closing(candidate.batches()) as batches:
        batch = next(batches)
    return convolution_seconds(lambda: candidate.step(batch))


@contextmanager
def process_of(section: SectionName, name: str, table: Table, options: Options) -> Generator[Connection, None, None]:
    """A candidate in its process, ready."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there, section, name, table, options))
    process.start()
    there.close()  # so that an end of the process is noticed here
    try:
        here.recv()
        yield here
    finally:
        here.close()
        process.join()


def measure(name: SectionName, table: Table, options: Options) -> Result:
    """Train all candidates of a section."""
    section = SECTIONS[name]
    seconds: dict[str, list[float]] = {candidate: [] for candidate in section.candidates}
    bounds: dict[str, float] = {}
    with ExitStack() as running:
        connections = {
            candidate: running.enter_context(process_of(name, candidate, table, options))
            for candidate in section.candidates
        }

        def ask(candidate: str, what: int | str) -> Any:
            connections[candidate].send(what)
            return connections[candidate].recv()

        for _ in range(options.blocks):
            for candidate in section.candidates:
                seconds[candidate] += ask(candidate, options.steps)
        for candidate in section.candidates:
            if options.bounds and candidate.startswith("onestage"):
                bounds[candidate] = ask(candidate, "convolutions")
    return as_result(name, seconds, bounds, options)


def as_result(
    name: SectionName, seconds: Mapping[str, list[float]], bounds: Mapping[str, float], options: Options
) -> Result:
    section = SECTIONS[name]
    steps = {candidate: statistics.median(values) for candidate, values in seconds.items()}
    rates = {candidate: section.batch_size / step for candidate, step in steps.items()}
    most = {candidate: section.batch_size / bound for candidate, bound in bounds.items()}
    rows = [
        (
            candidate,
            f"{1000 * steps[candidate]:,.0f}",
            f"{rate:.2f}",
            *(f"{rate / rates[other]:.2f}" if other in rates else "" for other in (AS_IT_COMES, IN_BF16)),
            *((f"{most[candidate]:.2f}", f"{rate / most[candidate]:.0%}") if candidate in most else ("", "")),
        )
        for candidate, rate in rates.items()
    ]
    data = options.data or "drawn images of 500x375"
    return Result(
        name=section.title,
        command=f"python benchmarks/training.py --sections {name}",
        columns=(
            *("trained by", "a step, ms", "images/s", "times torchvision as it comes", "times its bf16"),
            *("convolutions alone, images/s", "their part of the step"),
        ),
        rows=tuple(rows),
        goals=tuple(f"{section.title}, {goal.line(rates, most)}" for goal in section.goals),
        notes=(
            f"Batches of {section.batch_size} of {data}, medians of {options.blocks * options.steps} steps each; "
            f"ours in {choose_compute(options.device, options.precision).reason}.",
        ),
    )


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            table = augmentation.write_images(Path(folder), augmentation.Options(images=options.images))
        else:
            table, _ = read_dataset(options.data, choose_splits(options.data, hold_out=False).train)
        results = []
        for name in options.sections:
            results.append(measure(name, table, options))
            show(results[-1])
    write_results(options.json, results)


if __name__ == "__main__":
    main(tyro.cli(Options))
