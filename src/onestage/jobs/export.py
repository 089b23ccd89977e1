"""`onestage export`: write a model as a file for another engine, and compare the file with the model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from onestage.data.generated import draw_image
from onestage.errors import UserError
from onestage.export import FORMATS, ExportFormat, format_of
from onestage.export.base import ModelToExport, as_detections
from onestage.export.check import Agreement, compare
from onestage.inference.predictor import Predictor
from onestage.jobs.calibration import calibration_for
from onestage.models.model_file import load_model, named_file
from onestage.runtime.session import Session
from onestage.terminal import Display, command_display
from onestage.texts import counted
from onestage.tiled_detections import changed_tiling
from onestage.whole_file import make_folder

CHECKED_SIZES = (100, 300, 500, 1000)  # nominal sides of the drawn images on which file and model are compared
LEAST_SHARE = 0.98  # share of common detections below which an fp32 file is not kept


@dataclass(frozen=True)
class Exported:
    """The path of an exported file, and how its detections compare with its model's."""

    path: Path
    agreement: Agreement


def export_model(
    model: str | os.PathLike[str],
    *,
    format: str = "onnx",
    precision: str = "fp32",
    calibration: str | os.PathLike[str] | None = None,
    search: bool = False,
    out: str | os.PathLike[str] | None = None,
    score_threshold: float | Literal["auto"] = "auto",
    nms: Literal["hard", "soft"] | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool = False,
    max_detections: int | None = None,
    tile: int | str | None = None,
    tile_overlap: int | None = None,
    display: Display | None = None,
) -> Exported:
    """Export a model: images of any size in, final detections out, class names inside.

    Args:
        model: a run folder, a model file or a hub's name.
        format: a key of `onestage.export.FORMATS`: "onnx", one file for ONNX Runtime and other engines; "openvino", an
            xml and a bin.
        precision: the network's number format: "fp32"; for OpenVINO also "bf16", for processors with AMX or AVX-512
            bf16, and "int8".
        calibration: a data set's folder; its training images calibrate int8, and its AP is measured on those that
            choose the weights.
        search: where int8 costs too much AP, look for layers to keep in float32, for as long as it takes.
        out: the file. None: beside the model, under its name; of a hub's model `NAME/model.onnx`.
        score_threshold: the file's own score threshold; every call may give another. "auto" takes those that were found
            for the model's classes, or 0.5 where none were.
        nms, iou_threshold, class_agnostic, max_detections: fields of `Selection`; "soft" is Gaussian soft-NMS. None
            keeps the model's own.
        tile, tile_overlap: how users of the file cut images into tiles; see `changed_tiling`. None keeps the model's.
        display: where messages go.

    Raises:
        UserError: no model, an unknown format or precision, a missing package, or an fp32 file whose detections are
            not its model's.
    """
    display, kind = command_display(display), _format(format, precision)
    path = Path(out) if out is not None else named_file(model).with_suffix(kind.suffix)
    if path.suffix != kind.suffix:
        raise UserError(f"--out {path}: the format {format} ends in {kind.suffix}")
    if format_of(model) is not None:
        raise UserError(f"{model}: exported already; give the run or the model file that it was made of")
    loaded = load_model(model)
    selection = loaded.selection.changed(
        score_threshold=None if score_threshold == "auto" else score_threshold,
        nms=nms,
        iou_threshold=iou_threshold,
        class_agnostic=class_agnostic or None,
        max_detections=max_detections,
    )
    loaded.detector.tiling = changed_tiling(loaded.detector.tiling, tile, tile_overlap)
    origin = {key: loaded.header[key] for key in ("sha256", "imported_from") if key in loaded.header}
    make_folder(path.parent)
    images = None
    if precision == "int8" and calibration is not None:
        images = calibration_for(calibration, loaded, search=search, display=display)
    exported = ModelToExport(
        loaded.detector, loaded.categories, selection, origin, precision, images, loaded.calibration
    )
    display.say(f"{loaded.detector.name}, {counted(len(loaded.categories), 'class')}: writing {path}")
    try:
        with display.stage("writing", 0):
            kind.write(exported, path)
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'onestage[{kind.extra}]'") from error
    agreement = _read_back(exported, kind, path, display)
    display.say(f"written: {path}, {format} {precision} of {model}, {kind.megabytes(path):.1f} MB, in {display.took}")
    return Exported(path, agreement)


def _format(name: str, precision: str) -> ExportFormat:
    if name not in FORMATS:
        raise UserError(f"format {name!r}: expected {', '.join(FORMATS)}")
    kind = FORMATS[name]
    if precision not in kind.precisions:
        others = [other for other, one in FORMATS.items() if precision in one.precisions]
        advice = f"; --format {others[0]} has it" if others else ""
        raise UserError(f"precision {precision!r}: the format {name} has {', '.join(kind.precisions)}{advice}")
    return kind


def _read_back(exported: ModelToExport, kind: ExportFormat, path: Path, display: Display) -> Agreement:
    """Compare file and model; an fp32 file that finds something else is removed, and raises a UserError."""
    with display.stage("reading back", 0):
        agreement = _compare(exported, kind.open_session(path, "cpu"))
    if exported.precision != "fp32":
        display.say(f"{exported.precision} moves boxes and scores a little; onestage evaluate {path} DATA measures it")
        return agreement
    display.say(f"read back: {agreement}")
    if agreement.share < LEAST_SHARE:
        for file in kind.files(path):
            file.unlink(missing_ok=True)
        raise UserError(f"{path}: finds something else than the model ({agreement}); the file was removed")
    return agreement


def _compare(exported: ModelToExport, session: Session) -> Agreement:
    """Compare file and model on drawn images, which the file resizes itself."""
    threshold = exported.detector.evaluation_selection.score_threshold
    selection = exported.selection.changed(score_threshold=threshold)
    images = [draw_image(np.random.default_rng(seed), size).image for seed, size in enumerate(CHECKED_SIZES)]
    original = Predictor(exported.detector, exported.categories, selection, device="cpu", precision="fp32")
    original.tiling = None
    found = [as_detections(one) for one in session(images, threshold)]
    return compare([original(image) for image in images], found)
