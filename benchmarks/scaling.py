"""What work costs as it grows: time and memory for more images, pixels, classes, objects and annotations.

    python benchmarks/scaling.py [--only classes objects] [--seconds 1] [--quick] [--json FILE]

Each point is a process of its own. Its time is the median of up to five calls, and its memory what the calls take at
their peak on top of what they are given (the network, the images, the files). How fast either grows is the exponent
e in `cost = c * work^e`, fitted to the last two doublings: 1 is linear, and fixed costs make it less.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import tyro
from rich.console import Console
from scaling_work import GROWTHS, Growth, GrowthName, Workload
from side_by_side import Result, show, write_results

LINEAR = 1.1  # the largest exponent that is taken for linear: few points and caches that overflow blur it
CALLS = 5
LEAST_MIB = 1.0  # less is not told apart from the allocator's own
COSTS = "Time, and MiB at the peak; a line of the first plot that rises is worse than linear."


@dataclass(frozen=True)
class Options:
    """Measure how cost grows."""

    only: tuple[GrowthName, ...] = tuple(GROWTHS)
    seconds: float = 1.0  # of calls a point; a call that takes longer is made once
    quick: bool = False  # the first two sizes only, to see that all of it runs
    json: Path | None = None


@dataclass(frozen=True)
class Point:
    """What one size costs."""

    size: int
    seconds: float
    mib: float


@dataclass(frozen=True)
class Measured:
    """All sizes of one kind of work; `failed` names one that could not be measured, and ended the row."""

    workload: Workload
    points: tuple[Point, ...]
    failed: int | None = None


def measure(workload: Workload, sizes: Sequence[int], seconds: float) -> Measured:
    """Each size in a process of its own, so that no memory of an earlier one is at hand."""
    points: list[Point] = []
    for size in sizes:
        # Forked, so that nothing is imported again. This process has started no thread of PyTorch's yet.
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory() as folder:
            child = context.Process(target=measure_here, args=(sender, workload, size, Path(folder), seconds))
            child.start()
            sender.close()
            try:
                points.append(receiver.recv())
            except EOFError:  # out of memory, say; its traceback, if any, is on the screen
                return Measured(workload, tuple(points), failed=size)
            finally:
                child.join()
    return Measured(workload, tuple(points))


def measure_here(sender: Connection, workload: Workload, size: int, folder: Path, seconds: float) -> None:
    """Measure one size in this process, and send the `Point`."""
    call = workload.prepare(size, folder / "data")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is the kernel's again, so that taking it counts
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = psutil.Process().memory_info().rss
    times: list[float] = []
    for _ in range(1 + CALLS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
        if sum(times) > seconds:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # The first call warms up, where there is time for another.
    sender.send(Point(size, statistics.median(times[1:] or times), max(0, peak - before) / 2**20))


def exponent(work: Sequence[float], cost: Sequence[float]) -> float | None:
    """Of the power law through the points whose work is a quarter of the largest or more; None for less than two."""
    chosen = [(x, y) for x, y in zip(work, cost, strict=True) if x >= max(work) / 4]
    if len({x for x, _ in chosen}) < 2:
        return None
    x, y = np.log(np.array(chosen)).T
    return float(np.polyfit(x, y, 1)[0])


def exponents(growth: Growth, measured: Measured) -> tuple[float | None, float | None]:
    """Of time and of memory."""
    units = [growth.units(point.size) for point in measured.points]
    return (
        exponent(units, [point.seconds for point in measured.points]),
        exponent(units, [max(LEAST_MIB, point.mib) for point in measured.points]),
    )


def result(name: GrowthName, growth: Growth, rows: Sequence[Measured]) -> tuple[Result, Result]:
    """The table with the plot of time, and the plot of memory."""
    sizes = sorted({point.size for row in rows for point in row.points})
    found = {row.workload.name: exponents(growth, row) for row in rows}
    cells = []
    for row in rows:
        by_size = {point.size: point for point in row.points}
        costs = [_cell(growth, by_size[size]) if size in by_size else "" for size in sizes]
        cells.append((row.workload.name, *costs, *("" if e is None else f"{e:.2f}" for e in found[row.workload.name])))
    title, command = f"Growth: {growth.title}", f"python benchmarks/scaling.py --only {name}"
    time_plot = Result(
        name=title,
        command=command,
        columns=("work", *(f"{size:,}" for size in sizes), "exponent of time", "of memory"),
        rows=tuple(cells),
        goals=_goals(growth, rows, found),
        notes=tuple(filter(None, (f"{COSTS} Times are those of {growth.unit}.", growth.note, *_failures(rows)))),
        series={
            row.workload.name: [(growth.units(p.size), 1000 * p.seconds / growth.units(p.size)) for p in row.points]
            for row in rows
        },
        axes=(growth.axis, f"ms {growth.unit}"),
    )
    memory = {row.workload.name: [(growth.units(p.size), max(LEAST_MIB, p.mib)) for p in row.points] for row in rows}
    memory_plot = Result(title, command, (), (), series=memory, axes=(growth.axis, "MiB at the peak"))
    return time_plot, memory_plot


def _cell(growth: Growth, point: Point) -> str:
    seconds = point.seconds / growth.units(point.size)
    units = ((1, "s"), (1e3, "ms"), (1e6, "µs"))
    factor, unit = next(((factor, unit) for factor, unit in units if seconds * factor >= 1), (1e9, "ns"))
    return f"{seconds * factor:.3g} {unit}, {point.mib:,.0f} MiB"


def _goals(
    growth: Growth, rows: Sequence[Measured], found: dict[str, tuple[float | None, float | None]]
) -> tuple[str, ...]:
    goals = []
    for place, what in enumerate(("time", "memory")):
        known = {name: e for name, pair in found.items() if (e := pair[place]) is not None}
        if not known:
            continue
        worst = max(known, key=known.__getitem__)
        above = sum(e > LINEAR for e in known.values())
        verdict = "met" if not above and all(row.failed is None for row in rows) else "not met"
        more = f", and {above - 1} more above it" if above > 1 else ""
        goals.append(
            f"{growth.title}: {what} grows no faster than work (exponent at most {LINEAR}): "
            f"at most {known[worst]:.2f} ({worst}){more}: {verdict}"
        )
    return tuple(goals)


def _failures(rows: Sequence[Measured]) -> list[str]:
    return [f"{row.workload.name}: {row.failed:,} could not be measured." for row in rows if row.failed is not None]


def main(options: Options) -> None:
    console, results = Console(), []
    started = time.perf_counter()
    for name in options.only:
        growth, rows = GROWTHS[name], []
        for workload in growth.workloads:
            sizes = workload.sizes[:2] if options.quick else workload.sizes
            rows.append(measure(workload, sizes, options.seconds))
            console.print(f"{time.perf_counter() - started:5.0f} s  {growth.title}: {workload.name}")
        results += result(name, growth, rows)
        table = results[-2]
        show(table)
    write_results(options.json, results)


if __name__ == "__main__":
    main(tyro.cli(Options))
