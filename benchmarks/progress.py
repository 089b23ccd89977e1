"""How far the times that a command promises are from those that it takes, and when nothing moves on the terminal.

    python benchmarks/progress.py evaluate runs/mine MY-DATA --out /tmp/evaluated

Prints a line for each stage of over two seconds: the error of its ETA after 10 % and 50 % of its time, as a part of
what was left; then each gap of over two seconds in which neither a stage was open nor a line was printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from onestage import cli, terminal

LEAST_S = 2.0

moved = [time.monotonic()]  # when a line was printed or a stage began or ended
open_stages: list[terminal.Stage] = []
promises: dict[terminal.Stage, list[tuple[float, float]]] = {}  # (now, seconds left)
ended: dict[terminal.Stage, float] = {}
gaps: list[str] = []


def moves(what: str) -> None:
    now = time.monotonic()
    if not open_stages and now - moved[0] > LEAST_S:
        gaps.append(f"nothing for {now - moved[0]:.1f} s before: {what}")
    moved[0] = now


def recorded(function: Callable[..., None]) -> Callable[..., None]:
    def tell(stage: terminal.Stage, *values: Any) -> None:
        function(stage, *values)
        if stage.total:
            promises.setdefault(stage, []).append((time.monotonic(), stage.seconds_left()))

    return tell


def main() -> None:
    opened, say = terminal.Display._opened, terminal.Display.say

    @contextmanager
    def recorded_stage(self: terminal.Display, stage: terminal.Stage) -> Iterator[None]:
        moves(f"stage {stage.name}")
        open_stages.append(stage)
        try:
            with opened(self, stage):
                yield
        finally:
            ended[stage] = moved[0] = time.monotonic()
            open_stages.remove(stage)

    def recorded_say(self: terminal.Display, *lines: str) -> None:
        say(self, *lines)
        moves(lines[0] if lines else "")

    terminal.Display._opened, terminal.Display.say = recorded_stage, recorded_say
    terminal.Stage.advance = recorded(terminal.Stage.advance)
    terminal.TrainingStage.at = recorded(terminal.TrainingStage.at)
    moved[0] = began = time.monotonic()
    try:
        cli.main(sys.argv[1:])
    finally:
        moves("the end")
        end = time.monotonic()
        print(f"--- {' '.join(sys.argv[1:3])}: {end - began:.1f} s", *gaps, sep="\n")
        for stage, until in ended.items():
            until = end if isinstance(stage, terminal.TrainingStage) else until
            spent = until - stage._started
            if spent > LEAST_S:
                errors = [_error(promises.get(stage, []), stage._started, until, part) for part in (0.1, 0.5)]
                print(f"{stage.name}: {spent:.1f} s, ETA after 10 % {errors[0]}, 50 % {errors[1]}")


def _error(told: list[tuple[float, float]], begin: float, end: float, part: float) -> str:
    """The error of the newest promise at a part of the time, as it stands after counting down."""
    at = begin + part * (end - begin)
    before = [(now, left) for now, left in told if now <= at]
    if not before:
        return "not told"
    now, left = before[-1]
    return f"{(max(0.0, left - (at - now)) - (end - at)) / (end - at):+.0%}"


if __name__ == "__main__":
    main()
