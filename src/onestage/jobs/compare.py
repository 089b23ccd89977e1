"""Is this run better? Compare runs by what their evaluations measured: table, `compare.json`, `compare.html`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table as TextTable

from onestage.errors import UserError
from onestage.evaluation.comparison import (
    METRICS,
    ONE_SEED,
    Comparison,
    Difference,
    compare_sides,
    in_common,
    side_name,
)
from onestage.evaluation.comparison_page import points, write_comparison
from onestage.evaluation.measured import Measured
from onestage.models.model_file import RunFolder, read_tensors
from onestage.settings import flat
from onestage.terminal import Display, cell, command_display, duration
from onestage.texts import json_text
from onestage.training.journal import read_log
from onestage.whole_file import make_folder, write_whole

MOST_SIDES = 8  # a table has a column for each
LARGEST_JSON = 1 << 20  # bytes of a recipe
NOT_COMPARED = ("seed", "request.options.skip_bad_data")  # settings that make no other recipe


@dataclass(frozen=True)
class Run:
    """An evaluation, with what is known of the model and its training."""

    name: str  # as the user wrote it
    measured: Measured
    model: Path | None  # its file
    settings: dict[str, Any]  # of the run that trained it, flat; empty if unknown
    log: dict[str, Any]  # the last row of its log.csv

    @property
    def recipe(self) -> str:
        """Equal for runs of one recipe; without settings, for no other."""
        settings = {name: value for name, value in self.settings.items() if name not in NOT_COMPARED}
        return json.dumps(settings, sort_keys=True) if settings else f"unknown {self.name}"


def compare(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    display: Display | None = None,
) -> dict[str, Any]:
    """Compare runs on the images that their evaluations share; gives the content of `compare.json`.

    Args:
        runs: run folders or folders of evaluations, two or more. Others are held against the first. Runs of one recipe
            with different seeds are one side of the comparison, if there is another.
        out: the folder of `compare.json` and `compare.html`; None takes `compare/A-B`, by the names of the runs.

    Raises:
        UserError: a folder without an evaluation, or evaluations without an image or a class in common.
    """
    display = command_display(display)
    if len(runs) < 2:
        raise UserError("compare: give two runs or more: onestage compare RUN RUN")
    read = [_read(os.fspath(run)) for run in runs]
    measured, notes = in_common([run.measured for run in read], [run.name for run in read])
    sides = _sides(read)
    if len(sides) > MOST_SIDES:
        raise UserError(f"compare: {len(sides)} different runs; give {MOST_SIDES} at most")
    first = [read[side[0]] for side in sides]
    folder = (
        Path(out) if out is not None else Path("compare") / "-".join(Path(run.name).resolve().name for run in first)
    )
    make_folder(folder)
    with display.stage("comparing", len(read) * len(measured[0].categories)) as stage:
        comparison = compare_sides([[measured[run] for run in side] for side in sides], advance=stage.advance)
    notes += _notes(sides)
    words = [_words([read[run] for run in side]) for side in sides]
    facts, settings = _facts(first), _differing_settings(first)
    display.say(*(f"{side_name(number)}  {text}" for number, text in enumerate(words)))
    _print(comparison, facts, settings, display)
    display.say(*(f"note: {note}" for note in notes), *(comparison.sentence(side) for side in range(1, len(sides))))
    content = _content(comparison, words, facts, settings, notes, measured[0].image_names)
    write_whole(folder / "compare.json", (json_text(content, indent=1) + "\n").encode())
    write_comparison(
        folder / "compare.html",
        comparison,
        [measured[side[0]] for side in sides],
        sides=words,
        notes=notes,
        facts=facts,
        settings=settings,
    )
    display.say(f"written: {folder / 'compare.json'}, {folder / 'compare.html'}")
    return content


def read_measured(folder: Path) -> Measured:
    """What the evaluation in a folder measured; a UserError if there is none, or it is damaged."""
    if not folder.is_dir():
        what = "a file" if folder.is_file() else "no such folder"
        raise UserError(f"{folder}: {what}; give a run, or the folder of an evaluation")
    files = (RunFolder(folder).measured, RunFolder(folder / "evaluation").measured)
    path = next((file for file in files if file.exists()), None)
    if path is None:
        raise UserError(
            f"{folder}: no {files[0].name}, which evaluations write; give a run or an evaluation, or evaluate it: "
            f"onestage evaluate {folder} DATA"
        )
    return Measured.from_file_content(*read_tensors(path), str(path))


def _read(name: str) -> Run:
    folder = Path(name)
    measured = read_measured(folder)
    said = measured.about.get("model")  # where the model was when it was evaluated
    model = Path(said) if isinstance(said, str) and "\0" not in said else None
    run = folder if (folder / "recipe.json").exists() else model
    if model is not None and model.is_dir():
        model = RunFolder(model).model
    if run is not None and run.is_file():
        run = run.parent
    files = RunFolder(run or folder)
    settings = flat(_json(files.recipe) | {"request": _json(files.data)}) if files.recipe.is_file() else {}
    model = files.model if files.model.is_file() and run == folder else model
    log = read_log(files.log) if files.log.is_file() else []
    return Run(name, measured, model if model is not None and model.is_file() else None, settings, (log or [{}])[-1])


def _json(path: Path) -> dict[str, Any]:
    """A file's table; empty if it is missing or none."""
    try:
        values = json.loads(path.read_text()) if path.stat().st_size <= LARGEST_JSON else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _sides(runs: Sequence[Run]) -> list[list[int]]:
    """The runs by recipe, if there are several recipes and all seeds of one differ; else each run for itself."""
    sides: dict[tuple[str, int], list[int]] = {}
    for number, run in enumerate(runs):
        seed = run.settings.get("seed")
        twice = sum(other.recipe == run.recipe and other.settings.get("seed") == seed for other in runs) > 1
        sides.setdefault((run.recipe, number if twice else -1), []).append(number)
    return list(sides.values()) if len(sides) > 1 else [[number] for number in range(len(runs))]


