"""What a command prints: lines, one bar of progress on a terminal, durations."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from onestage.errors import UserError


class Display:
    """The terminal side of a run."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._last_epoch_line = -1

    def say(self, line: str) -> None:
        """One line that stays."""
        self.console.print(line, markup=False)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[facts]}"),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("training", total=1.0, facts="starting ...")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def training(self, row: LogRow, progress: float, epochs: float) -> None:
        """Show the newest interval; without a terminal, one line an epoch."""
        facts = (
            f"epoch {row.epoch:.1f}/{epochs:.1f}  step {row.step}  loss {row.loss:.3f} "
            f"(class {row.classification_loss:.3f} box {row.box_loss:.3f})  "
            f"{row.images_per_second:.1f} images/s  lr {row.lr:.2g}  ETA {duration(eta(row.seconds, progress))}"
        )
        if self._progress is not None:
            self._progress.update(self._task, completed=progress, facts=facts)
        elif int(row.epoch) > self._last_epoch_line:
            self._last_epoch_line = int(row.epoch)
            self.say(f"{progress:4.0%}  {facts}")

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A bar for another piece of work (evaluation, checks, drawing) of `total` units; 0: nobody knows."""
        if self._progress is not None:
            task = self._progress.add_task(name, total=total or None, facts="")
            yield Stage(self._progress, task, total)
            self._progress.remove_task(task)
        elif self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[facts]}"))
            with Progress(*columns, console=self.console, transient=True) as progress:
                yield Stage(progress, progress.add_task(name, total=total or None, facts=""), total)
        else:
            yield Stage(None, TaskID(0), total)


def quiet() -> Display:
    """A display that shows nothing."""
    return Display(Console(quiet=True))


class Stage:
    """The progress of one piece of work."""

    def __init__(self, progress: Progress | None, task: TaskID, total: int) -> None:
        self._progress, self._task, self._total, self._done = progress, task, total, 0
        self._started = time.monotonic()

    def advance(self, units: int = 1) -> None:
        self._done += units
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, facts=self.facts())

    def facts(self) -> str:
        """How far it is, how fast, and when it will be done; without a total, the first two."""
        spent = time.monotonic() - self._started
        pace = f"{self._done / max(spent, 1e-9):.1f}/s"
        if not self._total:
            return f"{self._done}  {pace}"
        return f"{self._done}/{self._total}  {pace}  ETA {duration(eta(spent, min(1.0, self._done / self._total)))}"


def eta(seconds: float, progress: float) -> float:
    """The seconds left, when `progress` (0 to 1) of the work took `seconds`."""
    return seconds * (1 - progress) / progress if progress > 0 else float("inf")


def seconds(text: str) -> float:
    """The seconds of `90`, `1:30` or `0:01:30.5`.

    Raises:
        UserError: anything else.
    """
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3 or not all(0 <= value < math.inf for value in values):
        raise UserError(f"time {text!r}: give seconds, or hours, minutes and seconds as 1:23:45.6")
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def duration(seconds: float) -> str:
    """`0:42`, `12:07`, `3:04:09`."""
    if seconds == float("inf"):
        return "?"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
