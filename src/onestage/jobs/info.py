"""Describe a model, a detector, a data set or the machine in a table."""

from pathlib import Path

from onestage.data import dataset_roots
from onestage.data_options import AS_IT_IS, DataOptions
from onestage.detectors import Description, build, describe
from onestage.errors import UserError
from onestage.export import format_of
from onestage.export.base import selection_of
from onestage.input_size import Stretch
from onestage.jobs.convert import read_all_splits
from onestage.jobs.dataset import say_what_was_found, table_lines
from onestage.jobs.environment import environment_lines
from onestage.models.hub import hub_name
from onestage.models.imagenet import HUB_PREFIX
from onestage.models.model_file import RunFolder, load_model
from onestage.terminal import Display, command_display
from onestage.texts import counted


def info(model: str = "", *, num_classes: int = 20, environment: bool = False, display: Display | None = None) -> str:
    """Print and return the parameters, GMACs, anchors, input and classes of a model, or what is in a data set.

    `model` is a run folder, a model file, an exported file, a hub's name, a detector's name, for which `num_classes`
    counts, or a folder of labelled images. With `environment` there is no model: versions, processor and GPU are told,
    for reports.

    Raises:
        UserError: `model` is none of these, or neither or both were given.
    """
    if environment == bool(model):
        raise UserError(f"info {model or 'of nothing'}: expected a MODEL or --environment, one of the two")
    display = command_display(display)
    lines = environment_lines() if environment else _lines_about(model, num_classes, display)
    display.say(*lines)
    return "\n".join(lines)


def _lines_about(model: str, num_classes: int, display: Display) -> list[str]:
    path, export_format, on_hub = Path(model), format_of(model), hub_name(model) is not None
    if not on_hub and _is_data(path):
        lines = _data_lines(model, display)
    elif not on_hub and not path.exists():
        if len(path.parts) > 1 and HUB_PREFIX not in model:
            raise UserError(f"{model}: no such file or folder")
        lines = _detector_lines(describe(build(model, num_classes)))
    elif export_format is not None:
        file = export_format.read(path)
        selection = selection_of(file)
        nms = f"{selection.nms} NMS at {selection.iou_threshold:g}, at most {selection.max_detections} an image"
        origin = ", ".join(f"{key} {value}" for key, value in file.header["origin"].items())
        lines = [
            f"{file.name}, exported from {file.header['detector']}, {export_format.megabytes(path):.1f} MB",
            "  input       RGB images of any size",
            *([f"  tiles       {file.tiling}"] if file.tiling else []),
            f"  selection   scores above {selection.thresholds_in_words} unless told otherwise, {nms}",
            f"  origin      {origin or 'not told'}",
            f"  classes     {', '.join(file.names)}",
        ]
    else:
        loaded = load_model(model)
        lines = _detector_lines(describe(loaded.detector))
        if loaded.detector.tiling is not None:
            lines.append(f"  tiles       {loaded.detector.tiling}")
        lines.append(f"  classes     {', '.join(loaded.categories.names)}")
        if loaded.thresholds is not None:
            lines.append(f"  thresholds  {loaded.thresholds}")
        map_area, step = (loaded.header.get(key) for key in ("map_area", "step"))
        if isinstance(map_area, float):
            where = "on the images that chose the weights"
            lines.append(f"  AP50        {map_area:.4f} (VOC, area) at step {step}, {where}")
    return lines


def _detector_lines(about: Description) -> list[str]:
    normalization = about.normalization
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (normalization.mean, normalization.std))
    height, width = about.input_hw
    at = "" if isinstance(about.resize, Stretch) else f" at {width} x {height}"
    lines = [
        f"{about.name}, {counted(about.num_classes, 'class')}",
        f"  parameters  {about.parameters:,}",
        f"  GMACs       {about.gmacs:.2f} an image{at}",
        f"  input       {about.resize}; RGB, (pixel - ({mean})) / ({std})",
    ]
    if about.cells:
        maps = ", ".join(f"{columns}x{rows} cells of {anchors}" for rows, columns, anchors in about.cells)
        lines.append(f"  anchors     {about.anchors:,}{at}: {maps}")
    return lines


def _is_data(path: Path) -> bool:
    """True for a folder that holds no run, and for an annotation file."""
    if path.is_dir():
        return not RunFolder(path).model.exists() and not RunFolder(path).recipe.exists()
    return path.suffix.lower() in (".json", ".yaml", ".yml", ".csv", ".data") or len(dataset_roots(path)) > 1


def _data_lines(data: str, display: Display) -> list[str]:
    say_what_was_found(data, display, AS_IT_IS)
    tables = read_all_splits(data, display, DataOptions(skip_bad_data=True))
    return table_lines(tables)
