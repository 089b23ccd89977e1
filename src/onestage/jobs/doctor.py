"""Look through a data set before anything is trained on it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from onestage.checks import Checkup, Finding, check_up
from onestage.checks.findings import LEVELS
from onestage.checks.label_errors import check_labels
from onestage.checks.page import write_page
from onestage.checks.problems import CHANGES
from onestage.data import dataset_name
from onestage.data.writing import WRITERS
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.errors import UserError
from onestage.jobs.dataset import table_lines
from onestage.models.model_file import load_model
from onestage.recipes import DEFAULT_DETECTOR
from onestage.terminal import Display, cell, command_display
from onestage.texts import counted, json_text, one_line
from onestage.whole_file import write_whole

SHOWN = 3  # examples of a finding in the terminal
_STYLE = {"error": "bold red", "warning": "yellow", "notice": "cyan"}


def doctor(
    data: str | os.PathLike[str],
    *,
    detector: str | None = None,
    model: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    json_file: str | os.PathLike[str] | None = None,
    strict: bool = False,
    fix: str | os.PathLike[str] | None = None,
    data_options: DataOptions = AS_IT_IS,
    device: str | None = None,
    display: Display | None = None,
) -> Checkup:
    """Report what is wrong with a data set: on the terminal, as a page, and as JSON.

    Args:
        data: a folder or an annotation file, or several joined with `+`.
        detector: objects are measured at the input of this one; None takes the model's, else `DEFAULT_DETECTOR`.
        model: a trained model, whose detections are held against the labels to find wrong ones.
        out: the folder of `report.html`; None makes `doctor/DATA`.
        json_file: a file for all findings, for scripts.
        strict: errors of the data raise a UserError in the end.
        fix: a new folder for a copy of the data set without what is wrong, with a list of all changes.

    Raises:
        UserError: no such data, nothing usable in it, or (`strict`) errors in it.
    """
    display, data = command_display(display), os.fspath(data)
    if fix is not None and Path(fix).exists() and (not Path(fix).is_dir() or any(Path(fix).iterdir())):
        raise UserError(f"{fix}: has files already; name a new folder with --fix")
    detector = detector or (load_model(model).detector.name if model is not None else DEFAULT_DETECTOR)
    with display.stage("checking", 0):
        checkup = check_up(data, detector=detector, options=data_options)
    if model is not None:
        checkup = check_labels(checkup, os.fspath(model), device=device, display=display)
    folder = Path(out) if out is not None else Path("doctor") / dataset_name(data)
    folder.mkdir(parents=True, exist_ok=True)
    write_page(folder / "report.html", checkup)
    _print(checkup, display)
    levels = Counter(one.level for one in checkup.findings)
    display.say(
        f"{data}: {', '.join(counted(levels[level], level) for level in LEVELS)} in "
        f"{sum(map(len, checkup.tables.values())):,} images, looked through in {display.took}",
        f"written: {folder / 'report.html'}",
    )
    if json_file is not None:
        write_whole(Path(json_file), (json_text(checkup.as_dict(), indent=1) + "\n").encode())
    if fix is not None:
        _write_fixed(checkup, Path(fix), data_options, display)
    if strict and checkup.errors:
        raise UserError(f"{data}: {len(checkup.errors)} kinds of errors: {checkup.errors[0].what}")
    return checkup


def _print(checkup: Checkup, display: Display) -> None:
    for line in checkup.about:
        display.say(line)
    for line in table_lines(checkup.tables, checkup.input_sizes):
        display.say(line)
    for one in checkup.findings:
        what = cell(f"{one.what} [{one.code}]", display.console)
        display.console.print(Text.assemble((f"{one.level}: ", _STYLE[one.level]), what))
        for example in one.examples[:SHOWN]:
            display.say(f"    {example.text}")
        if len(one.examples) > SHOWN:
            display.say(f"    and {len(one.examples) - SHOWN:,} more, which --json FILE lists")
        display.say(f"    why: {one.why}; {one.mend}")
    if not checkup.findings:
        display.say("nothing is wrong")


def _write_fixed(checkup: Checkup, folder: Path, options: DataOptions, display: Display) -> None:
    """A copy without what is wrong, in the data set's own format where that is written, else COCO's."""
    findings = checkup.findings
    if any(one.code == "scale" for one in findings):
        checkup = check_up(checkup.data, detector=checkup.detector, options=replace(options, rescale_boxes=True))
    kinds = {table.kind for table in checkup.tables.values()}
    kind = kinds.pop() if len(kinds) == 1 and kinds <= set(WRITERS) else "coco"
    WRITERS[kind](checkup.without_errors(), folder)
    write_whole(folder / "changes.txt", "".join(map(_change, findings)).encode())
    left = [one.code for one in findings if one.code not in CHANGES and one.level != "notice"]
    by_hand = f"; left for you to mend: {', '.join(left)}" if left else ""
    display.say(f"written: {folder} as {kind.upper()}, with all changes in {folder / 'changes.txt'}{by_hand}")


def _change(one: Finding) -> str:
    done = CHANGES.get(one.code, "not changed")
    lines = [f"{one.what} ({one.code}): {done}", *(f"    {example.text}" for example in one.examples)]
    return "".join(f"{one_line(line)}\n" for line in lines)
