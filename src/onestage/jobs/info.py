"""Describe a model or a detector in a table."""

from __future__ import annotations

from pathlib import Path

from onestage.detectors import Description, build, describe
from onestage.export import format_of
from onestage.export.base import selection_of
from onestage.input_size import Stretch
from onestage.models.model_file import load_model
from onestage.runtime.exported_file import ExportedFile
from onestage.terminal import Display


def info(model: str, *, num_classes: int = 20, display: Display | None = None) -> str:
    """Print and return the parameters, GMACs, anchors, input and classes of a model.

    Args:
        model: a run folder, a model file, an exported file, or a detector's name.
        num_classes: number of classes, for a detector's name.
        display: where to print.

    Raises:
        UserError: `model` is neither a model nor a detector's name.
    """
    path, export_format = Path(model), format_of(model)
    if not path.exists():
        lines = _detector_lines(describe(build(model, num_classes)))
    elif export_format is not None:
        lines = _exported_lines(export_format.read(path))
    else:
        loaded = load_model(path)
        lines = _detector_lines(describe(loaded.detector))
        lines.append(f"  classes     {', '.join(loaded.categories.names)}")
        if "map_area" in loaded.header:
            lines.append(f"  AP50        {loaded.header['map_area']:.4f} (VOC, area) at step {loaded.header['step']}")
    text = "\n".join(lines)
    (display or Display()).say(text)
    return text


def _exported_lines(file: ExportedFile) -> list[str]:
    selection, origin = selection_of(file), file.header["origin"]
    nms = f"{selection.nms} NMS at {selection.iou_threshold:g}, at most {selection.max_detections} an image"
    return [
        f"{file.name}, exported from {file.header['detector']}, {len(file.content) / 1e6:.1f} MB",
        "  input       RGB images of any size",
        f"  selection   scores above {selection.score_threshold:g} unless told otherwise, {nms}",
        f"  origin      {', '.join(f'{key} {value}' for key, value in origin.items()) or 'not told'}",
        f"  classes     {', '.join(file.names)}",
    ]


def _detector_lines(about: Description) -> list[str]:
    mean, std = (
        ", ".join(f"{value:g}" for value in values) for values in (about.normalization.mean, about.normalization.std)
    )
    height, width = about.input_hw
    at = "" if isinstance(about.resize, Stretch) else f" at {width} x {height}"
    lines = [
        f"{about.name}, {about.num_classes} classes",
        f"  parameters  {about.parameters:,}",
        f"  GMACs       {about.gmacs:.2f} an image{at}",
        f"  input       {about.resize}; RGB, (pixel - ({mean})) / ({std})",
    ]
    if about.cells:
        maps = ", ".join(f"{columns}x{rows} cells of {anchors}" for rows, columns, anchors in about.cells)
        lines.append(f"  anchors     {about.anchors:,}{at}: {maps}")
    return lines
