"""What a model or a detector's name stands for."""

from __future__ import annotations

from pathlib import Path

from onestage.detectors import Description, build, describe
from onestage.inference.exported import is_exported, read_any_exported
from onestage.inference.exported_header import selection_of
from onestage.input_size import Stretch
from onestage.models.model_file import load_model
from onestage.runtime.exported_file import ExportedFile
from onestage.terminal import Display


def info(model: str, *, num_classes: int = 20, display: Display | None = None) -> str:
    """Parameters, GMACs, anchors, input and classes, printed and returned.

    Args:
        model: a run folder, a model file, an exported file, or a detector's name.
        num_classes: for a detector's name.
        display: where to print.

    Raises:
        UserError: neither a model nor a name that is known.
    """
    display = display or Display()
    if is_exported(model) and Path(model).exists():
        text = _exported_in_words(read_any_exported(model))
    elif Path(model).exists():
        loaded = load_model(model)
        text = f"{in_words(describe(loaded.detector))}\n  classes     {', '.join(loaded.categories.names)}"
        if "map_area" in loaded.header:
            text += f"\n  AP50        {loaded.header['map_area']:.4f} (VOC, area) at step {loaded.header['step']}"
    else:
        text = in_words(describe(build(model, num_classes)))
    display.say(text)
    return text


def _exported_in_words(file: ExportedFile) -> str:
    selection, origin = selection_of(file), file.header["origin"]
    nms = f"{selection.nms} NMS at {selection.iou_threshold:g}, at most {selection.max_detections} an image"
    return "\n".join(
        [
            f"{file.name}, exported from {file.header['detector']}, {len(file.content) / 1e6:.1f} MB",
            "  input       RGB images of any size",
            f"  selection   scores above {selection.score_threshold:g} unless told otherwise, {nms}",
            f"  origin      {', '.join(f'{key} {value}' for key, value in origin.items()) or 'not told'}",
            f"  classes     {', '.join(file.names)}",
        ]
    )


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
            f"  GMACs       {about.gmacs:.2f} an image{at}",
            f"  input       {about.resize}; RGB, (pixel - ({mean})) / ({std})",
            f"  anchors     {about.anchors:,}{at}: {', '.join(f'{w}x{h} cells of {n}' for h, w, n in about.cells)}",
        ]
    )
