"""What a command prints: lines, progress, durations.

Progress is shown where a person looks: as live bars on a terminal, as a line that changes in a notebook, and as a line
now and then in the file that takes a command's output. What is far below a command finds its display by `watched` and
`tell`.
"""

from __future__ import annotations

import io
import math
import os
import sys
import time
import traceback
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from onestage.errors import ReportedByAnotherRankError, UserError
from onestage.texts import one_line

T = TypeVar("T")

FIRST_LINE_S, BETWEEN_LINES_S = 2.0, 60.0  # of a stage in a file; between these, each line comes after twice the time
BETWEEN_CHANGES_S = 0.5  # of a notebook's line
ONE_BURST_S = 0.05  # units that are done within it, or a hundredth of the time, are one result of many
FEW_MARKS = 5  # workers that run beside each other may send as many results at once
STEADY = 0.15  # the pace keeps while the newer half of the time differs by less from the whole


class Display:
    """Prints lines and shows how far the stages of the work are."""

    def __init__(self, console: Console | None = None) -> None:
        self._in_notebook = console is None and Console().is_jupyter
        self.console = console or _console(self._in_notebook)
        self._stages = list[Stage]()  # that are open, outer ones first
        self._bars: Progress | None = None  # of them, on a terminal
        self._changing: Any = None  # their line in a notebook
        self._changed_at = -math.inf
        self._starting: ExitStack | None = None  # a stage that ends as soon as something is said or shown
        self._began = time.monotonic()

    @property
    def took(self) -> str:
        """The time since the command began, for its last line."""
        return duration(time.monotonic() - self._began)

    def start(self) -> None:
        """Show that a command has begun: Python takes seconds to load what it needs."""
        starting = ExitStack()
        starting.enter_context(self.stage("starting", 0))
        self._starting = starting

    def started(self) -> None:
        """End what `start` shows."""
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.close()

    def say(self, *lines: str) -> None:
        """Print lines that stay on the screen. A name in them makes no other line, whatever it holds."""
        self.started()
        for line in lines:
            self.console.print(cell(line, self.console))

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Show the progress of a piece of work (evaluation, checks, drawing) of `total` units; 0: an unknown number."""
        stage = Stage(one_line(name), total, self.show)
        with self._opened(stage):
            yield stage

    @contextmanager
    def training(self) -> Iterator[TrainingStage]:
        """Show the progress of a run; its last line stays."""
        stage = TrainingStage(self.show)
        with self._opened(stage):
            yield stage
        if not (self._in_notebook or self._has_bars) and stage.done:
            self.say(stage.line())

    @property
    def _has_bars(self) -> bool:
        return self.console.is_interactive and not self.console.quiet

    @contextmanager
    def _opened(self, stage: Stage) -> Iterator[None]:
        self.started()
        self._stages.append(stage)
        if self._bars is None and self._has_bars:
            name = TextColumn("{task.description}", markup=False)
            self._bars = Progress(name, BarColumn(bar_width=24), _Facts(), console=self.console, transient=True)
            self._bars.start()
        task = self._bars.add_task(stage.name, total=stage.total or None, stage=stage) if self._bars else None
        try:
            yield
        finally:
            self.show(stage, last=True)
            self._stages.remove(stage)
            if self._bars is not None and task is not None:
                self._bars.remove_task(task)
            if not self._stages:
                if self._bars is not None:
                    self._bars.stop()
                self._bars = self._changing = None

    def show(self, stage: Stage, last: bool = False) -> None:
        """Show the change of a stage; bars change by themselves."""
        if self._in_notebook:
            now = time.monotonic()
            a_while = min(stage.spent, now - self._changed_at) >= BETWEEN_CHANGES_S
            if self._changing is not None if last else a_while:
                self._changed_at = now
                self._change_line("\n".join(one.line() for one in self._stages))
        elif not self._has_bars and not last and stage.line_is_due():
            self.say(stage.line())

    def _change_line(self, text: str) -> None:
        """Change the line of a notebook; rich would want ipywidgets for it."""
        from IPython.display import display

        content = {"text/plain": text}
        if self._changing is None:
            self._changing = display(content, raw=True, display_id=True)
        else:
            self._changing.update(content, raw=True)


def _console(in_notebook: bool) -> Console:
    """The console of standard output. Bars are for terminals alone, even where CI or a notebook forces colours."""
    for_bars = sys.stdout.isatty() and "JPY_PARENT_PID" not in os.environ  # that is set for `!onestage` in a notebook
    return Console(
        highlight=False,
        soft_wrap=True,
        force_jupyter=False,  # rich would make HTML of every line
        force_terminal=False if in_notebook else None,
        force_interactive=None if for_bars else False,
    )


_SHOWN: ContextVar[Display | None] = ContextVar("shown", default=None)


def start_command() -> Display:
    """The display of a command of the command line, which has just begun."""
    display = Display() if os.environ.get("RANK", "0") == "0" else quiet()  # torchrun's
    display.start()
    _SHOWN.set(display)
    return display


def command_display(display: Display | None) -> Display:
    """The display that a function was given, else the command's, or a new one; `watched` shows progress there."""
    before = _SHOWN.get()
    if display is None and before is not None and before._starting is not None:
        return before
    display = display or Display()
    display._began = time.monotonic()
    _SHOWN.set(display)
    return display


