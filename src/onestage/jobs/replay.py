"""Take a skipped step again, alone, and show what is not finite in it."""

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from onestage.compute.device import Compute, choose_compute, same_bits_in_each_run
from onestage.terminal import Display, cell, command_display
from onestage.training.optimizer import freeze_untrained, train_mode
from onestage.training.processes import ALONE
from onestage.training.skipped_step import Diagnosis, ImageLosses, SkippedStep, diagnose, read_skipped_step
from onestage.training.step import OptimizerStep, StepLosses

PARAMETERS_NAMED = 5
HEADER_WIDTH = 9  # so that the table of the images fits in 80 columns


@dataclass(frozen=True)
class ReplayResult:
    """A step taken again."""

    recorded: StepLosses  # losses in the run
    replayed: StepLosses  # losses now
    in_float32: StepLosses | None  # losses now in float32, where the run had another precision
    diagnosis: Diagnosis  # what is not finite in the step as it was taken now


def replay(file: str | os.PathLike[str], *, device: str | None = None, display: Display | None = None) -> ReplayResult:
    """Take the step of a file from a run folder's `replay/` again, in one process, in the precision of the run.

    Nothing is written. On the run's kind of device the losses are those of the run. A `device` of None takes a GPU
    where there is one.

    Raises:
        UserError: another file, or a damaged one; or a device that this machine does not have.
    """
    display = command_display(display)
    skipped = read_skipped_step(Path(file))
    compute = choose_compute(device, skipped.precision)
    if skipped.recipe.deterministic:
        same_bits_in_each_run(compute.device)
    compute.place(skipped.detector)
    freeze_untrained(skipped.detector, skipped.recipe)
    train_mode(skipped.detector)
    skipped = replace(skipped, parts=[part.to(compute.device) for part in skipped.parts])
    step, replayed = _take(skipped, compute)
    diagnosis = diagnose(step, skipped.parts, skipped.names, replayed)
    fp32 = replace(compute, dtype=torch.float32)
    in_float32 = _take(skipped, fp32)[1] if compute.dtype != torch.float32 else None
    result = ReplayResult(skipped.losses, replayed, in_float32, diagnosis)
    _show(skipped, compute, result, display)
    return result


def _take(skipped: SkippedStep, compute: Compute) -> tuple[OptimizerStep, StepLosses]:
    """Take the step up to its gradient, which is left in the parameters; weights and statistics stay."""
    step = OptimizerStep(skipped.detector, skipped.detector, skipped.recipe, compute, ALONE)
    step.scaler.load_state_dict(skipped.scaler)
    with step.statistics_kept():
        return step, step.gradient(skipped.parts)


# --- what is printed


def _show(skipped: SkippedStep, compute: Compute, result: ReplayResult, display: Display) -> None:
    diagnosis, in_float32, position = result.diagnosis, result.in_float32, skipped.position
    display.say(
        f"step {position.number} of a run with {skipped.detector.name}, skipped on {skipped.device} in "
        f"{skipped.precision} at learning rate {position.learning_rate:.3g}; taken again on {compute.device}"
    )
    display.console.print(losses_table(result))
    display.console.print(images_table(diagnosis.images, display.console))
    if diagnosis.layer is not None:
        display.say(f"first layer whose output is not finite: {diagnosis.layer}")
    if diagnosis.parameters:
        names = ", ".join(diagnosis.parameters[:PARAMETERS_NAMED])
        total = len(list(skipped.detector.parameters()))
        more = ", ..." * (len(diagnosis.parameters) > PARAMETERS_NAMED)
        display.say(f"parameters whose gradient is not finite: {len(diagnosis.parameters)} of {total}: {names}{more}")
    if in_float32 is not None:
        display.say(f"in fp32 the step is {'' if in_float32.finite else 'not '}finite")
        if not in_float32.finite:  # so the other precision is not at fault
            diagnosis = replace(diagnosis, compute_dtype=torch.float32)
    if result.replayed.finite:
        display.say(f"the step is finite here; on {skipped.device} it was not")
    else:
        display.say(str(diagnosis), f"advice: {diagnosis.advice(position.steps_taken)}")


def losses_table(result: ReplayResult) -> Table:
    """The losses of a step, one column for each time it was taken."""
    columns = {"recorded": result.recorded, "now": result.replayed, "now in fp32": result.in_float32}
    steps = {title: step for title, step in columns.items() if step is not None}
    table = _table("losses per positive anchor", "", *steps)
    for name in result.recorded.by_name:
        table.add_row(f"{name} loss", *(f"{step.by_name[name]:.6g}" for step in steps.values()))
    table.add_row("positives", *(f"{step.positives:.6g}" for step in steps.values()))
    table.add_row("gradient", *(f"{step.gradient_norm:.6g}" for step in steps.values()))
    return table


def images_table(images: Sequence[ImageLosses], console: Console) -> Table:
    """A row for each image, those that are not finite first."""
    columns = ["image", "boxes", "thinnest side, px", *images[0].losses, "positives", "not finite"]
    table = _table("images, with their part of the loss sums", *columns)
    for image in sorted(images, key=lambda image: not image.non_finite):
        table.add_row(
            cell(image.name, console),
            str(image.boxes),
            "-" if math.isinf(image.thinnest) else f"{image.thinnest:.3g}",
            *(f"{value:.4g}" for value in image.losses.values()),
            str(image.positives),
            "yes" if image.non_finite else "",
        )
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(
            "\n".join(textwrap.wrap(name, HEADER_WIDTH, break_long_words=False)), justify="right", overflow="fold"
        )
    return table
