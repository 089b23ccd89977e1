"""What a command prints: lines, progress bars, durations."""

from __future__ import annotations

import io
import math
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from onestage.errors import ReportedByAnotherRankError, UserError
from onestage.texts import one_line


class Display:
    """Prints lines and shows progress bars; without a terminal, the lines alone."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._bars: Progress | None = None  # shown while a run trains
        self._training_bar = TaskID(0)
        self._last_epoch_line = -1

    def say(self, *lines: str) -> None:
        """Print lines that stay on the screen. A name in them makes no other line, whatever it holds."""
        for line in lines:
            self.console.print(cell(line, self.console))

    def __enter__(self) -> Display:
        self._bars = self._new_bars()
        self._bars.start()
        self._training_bar = self._bars.add_task("training", total=1.0, facts="starting ...")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def training(self, facts: str, progress: float, epoch: float) -> None:
        """Show a line about the newest steps and how much of the run is done; without a terminal, once an epoch."""
        if self._bars is not None:
            self._bars.update(self._training_bar, completed=progress, facts=facts)
        if not self.console.is_terminal and int(epoch) > self._last_epoch_line:
            self._last_epoch_line = int(epoch)
            self.say(f"{progress:4.0%}  {facts}")

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Show a bar for another piece of work (evaluation, checks, drawing) of `total` units; 0: an unknown number."""
        with self._new_bars() if self._bars is None else nullcontext(self._bars) as bars:
            stage = Stage(bars, one_line(name), total)
            yield stage
            bars.remove_task(stage.task)

    def _new_bars(self) -> Progress:
        name, facts = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[facts]}"))
        bar = BarColumn(bar_width=24)
        return Progress(name, bar, facts, console=self.console, transient=True, disable=not self.console.is_terminal)


def cell(text: str, console: Console) -> Text:
    """A text of any origin as a line, or a cell of a table: no markup, no escapes, no letter that can't be printed."""
    return Text(one_line(text).encode(console.encoding, "backslashreplace").decode(console.encoding))


def print_error(error: Exception, *, with_traceback: bool) -> None:
    """Print an error for the user on standard error: the lines of a `UserError`, one line of others."""
    if with_traceback:
        lines = "".join(traceback.format_exception(error)).splitlines()
        print(*map(one_line, lines), sep="\n", file=sys.stderr)
    if not isinstance(error, ReportedByAnotherRankError):
        lines = error.args if isinstance(error, UserError) else (error,)
        print("onestage: " + "\n".join(one_line(str(line)) for line in lines), file=sys.stderr)


def spell_out_what_streams_lack() -> None:
    """Let standard output take letters that its encoding lacks; Latin-1 has no bullet for the help."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quiet() -> Display:
    """A display that shows nothing."""
    return Display(Console(quiet=True))


class Stage:
    """The progress of one piece of work."""

    def __init__(self, bars: Progress, name: str, total: int) -> None:
        self._bars, self._total, self._done = bars, total, 0
        self._started = time.monotonic()
        self.task = bars.add_task(name, total=total or None, facts="")

    def advance(self, units: int = 1) -> None:
        self._done += units
        self._bars.update(self.task, completed=self._done, facts=self.facts())

    def facts(self) -> str:
        """How much is done, how fast, and when it will end; without a total, the first two."""
        spent = time.monotonic() - self._started
        pace = f"{self._done / max(spent, 1e-9):.1f}/s"
        if not self._total:
            return f"{self._done}  {pace}"
        return f"{self._done}/{self._total}  {pace}  ETA {duration(eta(spent, min(1.0, self._done / self._total)))}"


def eta(seconds: float, progress: float) -> float:
    """Seconds that are left, when the fraction `progress` of the work took `seconds`."""
    return seconds * (1 - progress) / progress if progress > 0 else math.inf


def seconds(text: str) -> float:
    """The seconds of `90`, `1:30` or `0:01:30.5`; a UserError for texts that are no time."""
    try:
        values = [float(part) for part in text.split(":")]
    except ValueError:
        values = []
    if not 1 <= len(values) <= 3 or not all(0 <= value < math.inf for value in values):
        raise UserError(f"time {text!r}: give seconds, or hours, minutes and seconds as 1:23:45.6")
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def duration(seconds: float) -> str:
    """Seconds as `0:42`, `12:07` or `3:04:09`."""
    if seconds == math.inf:
        return "?"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}" if hours else f"{minutes}:{whole:02}"
