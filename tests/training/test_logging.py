import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import TaskID

from onestage.errors import UserError
from onestage.terminal import Display, Stage, duration, eta, seconds
from onestage.training.log_file import LogFile, LogRow, read_log


def row(step: int, map_area: float | None = None) -> LogRow:
    return LogRow(step, step / 4, step * 8, 1e-3, 3.0, 2.0, 1.0, 5.5, step * 1.5, map_area)


def test_the_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.csv")
    rows = [row(10), row(20, map_area=0.25)]
    for one in rows:
        log.write(one)
    log.close()
    assert read_log(tmp_path / "log.csv") == rows
    assert (tmp_path / "log.csv").read_text().splitlines()[0].startswith("step,epoch,images,lr,loss")


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log.csv")
    for step in (10, 20, 30):
        log.write(row(step))
    log.close()
    log = LogFile(tmp_path / "log.csv", resume_at_step=20)
    log.write(row(25))
    log.close()
    assert [one.step for one in read_log(tmp_path / "log.csv")] == [10, 20, 25]


def test_without_a_terminal_there_is_one_line_an_epoch() -> None:
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=False, width=200)) as display:
        for step in range(1, 9):  # four steps an epoch
            display.training(row(step), step / 8, 2.0)
    lines = text.getvalue().splitlines()
    assert len(lines) == 3  # at the first step, and when epochs 1 and 2 have begun
    assert "ETA" in lines[0]
    assert "images/s" in lines[0]
    assert "lr 0.001" in lines[0]


def test_on_a_terminal_there_is_a_live_line() -> None:
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=True, width=200)) as display:
        display.training(row(1), 0.1, 2.0)
        with display.stage("evaluating", 4) as stage:
            stage.advance(4)
    assert "step 1" in text.getvalue()
    assert "evaluating" in text.getvalue()


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


def test_a_stage_says_how_far_it_is_how_fast_and_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("onestage.terminal.time", SimpleNamespace(monotonic=lambda: next(clock)))
    stage = Stage(None, TaskID(0), total=40)
    stage.advance(20)
    assert stage.facts() == "20/40  2.0/s  ETA 0:10"
