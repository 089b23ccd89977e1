"""Take a step that was skipped again, alone, and show what is not finite in it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich import box
from rich.markup import escape
from rich.table import Table

from onestage.compute.device import Compute, choose_compute, same_bits_in_each_run
from onestage.terminal import Display
from onestage.training.diagnosis import Diagnosis, ImageLosses, diagnose
from onestage.training.optimizer import freeze_untrained, train_mode
from onestage.training.processes import ALONE
from onestage.training.replay_file import SkippedStep, read_skipped_step
from onestage.training.step import OptimizerStep, StepLosses

PARAMETERS_NAMED = 5


@dataclass(frozen=True)
class ReplayResult:
    """A step taken again.

    Attributes:
        recorded: its losses in the run.
        replayed: its losses now.
        in_float32: its losses now in float32, where the run had another precision.
        diagnosis: of the step as it was taken now.
    """

    recorded: StepLosses
    replayed: StepLosses
    in_float32: StepLosses | None
    diagnosis: Diagnosis


def replay(file: str | os.PathLike[str], *, device: str | None = None, display: Display | None = None) -> ReplayResult:
    """Take the step of a file from a run folder's `replay/` again, in one process, in the precision of the run.

    Nothing is written. On the run's kind of device the losses are those of the run.

    Args:
        file: the file.
        device: None takes a GPU where there is one.
        display: where to print.

    Raises:
        UserError: not such a file, or a damaged one; or a device that this machine does not have.
    """
    display = display or Display()
    skipped = read_skipped_step(Path(file))
    compute = choose_compute(device, skipped.precision)
    if skipped.recipe.deterministic:
        same_bits_in_each_run(compute.device)
    compute.place(skipped.detector)
    freeze_untrained(skipped.detector, skipped.recipe)
    train_mode(skipped.detector)
    skipped = replace(skipped, parts=[part.to(compute.device) for part in skipped.parts])
    step = _step(skipped, compute)
    replayed = _losses(step, skipped)
    diagnosis = diagnose(step, skipped.parts, skipped.names, replayed)
    in_float32 = None
    if compute.dtype != torch.float32:
        in_float32 = _losses(_step(skipped, replace(compute, dtype=torch.float32)), skipped)
    result = ReplayResult(skipped.losses, replayed, in_float32, diagnosis)
    _show(skipped, compute, result, display)
    return result


def _step(skipped: SkippedStep, compute: Compute) -> OptimizerStep:
    step = OptimizerStep(skipped.detector, skipped.detector, skipped.recipe, compute, ALONE)
    step.scaler.load_state_dict(skipped.scaler)
    return step


def _losses(step: OptimizerStep, skipped: SkippedStep) -> StepLosses:
    """Of the step, whose gradient is left in the parameters; the weights stay."""
    with step.statistics_kept():
        return step.gradient(skipped.parts)


# --- what is printed


def _show(skipped: SkippedStep, compute: Compute, result: ReplayResult, display: Display) -> None:
    diagnosis = result.diagnosis
    display.say(
        f"step {skipped.number} of a run with {skipped.detector.name}, skipped on {skipped.device} in "
        f"{skipped.precision} at learning rate {skipped.learning_rate:.3g}; taken again on {compute.device}"
    )
    columns = {"recorded": result.recorded, "now": result.replayed}
    if result.in_float32 is not None:
        columns["now in fp32"] = result.in_float32
    display.console.print(losses_table(columns))
    display.console.print(images_table(diagnosis.images))
    if diagnosis.layer is not None:
        display.say(f"first layer whose output is not finite: {diagnosis.layer}")
    if diagnosis.parameters:
        names = ", ".join(diagnosis.parameters[:PARAMETERS_NAMED])
        total = len(list(skipped.detector.parameters()))
        more = ", ..." * (len(diagnosis.parameters) > PARAMETERS_NAMED)
        display.say(f"parameters whose gradient is not finite: {len(diagnosis.parameters)} of {total}: {names}{more}")
    if result.in_float32 is not None:
        display.say(f"in fp32 the step is {'' if result.in_float32.finite else 'not '}finite")
        if not result.in_float32.finite:  # so the other precision is not at fault
            diagnosis = replace(diagnosis, compute_dtype=torch.float32)
    if result.replayed.finite:
        display.say(f"the step is finite here; on {skipped.device} it was not")
    else:
        display.say(f"{diagnosis}\nadvice: {diagnosis.advice(skipped.steps_taken)}")


def losses_table(columns: Mapping[str, StepLosses]) -> Table:
    """The losses of a step, a column each time it was taken."""
    table = _table("losses per positive anchor", "", *columns)
    names = {"classification": "class loss", "box": "box loss", "positives": "positives", "gradient_norm": "gradient"}
    values = [asdict(losses) for losses in columns.values()]
    for field, name in names.items():
        table.add_row(name, *(f"{value[field]:.6g}" for value in values))
    return table


def images_table(images: Sequence[ImageLosses]) -> Table:
    """A row an image, sick ones first."""
    table = _table(
        "images, with their part of the sums",
        "image",
        "boxes",
        "thinnest\nside, px",
        "class\nloss",
        "box\nloss",
        "positives",
        "sick",
    )
    for image in sorted(images, key=lambda image: not image.sick):
        table.add_row(
            escape(image.name),
            str(image.boxes),
            "-" if math.isinf(image.thinnest) else f"{image.thinnest:.3g}",
            f"{image.classification:.4g}",
            f"{image.box:.4g}",
            str(image.positives),
            "yes" if image.sick else "",
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.MINIMAL, pad_edge=False)  # fits in 80 columns
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table
