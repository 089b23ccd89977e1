"""What a command prints: progress, and times as people write them. Reliability case: nasty-names."""

import contextlib
import io
from types import SimpleNamespace

import numpy as np
import pytest
from nasty_names import NASTY_NAMES, NO_UTF_8
from rich.console import Console
from rich.table import Table

from onestage.errors import UserError
from onestage.terminal import Display, Pace, cell, command_display, duration, quiet, seconds, watched


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands until a test moves it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("onestage.terminal.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_file_of_output_gets_a_line_now_and_then(clock: SimpleNamespace) -> None:
    text = io.StringIO()
    with Display(Console(file=text, width=200)).stage("reading train", 500) as stage:
        for _ in range(500):
            clock.now += 1
            stage.advance()
    lines = text.getvalue().splitlines()
    assert [line.split()[2] for line in lines[:7]] == [f"{s}/500" for s in (2, 4, 8, 16, 32, 64, 124)]
    assert lines[3] == "reading train  16/500  1.0/s  ETA 8:04"
    assert len(lines) == 13  # then one a minute
    assert all(line.isprintable() for line in lines)  # no carriage returns


def test_what_takes_under_two_seconds_leaves_a_file_of_output_alone(clock: SimpleNamespace) -> None:
    text = io.StringIO()
    with Display(Console(file=text)).stage("reading train", 19) as stage:
        for _ in range(19):
            clock.now += 0.1
            stage.advance()
    assert text.getvalue() == ""


def test_a_file_of_output_keeps_the_last_line_of_a_run(clock: SimpleNamespace) -> None:
    text = io.StringIO()
    with Display(Console(file=text, width=200)).training() as stage:
        for step in range(1, 9):
            clock.now += 1
            stage.about = f"step {step}"
            stage.at(step / 8, 8.0 - step)
    assert text.getvalue().splitlines() == [
        " 25%  step 2  ETA 0:06",
        " 50%  step 4  ETA 0:04",
        "100%  step 8  ETA 0:00",
        "100%  step 8  ETA 0:00",
    ]


def test_on_a_terminal_there_are_live_lines() -> None:
    text = io.StringIO()
    display = Display(Console(file=text, force_terminal=True, width=200))
    with display.training() as training:
        training.about = "step 1"
        training.at(0.1, 90.0)
        with display.stage("evaluating", 4) as stage:
            stage.advance(4)
    assert "step 1  ETA 1:30" in text.getvalue()
    assert "evaluating" in text.getvalue()


def test_forced_colours_make_no_bars_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with contextlib.redirect_stdout(io.StringIO()) as text:
        display = Display()
        with display.stage("evaluating", 4) as stage:
            stage.advance(4)
        display.say("done")
    assert display.console.is_terminal  # so rich thinks
    assert text.getvalue() == "done\n"


def test_in_a_notebook_one_line_changes(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    line = SimpleNamespace(update=lambda content, raw: shown.append(f"changed: {content['text/plain']}"))

    def show(content: dict[str, str], **_: object) -> SimpleNamespace:
        shown.append(f"new: {content['text/plain']}")
        return line

    monkeypatch.setattr("IPython.display.display", show)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        display = Display()
        with display.stage("reading", 4) as outer:
            for _ in range(2):
                clock.now += 1
                outer.advance()
            with display.stage("checking", 2) as inner:
                clock.now += 1
                inner.advance()
        display.say("done")
    assert text.getvalue() == "done\n"
    assert shown == [
        "new: reading  1/4  1.0/s  ETA 0:03",
        "changed: reading  2/4  1.0/s  ETA 0:02",
        "changed: reading  2/4  1.0/s  ETA 0:01\nchecking  1/2  1.0/s  ETA 0:01",
        "changed: reading  2/4  1.0/s  ETA 0:01\nchecking  1/2  1.0/s  ETA 0:01",
        "changed: reading  2/4  1.0/s  ETA 0:01",
    ]


def test_a_command_shows_that_it_has_begun_until_it_says_something() -> None:
    text = io.StringIO()
    display = Display(Console(file=text, force_terminal=True, width=100))
    display.start()
    display.say("a line")
    display.started()  # again
    assert text.getvalue().index("starting") < text.getvalue().index("a line")
    assert "starting" not in text.getvalue().partition("a line")[2]


def test_a_loop_far_below_a_command_is_watched_on_its_display(clock: SimpleNamespace) -> None:
    text = io.StringIO()
    command_display(Display(Console(file=text, width=200)))
    seen = []
    for item in watched("abcd", "reading", 4):
        seen.append(item)
        clock.now += 2
    command_display(quiet())
    assert seen == ["a", "b", "c", "d"]
    assert text.getvalue().splitlines() == [
        "reading  1/4  0.5/s  ETA 0:06",
        "reading  2/4  0.5/s  ETA 0:04",
        "reading  4/4  0.5/s  ETA 0:00",
    ]


def test_a_stage_says_how_far_it_is_how_fast_and_when_it_ends(clock: SimpleNamespace) -> None:
    display = Display(Console(file=io.StringIO()))
    with display.stage("predicting", 40) as known, display.stage("listing", 0) as unknown:
        assert known.facts() == "0:00"
        clock.now = 110.0
        known.advance(20)
        unknown.advance(20)
        assert known.facts() == "20/40  2.0/s  ETA 0:10"
        assert unknown.facts() == "20  2.0/s  0:10"
        clock.now = 114.0  # the clock runs while a unit takes long
        assert known.facts() == "20/40  2.0/s  ETA 0:06"


def eta_errors(seconds: list[float], parts: tuple[float, ...], batch: int = 1) -> list[float]:
    """Relative errors of what is left after parts of units that take so long each, done by the batch."""
    pace, now, errors = Pace(), 0.0, []
    for end in range(batch, len(seconds) + 1, batch):
        now += sum(seconds[end - batch : end])
        for unit in range(batch):
            pace.add(now + 0.001 * unit)
        if any(end - batch < part * len(seconds) <= end for part in parts):
            left = sum(seconds[end:])
            errors.append(pace.seconds_left(len(seconds) - end, now) / left - 1)
    return errors


@pytest.mark.parametrize("batch", [1, 4])
def test_an_eta_is_right_after_a_tenth_where_the_pace_keeps(batch: int) -> None:
    assert eta_errors([0.3] * 200, (0.1, 0.5, 0.9), batch) == pytest.approx([0, 0, 0], abs=0.02)


def test_a_slow_first_unit_does_not_spoil_an_eta() -> None:
    # by all time since the beginning it were 6.3 and 1.7 times too long
    assert eta_errors([20.0] + [0.3] * 199, (0.1, 0.5)) == pytest.approx([0, 0], abs=0.02)


def test_units_of_uneven_length_give_an_eta_within_a_fifth() -> None:
    seconds = np.random.default_rng(0).gamma(4.0, 0.1, size=1000).tolist()
    assert max(map(abs, eta_errors(seconds, (0.1, 0.3, 0.5, 0.8)))) < 0.2


def test_an_eta_follows_a_pace_that_drops() -> None:
    seconds = [0.1] * 200 + [0.3] * 800
    # at 30 % as much time has passed at the new pace as at the old one, and more
    assert max(map(abs, eta_errors(seconds, (0.3, 0.5, 0.9)))) < 0.1


def test_workers_that_send_their_results_together_do_not_fool_an_eta() -> None:
    pace = Pace()
    for at in (10.0, 10.3):  # two workers, 64 images each
        pace.add(at, 64)
    assert pace.seconds_left(1280, 10.3) == pytest.approx(10 * 10.3)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_nasty_names_are_text_on_any_terminal(encoding: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="")
    display = Display(Console(file=file, width=200, soft_wrap=True))
    names, table = [*NASTY_NAMES, NO_UTF_8, "\ud83d"], Table(box=None)
    for name in names:
        display.say(f"passed over: {name}: damaged")
        table.add_row(cell(name, display.console), "0.5")
    display.console.print(table)
    file.seek(0)
    text = file.read()
    lines = text.splitlines()
    assert "\x1b" not in text
    assert sum(line.startswith("passed over: ") and line.endswith(": damaged") for line in lines) == len(names)
    assert len(lines) == 2 * len(names) + 1  # and the heads of the table
    for name in ("bolt [m6]", "cat [/x]", "[bold]b[/bold]", "a:car:b", "<script>alert(1)</script>"):
        assert f"passed over: {name}: damaged" in lines
        assert any(name in line and line.rstrip().endswith("0.5") for line in lines)
    assert r"passed over: caf\xe9: damaged" in lines


def test_nasty_names_of_a_stage_are_text() -> None:
    text = io.StringIO()
    for name in (*NASTY_NAMES, NO_UTF_8):
        with Display(Console(file=text, force_terminal=True, width=200)).stage(name, 4) as stage:
            stage.advance(2)
    assert "cat [/x]" in text.getvalue()
    assert r"x\x1b[31mRED" in text.getvalue()


def test_times_are_written_as_people_write_them() -> None:
    assert [duration(s) for s in (0, 42, 727, 11049, float("inf"))] == ["0:00", "0:42", "12:07", "3:04:09", "?"]
    assert Pace().seconds_left(10, 5.0) == float("inf")


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("90", 90), ("1.5", 1.5), ("1:30", 90), ("1:23:45.6", 5025.6), ("100:00", 6000)]
)
def test_times_are_seconds_or_clocks(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1:-2", "inf", "nan"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="give seconds, or hours, minutes and seconds"):
        seconds(text)
