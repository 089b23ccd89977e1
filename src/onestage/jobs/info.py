"""What a model or a detector's name stands for."""

from __future__ import annotations

from pathlib import Path

from onestage.detectors import Description, build, describe
from onestage.input_size import Stretch
from onestage.training.checkpoint import load_model
from onestage.training.logging import Display


def info(model: str, *, num_classes: int = 20, display: Display | None = None) -> str:
    """Parameters, GMACs, anchors, input and classes, printed and returned.

    Args:
        model: a run folder, a model file, or a detector's name.
        num_classes: for a detector's name.
        display: where to print.

    Raises:
        UserError: neither a model nor a name that is known.
    """
    display = display or Display()
    if Path(model).exists():
        loaded = load_model(model)
        text = f"{in_words(describe(loaded.detector))}\n  classes     {', '.join(loaded.categories.names)}"
        if "map_area" in loaded.header:
            text += f"\n  AP50        {loaded.header['map_area']:.4f} (VOC, area) at step {loaded.header['step']}"
    else:
        text = in_words(describe(build(model, num_classes)))
    display.say(text)
    return text


def in_words(about: Description) -> str:
    """The counts, a line each."""
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (about.normalization.mean, about.normalization.std)
    )
    height, width = about.input_hw
    at = "" if isinstance(about.resize, Stretch) else f" at {width} x {height}"
    return "\n".join(
        [
            f"{about.name}, {about.num_classes} classes",
            f"  parameters  {about.parameters:,}",
            f"  GMACs       {about.gmacs:.2f} a picture{at}",
            f"  input       {about.resize}; RGB, (pixel - ({mean})) / ({std})",
            f"  anchors     {about.anchors:,}{at}: {', '.join(f'{w}x{h} cells of {n}' for h, w, n in about.cells)}",
        ]
    )
