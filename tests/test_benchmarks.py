"""The benchmarks start, and the page of their figures is written as it should be. What they measure is not run here."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tyro

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "tyro.cli(Options)" in path.read_text())
SVG = "{http://www.w3.org/2000/svg}"
MACHINE = {"processor": "an abacus", "cores": "2"}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A benchmark as a module; it and its neighbours that it imports are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def load_one(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look their types up
        spec.loader.exec_module(module)
        return module

    yield load_one
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == BENCHMARKS:
            del sys.modules[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_benchmark_shows_its_options(
    name: str, load: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(name)
    with pytest.raises(SystemExit) as end:
        tyro.cli(module.Options, args=["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_page_knows_only_benchmarks_that_are_there(load: Callable[[str], Any]) -> None:
    assert set(load("performance").NAMES) <= set(SCRIPTS)


# ------------------------------------------------------------------------------------------------ plots


def test_a_plot_is_a_well_formed_svg_file_with_a_dot_for_each_finite_point(load: Callable[[str], Any]) -> None:
    series = {"a & <b>": [(1.0, 2.0), (1000.0, float("nan"))], "c": [(10.0, 5.0), (1000.0, 900.0)]}
    svg = load("line_plot").line_plot(series, ("x < y", "seconds"), "a title")
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"a & <b>", "c", "x < y", "seconds", "1", "10", "100", "1k"} <= set(texts)
    dots = [element.text for element in root.iter(f"{SVG}title")]
    assert dots == ["a title", "a & <b>: 2 at 1", "c: 5 at 10", "c: 900 at 1,000"]
    assert "nan" not in svg


@pytest.mark.parametrize("points", [[], [(3.0, 0.0)], [(1.0, 5.0), (2.0, 5.0)], [(0.0, 0.0), (9.0, 1e6)]])
def test_few_points_and_equal_ones_give_a_plot_too(
    points: list[tuple[float, float]], load: Callable[[str], Any]
) -> None:
    svg = load("line_plot").line_plot({"a": points}, ("x", "y"), "a title")
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}title"))) == 1 + len(points)
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_logarithmic_axis_puts_a_value_where_its_logarithm_is(load: Callable[[str], Any]) -> None:
    place, ticks = load("line_plot")._axis([1.0, 100.0], (0.0, 200.0), 5)
    assert [place(1.0), place(10.0), place(100.0)] == pytest.approx([0.0, 100.0, 200.0])
    assert ticks == [(0.0, "1"), (100.0, "10"), (200.0, "100")]


# ------------------------------------------------------------------------------------------------ the page


def found(**changes: Any) -> dict[str, Any]:
    """What a benchmark writes, with one result."""
    result = {
        "name": "Speed",
        "command": "python benchmarks/metrics.py",
        "columns": ["who", "seconds"],
        "rows": [["ours | theirs", "1.5"]],
        "goals": ["under 3 s: 1.5 s, met", "under 1 s: 1.5 s, not met"],
        "notes": ["A note."],
        "series": {"ours": [[1, 2], [10, 20]]},
        "axes": ["boxes", "seconds"],
    }
    return {"machine": MACHINE, "results": [result | changes]}


def write(folder: Path, **files: dict[str, Any]) -> None:
    (folder / "performance").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "performance" / f"{name}.json").write_text(json.dumps(content))


def test_the_page_has_the_machine_the_goals_the_table_and_the_plot(tmp_path: Path, load: Callable[[str], Any]) -> None:
    write(tmp_path, metrics=found())
    page = load("performance").write_page(tmp_path).read_text()
    for line in (
        "| processor | an abacus |",
        "No GPU was at hand: the GPU column was not run.",
        "1 of 2 are met.",
        "- [metrics](#metrics): under 1 s: 1.5 s, **not met**",
        "## Metrics",
        "### Speed",
        "    python benchmarks/metrics.py",
        "| who | seconds |",
        r"| ours \| theirs | 1.5 |",
        "A note.",
        "![Speed: seconds over boxes](performance/metrics-1.svg)",
    ):
        assert line in page.splitlines()
    assert ElementTree.parse(tmp_path / "performance" / "metrics-1.svg").getroot().tag == f"{SVG}svg"


def test_what_is_written_by_hand_outlives_the_next_run(tmp_path: Path, load: Callable[[str], Any]) -> None:
    performance = load("performance")
    write(tmp_path, metrics=found())
    page = performance.write_page(tmp_path)
    page.write_text(
        page.read_text().partition(performance.BY_HAND)[0] + performance.BY_HAND + "\n\n## Tried\n\nPools.\n"
    )
    performance.write_page(tmp_path)
    once = page.read_text()
    assert once.endswith("\n\n## Tried\n\nPools.\n")
    performance.write_page(tmp_path)
    assert page.read_text() == once


def test_plots_that_no_result_has_any_more_are_removed(tmp_path: Path, load: Callable[[str], Any]) -> None:
    write(tmp_path, metrics=found())
    load("performance").write_page(tmp_path)
    write(tmp_path, metrics=found(series=None))
    page = load("performance").write_page(tmp_path).read_text()
    assert not list((tmp_path / "performance").glob("*.svg"))
    assert "svg" not in page


def test_results_of_one_name_stand_under_one_heading(tmp_path: Path, load: Callable[[str], Any]) -> None:
    content = found()
    content["results"].append(content["results"][0] | {"columns": [], "rows": [], "goals": [], "notes": []})
    write(tmp_path, metrics=content)
    page = load("performance").write_page(tmp_path).read_text().splitlines()
    assert (
        page.count("### Speed")
        == page.count("    python benchmarks/metrics.py")
        == page.count("| --- | ---: |") - 1
        == 1
    )
    assert (tmp_path / "performance" / "metrics-2.svg").exists()


def test_figures_of_another_machine_say_so(tmp_path: Path, load: Callable[[str], Any]) -> None:
    other = found() | {"machine": MACHINE | {"cores": "64"}, "date": "2026-01-01"}
    write(tmp_path, metrics=found() | {"date": "2026-01-02"}, loading=other)
    page = load("performance").write_page(tmp_path).read_text()
    assert "| cores | 2 |" in page
    assert page.count("Measured elsewhere than the rest: cores 64.") == 1


# ------------------------------------------------------------------------------------------------ running them


def test_a_benchmark_that_fails_is_told_and_the_next_one_runs(
    tmp_path: Path, load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    performance = load("performance")
    monkeypatch.setattr(performance, "SCRIPTS", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loading.py").write_text('"""What loads."""\nraise SystemExit(3)\n')
    write_json = f"import pathlib, sys\npathlib.Path(sys.argv[2]).write_text({json.dumps(found())!r})\n"
    (tmp_path / "metrics.py").write_text(write_json)
    with pytest.raises(SystemExit) as end:
        performance.main(performance.Options(only=("loading", "metrics"), out=Path("docs")))
    assert end.value.code == 1
    page = Path("docs/performance.md").read_text()
    assert "What loads." in page
    assert "ended with status 3" in page
    assert "| ours \\| theirs | 1.5 |" in page
    assert "2 of 2: metrics" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ growth


@pytest.mark.parametrize(
    ("work", "cost", "expected"),
    [
        ((1, 2, 4, 8), (1, 4, 16, 64), 2.0),
        ((1, 2, 4, 8, 16), (100, 90, 4, 8, 16), 1.0),  # fixed costs at the beginning do not count
        ((10, 1000), (1, 1000), None),  # one point alone in the last two doublings
        ((), (), None),
    ],
)
def test_the_exponent_is_that_of_the_last_two_doublings(
    work: tuple[int, ...], cost: tuple[float, ...], expected: float | None, load: Callable[[str], Any]
) -> None:
    found = load("scaling").exponent(work, cost)
    assert found == (None if expected is None else pytest.approx(expected))


def test_work_that_grows_as_a_square_does_not_meet_its_goal(load: Callable[[str], Any]) -> None:
    scaling = load("scaling")
    workload = scaling.Workload("squares", (10, 20), lambda size, folder: lambda: None)
    growth = scaling.Growth("squares", "squares", "a square", (workload,))
    points = (scaling.Point(10, 0.001, 50.0), scaling.Point(20, 0.004, 100.0))
    table, memory = scaling.result("classes", growth, [scaling.Measured(workload, points)])
    assert table.rows == (("squares", "100 µs, 50 MiB", "200 µs, 100 MiB", "2.00", "1.00"),)
    assert [goal.endswith("not met") for goal in table.goals] == [True, False]
    assert memory.series == {"squares": [(10.0, 50.0), (20.0, 100.0)]}


def test_memory_is_the_peak_on_top_of_what_was_there(tmp_path: Path, load: Callable[[str], Any]) -> None:
    scaling = load("scaling")

    def prepare(mib: int, folder: Path) -> Callable[[], object]:
        ready = np.ones((mib, 2**17))  # not counted
        return lambda: np.ones((mib, 2**17)).sum() + ready[0, 0]

    receiver, sender = multiprocessing.Pipe(duplex=False)
    scaling.measure_here(sender, scaling.Workload("ones", (64,), prepare), 64, tmp_path, 0.0)
    point = receiver.recv()
    assert 62 < point.mib < 70  # 64, of 8-byte numbers
    assert point.seconds > 0
