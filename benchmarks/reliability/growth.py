"""Case `growth`: memory and open files of a long run, measured at the end of every epoch.

    python benchmarks/reliability/growth.py --epochs 50
    python benchmarks/reliability/growth.py --epochs 50 --plot docs/memory.svg

`onestage.train` runs in this process, a tiny network on small drawn images, with loader workers that live as long as
the run; each evaluation, one an epoch, starts its own besides. Memory is the proportional set size (PSS) of this
process and all below it: a page that several share counts once in the sum. MB are 10^6 bytes. Linux only.

PSS holds the pages of library files as well, and other programs that come and go on the machine with the same files
(a torch in the same environment) take and leave a share of them: tens of MB. What the run allocated by itself stands
beside it: anonymous and shared memory. On a machine that others use, run it from a copy of the environment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

import numpy as np
import psutil
import torch
import tyro
from rich.console import Console
from rich.table import Table as Screen

import onestage
from onestage.data.generated import write_generated_voc
from onestage.evaluation.charts import Series, line_chart
from onestage.terminal import Display
from onestage.training.journal import LOG_EVERY_STEPS

DETECTOR = "retinanet-test_efficientnet"
SETTLED = 3  # epochs after which caches and heaps are full
MOST_GROWTH, MOST_SLOPE = 0.02, 1.0  # of what there was then; MB an epoch
# The charts take their colours from the page around them; a file of its own brings these.
STYLE = """<style>
  svg { --soft: #5b6675; --rule: #dde2e8; --s0: #0b66c3; --s1: #c2410c; --s2: #15803d; background: #ffffff; }
  @media (prefers-color-scheme: dark) {
    svg { --soft: #9aa6b5; --rule: #313a46; --s0: #6cb4ff; --s1: #ff9a62; --s2: #5fd68b; background: #1b2129; }
  }
  text { fill: var(--soft); font: 12px system-ui, sans-serif; }
  .grid { stroke: var(--rule); stroke-width: 1; }
  .line { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
  .s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); }
  .legend { fill: var(--c); font-weight: 600; }
</style>"""
WIDTH, HEIGHT, LEGEND_HEIGHT = 720, 300, 28


@dataclass(frozen=True)
class Options:
    """How long, how large, and where the plot goes."""

    epochs: int = 50
    images: int = 2000
    batch_size: int = 50
    workers: int = 2
    start_method: Literal["fork", "spawn", "forkserver"] | None = None  # None: Python's default
    evaluations: int = 50
    drawn_size: int = 80  # nominal side of the drawn images
    image_size: int = 32  # of the network's input
    seed: int = 0
    plot: Path | None = None  # an SVG file


@dataclass(frozen=True)
class Sample:
    """At the end of an epoch."""

    epoch: int
    memory_mb: float  # PSS of all processes
    trainer_mb: float  # of it anonymous and shared memory: of the training process,
    workers_mb: float  # and of all others
    processes: int
    open_files: int  # of all processes: files, pipes, sockets, shared memory

    @property
    def own_mb(self) -> float:
        return self.trainer_mb + self.workers_mb


class Recorder(Display):
    """Shows nothing but a row an epoch of what it measures."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.samples: list[Sample] = []

    def say(self, line: str) -> None:
        if line.startswith("warning:"):
            print(line, flush=True)

    def training(self, facts: str, progress: float, epoch: float) -> None:
        """Called with every row of `log.csv`, after its last step and evaluation."""
        if epoch == round(epoch):
            sample = measured(round(epoch))
            self.samples.append(sample)
            print(
                f"epoch {sample.epoch}: {sample.memory_mb:.1f} MB, its own {sample.own_mb:.1f}, "
                f"{sample.processes} processes, {sample.open_files} open files; {facts}",
                flush=True,
            )


def measured(epoch: int) -> Sample:
    own = psutil.Process()
    below = own.children(recursive=True)
    sizes = [proportional_mb(process.pid) for process in (own, *below)]
    return Sample(
        epoch,
        memory_mb=sum(size["Pss"] for size in sizes),
        trainer_mb=sizes[0]["Pss_Anon"] + sizes[0]["Pss_Shmem"],
        workers_mb=sum(size["Pss_Anon"] + size["Pss_Shmem"] for size in sizes[1:]),
        processes=1 + len(below),
        open_files=sum(process.num_fds() for process in (own, *below)),
    )


def proportional_mb(pid: int) -> dict[str, float]:
    """The set sizes that the kernel tells, by kind: psutil knows their sum alone."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]]
    return {name.rstrip(":"): 1024 * int(kilobytes) / 1e6 for name, kilobytes, _ in lines}


def slope(epochs: Sequence[int], memory_mb: Sequence[float]) -> float:
    """MB an epoch by least squares."""
    return float(np.polyfit(epochs, memory_mb, 1)[0])


def plot(samples: Sequence[Sample], title: str) -> str:
    """An SVG file: memory by epoch, all of it, what is the run's own, and what of that is the workers'."""
    epochs = np.array([sample.epoch for sample in samples], dtype=np.float32)
    columns = {"all (PSS)": "memory_mb", "without files' pages": "own_mb", "of that the workers'": "workers_mb"}
    series = [
        Series(name, epochs, np.array([getattr(sample, column) for sample in samples], dtype=np.float32), color)
        for color, (name, column) in enumerate(columns.items())
    ]
    y_range = (0.0, 1.1 * max(sample.memory_mb for sample in samples))
    chart = line_chart(series, description=title, x_label="epoch", y_range=y_range, size_wh=(WIDTH, HEIGHT))
    legend = "".join(
        f'<text class="legend s{one.color}" x="{46 + 240 * one.color}" y="18">{one.name}, MB</text>\n' for one in series
    )
    placed = str(chart).replace("<svg ", f'<svg y="{LEGEND_HEIGHT}" width="{WIDTH}" height="{HEIGHT}" ', 1)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT + LEGEND_HEIGHT}" role="img" aria-label="{escape(title)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{STYLE}\n{legend}{placed}</svg>\n'


def table(samples: Sequence[Sample]) -> Screen:
    screen = Screen("after epoch", "MB", "its own", "training process", "workers", "processes", "open files")
    for sample in samples:
        if sample.epoch <= SETTLED or sample.epoch % 5 == 0 or sample is samples[-1]:
            sizes = (sample.memory_mb, sample.own_mb, sample.trainer_mb, sample.workers_mb)
            memory = (f"{mb:.1f}" for mb in sizes)
            screen.add_row(str(sample.epoch), *memory, str(sample.processes), str(sample.open_files))
    return screen


def main(options: Options) -> None:
    steps_per_epoch = options.images // options.batch_size
    if steps_per_epoch % LOG_EVERY_STEPS or options.epochs <= SETTLED:
        raise SystemExit(f"expected epochs of a multiple of {LOG_EVERY_STEPS} steps, and more than {SETTLED} of them")
    torch.set_num_threads(1)  # steps so small are slowed by threads that wait for others
    recorder = Recorder()
    settings = {
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "workers": options.workers,
        "worker_start_method": options.start_method,
        "evaluations": options.evaluations,
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_generated_voc(root / "data", seed=options.seed, train=options.images, test=20, size=options.drawn_size)
        onestage.train(
            root / "data",
            detector=DETECTOR,
            backbone_weights="none",
            out=root / "run",
            epochs=options.epochs,
            settings=settings,
            display=recorder,
        )
    told(recorder.samples, options)


def told(samples: Sequence[Sample], options: Options) -> None:
    """The table, the plot, the figures."""
    settled = [sample for sample in samples if sample.epoch >= SETTLED]
    first, last = settled[0], settled[-1]
    epochs = [sample.epoch for sample in settled]
    growth, own_growth = last.memory_mb / first.memory_mb - 1, last.own_mb / first.own_mb - 1
    an_epoch = slope(epochs, [sample.memory_mb for sample in settled])
    own_an_epoch = slope(epochs, [sample.own_mb for sample in settled])
    files = sorted({sample.open_files for sample in settled})
    Console().print(table(samples))
    if options.plot is not None:
        title = f"Memory of a run of {options.epochs} epochs over {options.images:,} images"
        options.plot.write_text(plot(samples, title), encoding="utf-8")
    print(
        f"{options.epochs} epochs over {options.images:,} images, {options.workers} workers "
        f"({options.start_method or 'default'}): {first.memory_mb:.1f} MB after epoch {first.epoch}, "
        f"{last.memory_mb:.1f} at the end: {growth:+.2%}, slope {an_epoch:+.3f} MB an epoch; its own "
        f"{first.own_mb:.1f} and {last.own_mb:.1f}: {own_growth:+.2%}, slope {own_an_epoch:+.3f}; "
        f"open files {first.open_files} and {last.open_files} (from {files[0]} to {files[-1]})"
    )
    if growth > MOST_GROWTH or an_epoch >= MOST_SLOPE or last.open_files > first.open_files:
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
