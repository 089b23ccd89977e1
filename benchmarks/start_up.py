"""Seconds that fresh processes take to import the package and to print its help, beside what others take.

python benchmarks/start_up.py [--rounds 5] [--json start_up.json]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from side_by_side import Result, show, time_in_turn, write_results

COMMANDS: dict[str, Sequence[str]] = {
    "python, nothing imported": (sys.executable, "-c", "pass"),
    "import onestage": (sys.executable, "-c", "import onestage"),
    "onestage --help": (str(Path(sys.executable).with_name("onestage")), "--help"),
    "onestage train --help": (str(Path(sys.executable).with_name("onestage")), "train", "--help"),
    "import torch": (sys.executable, "-c", "import torch"),
    "import torchvision": (sys.executable, "-c", "import torchvision"),
}
GOALS = {"import onestage": 0.3, "onestage --help": 0.5}


@dataclass(frozen=True)
class Options:
    """How often."""

    rounds: int = 5
    json: Path | None = None


def run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(options: Options) -> None:
    candidates: dict[str, Callable[[], object]] = {name: partial(run, command) for name, command in COMMANDS.items()}
    timings = time_in_turn(candidates, rounds=options.rounds)
    goals = [
        f"{name}: under {limit:g} s; measured {timings[name].median:.2f}: "
        f"{'met' if timings[name].median < limit else 'not met'}"
        for name, limit in GOALS.items()
    ]
    result = Result(
        name="Starting",
        command="python benchmarks/start_up.py",
        columns=("process", "s"),
        rows=tuple((name, f"{timing.median:.2f}") for name, timing in timings.items()),
        goals=tuple(goals),
        notes=(f"Medians of {options.rounds} fresh processes each, after one that fills the file cache.",),
    )
    show(result)
    write_results(options.json, [result])


if __name__ == "__main__":
    main(tyro.cli(Options))
