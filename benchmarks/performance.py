"""Run the benchmarks one after another and write `docs/performance.md`, with its plots.

    python benchmarks/performance.py                        all of them: half an hour on two idle cores
    python benchmarks/performance.py --only metrics scaling   these again; the others as they were
    python benchmarks/performance.py --only                 none: the page anew from what was measured

What each found is kept as `docs/performance/NAME.json`, as its own `--json` writes it: a benchmark may be run by hand
with other options and the page written anew. What stands below `BY_HAND` in the page is kept.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

import tyro
from line_plot import line_plot
from rich.console import Console

Name = Literal[
    "prediction",
    "postprocessing",
    "training",
    "training_step",
    "loading",
    "augmentation",
    "metrics",
    "start_up",
    "scaling",
]  # in the order of the page
NAMES: tuple[Name, ...] = get_args(Name)
SCRIPTS = Path(__file__).parent
BY_HAND = "<!-- Below this line the page is written by hand; benchmarks/performance.py keeps it. -->"
HEAD = """\
# Performance

`make benchmark` measures all of this side by side and writes this page. {when} Candidates of a table were timed in turn
in the same run; figures are medians, and ratios say more than they do.
"""
NO_GPU = "No GPU was at hand: the GPU column was not run."
NOTHING_BY_HAND = "## What was tried\n\nNothing is written here yet."


@dataclass(frozen=True)
class Options:
    """Run benchmarks and write the page."""

    only: tuple[Name, ...] = NAMES
    out: Path = Path("docs")  # of performance.md


def run(name: Name, folder: Path) -> str | None:
    """Run one benchmark in a process of its own and keep what it found; why that failed, or None."""
    file = folder / f"{name}.json"
    file.unlink(missing_ok=True)
    script, started = SCRIPTS / f"{name}.py", time.perf_counter()
    status = subprocess.run([sys.executable, str(script), "--json", str(file)], check=False).returncode
    found: dict[str, Any] = {}
    if status == 0 and file.exists():
        found = json.loads(file.read_text())
    else:
        found["failed"] = f"`python benchmarks/{name}.py` ended with status {status}" + ", without figures" * (
            not status
        )
    found |= {"date": date.today().isoformat(), "seconds": round(time.perf_counter() - started)}
    file.write_text(json.dumps(found, indent=1) + "\n")
    return found.get("failed")


def write_page(out: Path) -> Path:
    """`performance.md` and its plots from all that was kept."""
    folder, page = out / "performance", out / "performance.md"
    files = {name: folder / f"{name}.json" for name in NAMES}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    for plot in folder.glob("*.svg"):
        plot.unlink()
    by_hand = NOTHING_BY_HAND
    if page.exists() and BY_HAND in (text := page.read_text()):
        by_hand = text.partition(BY_HAND)[2]
    machine = _last_machine(found)
    parts = [HEAD.format(when=_when(found)), *_machine_table(machine), *_goals(found)]
    for name, content in found.items():
        parts += _section(name, content, machine, folder)
    page.write_text("\n".join([*parts, BY_HAND, "", by_hand.strip(), ""]))
    return page


def _when(found: Mapping[str, Any]) -> str:
    dates = sorted({content["date"] for content in found.values() if "date" in content})
    minutes = sum(content.get("seconds", 0) for content in found.values()) / 60
    period = " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "by hand"
    return f"Last run: {period}, {minutes:.0f} minutes."


def _last_machine(found: Mapping[str, Any]) -> dict[str, str]:
    """The machine of the latest figures."""
    measured = [content for content in found.values() if "machine" in content]
    return max(measured, key=lambda content: content.get("date", ""))["machine"] if measured else {}


def _machine_table(machine: Mapping[str, str]) -> list[str]:
    gpu = [] if machine.get("gpu") else [NO_GPU, ""]
    return [*_table(("machine", ""), list(machine.items())), *gpu] if machine else gpu


def _goals(found: Mapping[str, Any]) -> list[str]:
    """All goals in one list, with how many are met."""
    goals = [(name, goal) for name, content in found.items() for one in _results(content) for goal in one["goals"]]
    if not goals:
        return []
    verdicts = [_is_met(goal) for _, goal in goals]
    without = verdicts.count(None)
    told = f"{verdicts.count(True)} of {len(goals)} are met" + (f"; {without} could not be judged" if without else "")
    lines = [f"- [{_words(name)}](#{_words(name).replace(' ', '-')}): {_stressed(goal)}" for name, goal in goals]
    return ["## Goals", "", f"{told}.", "", *lines, ""]


def _section(name: str, content: Mapping[str, Any], machine: Mapping[str, str], folder: Path) -> list[str]:
    """One benchmark's part of the page; its plots are written."""
    parts = [f"## {_words(name).capitalize()}", "", *_about(name)]
    if "failed" in content:
        parts += [f"**Not measured** ({content['date']}): {content['failed']}.", ""]
    other = [f"{key} {value}" for key, value in content.get("machine", {}).items() if machine.get(key) != value]
    if other:
        parts += [f"Measured elsewhere than the rest: {'; '.join(other)}.", ""]
    if "seconds" in content:
        parts += [f"Took {content['seconds']:,} seconds ({content['date']}).", ""]
    before: Mapping[str, Any] = {"name": None, "command": None}
    for number, result in enumerate(_results(content), start=1):
        parts += _one_result(result, before, folder / f"{name}-{number}.svg")
        before = result
    return parts


def _one_result(result: Mapping[str, Any], before: Mapping[str, Any], plot: Path) -> list[str]:
    """Under a heading of its own, unless the one before has the same."""
    parts = [] if result["name"] == before["name"] else [f"### {result['name']}", ""]
    if parts or result["command"] != before["command"]:
        parts += [f"    {result['command']}", ""]
    if result["rows"]:
        parts += _table(result["columns"], result["rows"])
    if result["goals"]:
        parts += [*(f"- {_stressed(goal)}" for goal in result["goals"]), ""]
    parts += [line for note in result["notes"] for line in (note, "")]
    if result["series"]:
        x, y = result["axes"]
        title = f"{result['name']}: {y} over {x}"
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot.write_text(line_plot(result["series"], (x, y), title), encoding="utf-8")
        parts += [f"![{title}]({plot.parent.name}/{plot.name})", ""]
    return parts


def _results(content: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return content.get("results", ())


def _about(name: str) -> list[str]:
    """The first paragraph of the script's docstring."""
    script = SCRIPTS / f"{name}.py"
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) if script.exists() else None
    return [text.partition("\n\n")[0], ""] if text else []


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Words to the left, figures to the right."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return [*(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines), ""]


def _is_met(goal: str) -> bool | None:
    """What the goal's line says of itself; None where it says neither."""
    said = re.findall(r"\b(not met|met)\b", goal)
    return said[-1] == "met" if said else None


def _stressed(goal: str) -> str:
    return re.sub(r"\bnot met\b", "**not met**", goal)


def _words(name: str) -> str:
    return name.replace("_", " ")


def main(options: Options) -> None:
    console, folder = Console(), options.out / "performance"
    folder.mkdir(parents=True, exist_ok=True)
    failures = {}
    for number, name in enumerate(options.only, start=1):
        console.rule(f"{number} of {len(options.only)}: {name}")
        started = time.perf_counter()
        if (why := run(name, folder)) is not None:
            failures[name] = why
        console.print(f"{name}: {why or 'done'}, {time.perf_counter() - started:.0f} s")
        write_page(options.out)  # each time, so that a run that is stopped leaves what it found
    console.print(f"written: {write_page(options.out)}")
    if failures:
        console.print("failed:", *(f"  {name}: {why}" for name, why in failures.items()), sep="\n")
        sys.exit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