def _notes(sides: Sequence[Sequence[int]]) -> list[str]:
    if max(map(len, sides)) > 1:
        return ["runs of one recipe with several seeds are compared by their means; their spread widens the intervals"]
    return [
        f"one seed a side: intervals are {ONE_SEED:g} times as wide as the images ask for, as another seed moves AP"
        " too; give runs of several seeds to have that measured"
    ]


def _words(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    return f"{', '.join(run.name for run in runs)} (one recipe, {len(runs)} seeds)"


def _facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What each run is: rows with a cell for each."""

    def about(name: str, form: str = "{}", scale: float = 1) -> list[str]:
        values = [run.measured.about.get(name) for run in runs]
        numbers = [value if isinstance(value, int | float) and 0 <= value < 1e15 else None for value in values]
        if form == "{}":
            return [value if isinstance(value, str) else "-" for value in values]
        return ["-" if value is None else form.format(scale * value) for value in numbers]

    trained = [
        "-"
        if not run.log.get("images")
        else f"{duration(run.log.get('seconds') or 0)}, {run.log['images']:,.0f} images"
        for run in runs
    ]
    times = zip(about("ms_per_image", "{:.1f} ms"), about("device"), strict=True)
    return [
        ("detector", about("detector")),
        ("parameters", about("parameters", "{:.2f} M", 1e-6)),
        ("model file", [f"{run.model.stat().st_size / 1e6:.1f} MB" if run.model else "-" for run in runs]),
        ("evaluation, an image", [time if time == "-" else f"{time} ({device})" for time, device in times]),
        ("training", trained),
        ("score threshold", [_thresholds(run.measured.score_thresholds) for run in runs]),
    ]


def _thresholds(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}, by class"


def _differing_settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs: rows with a cell for each; "-" for none, and where it lacks."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = ((name, ["-" if (one := run.settings.get(name)) is None else one for run in runs]) for name in names)
    return [(name, [str(value) for value in values]) for name, values in rows if any(v != values[0] for v in values)]


def _print(
    comparison: Comparison,
    facts: Sequence[tuple[str, Sequence[str]]],
    settings: Sequence[tuple[str, Sequence[str]]],
    display: Display,
) -> None:
    letters = [side_name(side) for side in range(len(comparison.counts))]
    heads = [*letters, *(f"{letter} - A" for letter in letters[1:])]

    def cells(metric: str, place: int) -> list[str]:
        values = [points(side[place]) for side in comparison.values[metric]]
        return [*values, *(_in_words(side[place]) for side in comparison.differences[metric][1:])]

    _print_table("points", heads, [(metric, cells(metric, 0)) for metric in METRICS], display)
    rows = [(name, cells("AP", 1 + label)) for label, name in enumerate(comparison.categories.names)]
    _print_table("AP by class (intervals that hold together)", heads, rows, display)
    if others := [(name, values) for name, values in facts if len(set(values)) > 1]:
        _print_table("what differs", letters, others, display)
    if settings:
        _print_table("settings that differ", letters, settings, display)


def _in_words(difference: Difference) -> str:
    words = {"equal": "", "too few": f" too few images ({difference.images})"}
    return f"{difference}{words.get(difference.verdict, f' {difference.verdict}')}"


def _print_table(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], display: Display) -> None:
    table = TextTable(title=title, title_justify="left", box=box.MINIMAL, pad_edge=False)
    for head in ("", *heads):
        table.add_column(head, justify="left", overflow="fold")
    for name, values in rows:
        table.add_row(*(cell(text, display.console) for text in (name, *values)))
    display.console.print(table)


def _content(
    comparison: Comparison,
    sides: Sequence[str],
    facts: Sequence[tuple[str, Sequence[str]]],
    settings: Sequence[tuple[str, Sequence[str]]],
    notes: Sequence[str],
    image_names: Sequence[str],
) -> dict[str, Any]:
    """The content of `compare.json`; points are hundredths, null what does not exist."""

    def number(value: float) -> float | None:
        return round(float(value), 4) if np.isfinite(value) else None

    def difference(one: Difference) -> dict[str, Any]:
        interval = number(one.interval) if one.known else None
        return {"points": number(one.points), "interval": interval, "images": one.images, "verdict": one.verdict}

    def against_first(side: int) -> dict[str, Any]:
        better, worse = comparison.changed_images(side, limit=20)
        return {
            "side": side_name(side),
            "sentence": comparison.sentence(side),
            **{name: difference(comparison.differences[name][side][0]) for name in METRICS},
            "per_class": {
                name: {metric: difference(comparison.differences[metric][side][1 + label]) for metric in METRICS}
                for label, name in enumerate(comparison.categories.names)
            },
            "images_better": [image_names[image] for image in better],
            "images_worse": [image_names[image] for image in worse],
        }

    return {
        "images": comparison.images,
        "confidence": 0.95,
        "resamples": comparison.resamples,
        "notes": list(notes),
        "sides": {
            side_name(side): {
                "runs": words,
                **{metric: number(100 * comparison.values[metric][side, 0]) for metric in METRICS},
                **{name: values[side] for name, values in facts},
            }
            for side, words in enumerate(sides)
        },
        "differences": [against_first(side) for side in range(1, len(sides))],
        "settings": dict(settings),
    }
