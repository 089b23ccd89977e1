"""The line at the end of a training that holds it against the last run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from measured_runs import measured_run, write_run
from rich.console import Console

from onestage.jobs import last_run
from onestage.jobs.last_run import say_against_last_run
from onestage.terminal import Display


def said(folder: Path) -> str:
    console = Console(record=True, width=200, quiet=False)
    say_against_last_run(folder, Display(console))
    return console.export_text().strip()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs, in the order of their age: old, new, and two on other images or objects; and no run."""
    other_images = replace(measured_run(), image_names=tuple(f"b{number}" for number in range(60)))
    drawn = {
        "old": measured_run(0.9),
        "new": measured_run(0.5),
        "other-images": other_images,
        "other-objects": measured_run(data_seed=1),
        "more-images": measured_run(images=61),
    }
    for age, (name, measured) in enumerate(drawn.items()):
        file = write_run(tmp_path / name, measured, {"seed": 0}) / "measured.safetensors"
        os.utime(file, (age, age))
    write_run(tmp_path / "an-evaluation", measured_run(0.1))
    (tmp_path / "damaged").mkdir()
    for name in ("recipe.json", "measured.safetensors"):
        (tmp_path / "damaged" / name).write_text("[")
    return tmp_path


def test_the_newest_run_beside_it_on_the_same_images_and_objects_is_named_with_the_difference(runs: Path) -> None:
    write_run(runs / "this", measured_run(0.9, seed=1), {"seed": 0})

    line = said(runs / "this")

    assert line.startswith(f"against {runs / 'new'}: AP50 +")
    assert line.endswith(" points: better")
    write_run(runs / "that", measured_run(0.9, seed=1), {"seed": 0})
    assert said(runs / "that") == (
        f"against {runs / 'this'}: AP50 +0.0 ± 0.0 points: no difference that 60 images can show"
    )


def test_a_run_without_an_equal_beside_it_says_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "this", measured_run(), {"seed": 0})

    assert said(tmp_path / "this") == ""
    assert said(tmp_path / "nowhere") == ""


def test_too_many_detections_and_any_failure_are_passed_over(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(runs / "this", measured_run(0.9, seed=1), {"seed": 0})
    monkeypatch.setattr(last_run, "MOST_DETECTIONS", 10)
    assert said(runs / "this") == ""
    monkeypatch.undo()

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(last_run, "compare_sides", broken)
    assert said(runs / "this") == ""
