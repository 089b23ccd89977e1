"""What the benchmarks share: timing in turn, the machine in words, results as JSON for `performance.py`.

Candidates are timed in turn, round after round, so that a machine that slows down slows all of them; what is quoted are
medians and ratios.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table as Screen

FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")
PACKAGES = ("torch", "torchvision", "openvino", "onnxruntime", "timm", "opencv-python-headless")


@dataclass(frozen=True)
class Timing:
    """One candidate's seconds, a call a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Result:
    """What a benchmark found: a table, and for a plot its points.

    Attributes:
        name: of the section in `docs/performance.md`.
        command: that gives it.
        columns, rows: of the table; cells are text as it is to be read.
        goals: each a line: the goal, what was measured, met or not.
        notes: sentences below the table.
        series: for a plot: name -> points (x, y).
        axes: of that plot: (x, y).
    """

    name: str
    command: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    series: Mapping[str, Sequence[tuple[float, float]]] | None = None
    axes: tuple[str, str] = ("", "")


def time_in_turn(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_up: int = 1
) -> dict[str, Timing]:
    """Call every candidate in turn, `rounds` times after `warm_up` rounds that don't count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(warm_up + rounds):
        for name, call in candidates.items():
            started = time.perf_counter()
            call()
            if round_number >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def show(*results: Result) -> None:
    """On the screen."""
    console = Console()
    for result in results:
        screen = Screen(*result.columns, title=result.name)
        for row in result.rows:
            screen.add_row(*row)
        console.print(screen, *result.goals, *result.notes, sep="\n")


def write_results(path: Path | None, results: Sequence[Result]) -> None:
    """As JSON, with the machine; nothing where no path is given."""
    if path is not None:
        content: dict[str, Any] = {"machine": machine(), "results": [asdict(result) for result in results]}
        path.write_text(json.dumps(content, indent=1) + "\n")


def machine() -> dict[str, str]:
    """Processor, cores, instructions that matter, GPU (empty without), memory, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(told.get("flags", "").split())
    model = (
        f"{told.get('model name', platform.processor())} (family {told.get('cpu family')}, model {told.get('model')})"
    )
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "instructions": ", ".join(flag for flag in FLAGS if flag in flags),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }
