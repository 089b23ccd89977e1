"""What a command prints: progress, and times as people write them. Reliability case: nasty-names."""

import io
from types import SimpleNamespace

import pytest
from nasty_names import NASTY_NAMES, NO_UTF_8
from rich.console import Console
from rich.table import Table

from onestage.errors import UserError
from onestage.terminal import Display, cell, duration, eta, seconds


def test_without_a_terminal_there_is_one_line_an_epoch() -> None:
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=False, width=200)) as display:
        for step in range(1, 9):  # four steps an epoch
            display.training(f"step {step}", step / 8, step / 4)
        with display.stage("evaluating", 4) as stage:
            stage.advance(4)
    # at the first step, and when epochs 1 and 2 have begun
    assert text.getvalue().splitlines() == [" 12%  step 1", " 50%  step 4", "100%  step 8"]


def test_on_a_terminal_there_is_a_live_line() -> None:
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=True, width=200)) as display:
        display.training("step 1", 0.1, 0.2)
        with display.stage("evaluating", 4) as stage:
            stage.advance(4)
    assert "step 1" in text.getvalue()
    assert "evaluating" in text.getvalue()


def test_a_stage_outside_of_training_has_a_bar_of_its_own() -> None:
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=True, width=200)).stage("predicting", 4) as stage:
        stage.advance(2)
    assert "predicting" in text.getvalue()


def test_a_stage_says_how_far_it_is_how_fast_and_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("onestage.terminal.time", SimpleNamespace(monotonic=lambda: clock.now))
    display = Display(Console(file=io.StringIO()))
    with display.stage("predicting", 40) as known, display.stage("listing", 0) as unknown:
        clock.now = 110.0
        known.advance(20)
        unknown.advance(20)
        assert known.facts() == "20/40  2.0/s  ETA 0:10"
        assert unknown.facts() == "20  2.0/s"


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
    assert eta(30, 0.25) == 90
    assert eta(0, 0) == float("inf")


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("90", 90), ("1.5", 1.5), ("1:30", 90), ("1:23:45.6", 5025.6), ("100:00", 6000)]
)
def test_times_are_seconds_or_clocks(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1:-2", "inf", "nan"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="give seconds, or hours, minutes and seconds"):
        seconds(text)