def watched(items: Iterable[T], name: str, total: int = 0) -> Iterator[T]:
    """The items; how many were taken is shown on the command's display. A `total` of 0 is an unknown number."""
    with (_SHOWN.get() or quiet()).stage(name, total) as stage:
        for item in items:
            yield item
            stage.advance()


def tell(*lines: str) -> None:
    """Print lines on the command's display; where no command has begun, nothing."""
    if (display := _SHOWN.get()) is not None:
        display.say(*lines)


class _Facts(ProgressColumn):
    """What a stage says at the moment, so that a clock runs even while a unit takes long."""

    def render(self, task: Task) -> Text:
        stage: Stage = task.fields["stage"]
        task.completed = stage.done
        return Text(stage.facts())


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
    """Let standard output take letters that its encoding lacks; Latin-1 has no bullet for the help.

    Where it is closed, as services may start a program, what is printed goes nowhere.
    """
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def quiet() -> Display:
    """A display that shows nothing."""
    return Display(Console(quiet=True))


class Pace:
    """How long a unit of work takes lately.

    The time before the first result, in which workers start and graphs compile, counts only as long as little is known.
    Of the time since then all does, as long as the pace keeps; else its newer half. Results that come at once, as those
    of a batch, are one.
    """

    def __init__(self) -> None:
        self._marks = list[tuple[float, float]]()  # seconds of results, and the units that were done before them
        self._done, self._last = 0.0, 0.0  # units, and seconds of the last result

    def add(self, at: float, units: float = 1.0) -> None:
        """Take note of more units that are done, `at` seconds since the work began."""
        if units <= 0:
            return
        if not self._marks or at - self._marks[-1][0] > max(ONE_BURST_S, (at - self._marks[0][0]) / 100):
            self._marks.append((at, self._done))
        self._done, self._last = self._done + units, at

    def seconds_a_unit(self) -> float:
        """Infinite before the first result."""
        if len(self._marks) < 2 or (len(self._marks) <= FEW_MARKS and self._last < 1.5 * self._marks[0][0]):
            return self._last / self._done if self._done else math.inf
        first, last = self._marks[0], self._marks[-1]
        middle = bisect(self._marks, ((first[0] + last[0]) / 2, math.inf)) - 1
        whole, newer = _slope(first, last), _slope(self._marks[middle], last)
        changed = abs(newer - whole) > STEADY * whole and len(self._marks) - middle > FEW_MARKS
        return newer if changed else whole

    def seconds_left(self, units: float, now: float) -> float:
        """Seconds until so many more units are done, `now` seconds since the work began."""
        return max(0.0, units * self.seconds_a_unit() - (now - self._last)) if units else 0.0


def _slope(begin: tuple[float, float], end: tuple[float, float]) -> float:
    """Seconds a unit between two marks."""
    return (end[0] - begin[0]) / (end[1] - begin[1])


class Stage:
    """The progress of one piece of work."""

    def __init__(self, name: str, total: float, show: Callable[[Stage], None]) -> None:
        self.name, self.total, self.done = name, total, 0.0
        self._show, self._pace, self._started, self._line_due = show, Pace(), time.monotonic(), FIRST_LINE_S

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    def advance(self, units: int = 1) -> None:
        self.done += units
        self._pace.add(self.spent, units)
        self._show(self)

    def line(self) -> str:
        """What it is and how far, where there is no bar."""
        return f"{self.name}  {self.facts()}"

    def facts(self) -> str:
        """How much is done, how fast, and when it will end; without a total, since when."""
        if not self.done:
            return duration(self.spent)
        pace = 1 / max(self._pace.seconds_a_unit(), 1e-9)
        done = f"{self.done:,.0f}{f'/{self.total:,.0f}' if self.total else ''}  {pace:,.{1 if pace < 100 else 0}f}/s"
        return f"{done}  ETA {duration(self.seconds_left())}" if self.total else f"{done}  {duration(self.spent)}"

    def seconds_left(self) -> float:
        """Seconds until all is done, by the recent pace."""
        return self._pace.seconds_left(self.total - self.done, self.spent)

    def line_is_due(self) -> bool:
        """True when a file of output should get another line; then it is a while until the next."""
        spent = self.spent
        if spent < self._line_due:
            return False
        self._line_due = min(2 * spent, spent + BETWEEN_LINES_S)
        return True


class TrainingStage(Stage):
    """The progress of a run, whose own clocks know what is left."""

    def __init__(self, show: Callable[[Stage], None]) -> None:
        super().__init__("training", 1.0, show)
        self.about = ""  # the newest steps
        self._left, self._told = math.inf, 0.0

    def at(self, progress: float, seconds_left: float) -> None:
        """Show the fraction that is done, and the seconds until the end."""
        self.done, self._left, self._told = progress, seconds_left, self.spent
        self._show(self)

    def line(self) -> str:
        return f"{self.done:4.0%}  {self.facts()}"

    def facts(self) -> str:
        about = self.about or ("first steps" if self.done else "starting ...")
        return f"{about}  ETA {duration(self.seconds_left())}"

    def seconds_left(self) -> float:
        return max(0.0, self._left - (self.spent - self._told))


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
