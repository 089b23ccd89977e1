"""Write a model as one file for an engine, and hold it against the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onestage.data import choose_splits
from onestage.data.generated import draw_image
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.evaluation.voc import voc_average_precision
from onestage.export.calibration import Calibration
from onestage.export.check import Agreement, compare
from onestage.inference.exported import ExportedPredictor, in_torch
from onestage.inference.predictor import Predictor
from onestage.jobs.dataset import open_dataset
from onestage.jobs.predict import NMS
from onestage.models.model_file import LoadedModel, RunFolder, load_model
from onestage.postprocess import Selection
from onestage.runtime.exported_file import OpenVinoPrecision
from onestage.structures import Categories, Detections, DetectionTable
from onestage.terminal import Display

CHECKED_SIZES = (100, 300, 500, 1000)  # nominal sides of the drawn images that both look at
LEAST_SHARE = 0.98  # of the same detections, below which an fp32 file is not kept
CALIBRATION_IMAGES = 300

Format = Literal["onnx", "openvino"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True)
class Exported:
    """The file, and how it compares with its model."""

    path: Path
    agreement: Agreement


def export_model(
    model: str | os.PathLike[str],
    *,
    format: Format = "onnx",
    precision: OpenVinoPrecision = "fp32",
    calibration: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    score_threshold: float = 0.5,
    nms: Literal["hard", "soft"] | None = None,
    class_agnostic: bool = False,
    max_detections: int | None = None,
    display: Display | None = None,
) -> Exported:
    """Export a model: images of any size in, final detections out, class names inside.

    Args:
        model: a run folder or a model file.
        format: "onnx", one file for ONNX Runtime and others; "openvino", an xml and a bin.
        precision: of an OpenVINO file: "fp32"; "bf16", for processors with AMX or AVX-512 bf16; "int8".
        calibration: a data set's folder for "int8": its training images show what passes through the network.
        out: the file; None: beside the model, under its name.
        score_threshold: the file's own; every call may give another.
        nms: "soft" is Gaussian soft-NMS; None: as the detector's paper does it.
        class_agnostic: boxes of different classes suppress each other too.
        max_detections: at most so many an image; None: as the detector's paper.
        display: where to print.

    Raises:
        UserError: no model, a missing package, or an fp32 file that does not find what the model finds.
    """
    display = display or Display()
    loaded, path = load_model(model), _target(model, out, format, precision)
    papers = loaded.detector.evaluation_selection
    selection = replace(
        papers,
        score_threshold=float(score_threshold),
        nms=papers.nms if nms is None else NMS[nms],
        class_agnostic=class_agnostic,
        max_detections=max_detections or papers.max_detections,
    )
    origin = {key: loaded.header[key] for key in ("sha256", "imported_from") if key in loaded.header}
    export = _exporter(loaded.categories, format, precision, calibration, display)
    display.say(f"{loaded.detector.name}, {len(loaded.categories)} classes: writing {path}")
    export(loaded.detector, loaded.categories, selection, path, origin)
    files = (path, path.with_suffix(".bin")) if format == "openvino" else (path,)
    agreement = _check(loaded, path, replace(selection, score_threshold=papers.score_threshold))
    display.say(f"read back: {agreement}")
    if precision != "fp32":
        display.say(f"{precision} moves scores a little; what it costs tells: onestage evaluate {path} DATA")
    if precision == "fp32" and agreement.share < LEAST_SHARE:
        for file in files:
            file.unlink(missing_ok=True)
        raise UserError(f"{path}: finds something else than the model ({agreement}); the file was removed")
    size = sum(file.stat().st_size for file in files if file.exists())
    display.say(f"written: {path}, {size / 1e6:.1f} MB")
    return Exported(path, agreement)


def _exporter(
    categories: Categories,
    format: Format,
    precision: OpenVinoPrecision,
    calibration: str | os.PathLike[str] | None,
    display: Display,
) -> Callable[[Detector, Categories, Selection, Path, dict[str, Any]], None]:
    """What writes a file of the format. Each needs packages of its own."""
    try:
        if format == "openvino":
            from onestage.export.openvino import export_openvino

            images = _calibration(calibration, categories, display) if precision == "int8" else None
            return partial(export_openvino, precision=precision, calibration=images)
        from onestage.export.onnx import export_onnx
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'onestage[{format}]'") from error
    return export_onnx


def _target(
    model: str | os.PathLike[str], out: str | os.PathLike[str] | None, format: Format, precision: OpenVinoPrecision
) -> Path:
    if format not in SUFFIXES:
        raise UserError(f"format {format!r}: expected {', '.join(SUFFIXES)}")
    if format != "openvino" and precision != "fp32":
        raise UserError(f"precision {precision!r}: a file of the format {format} is fp32; give --format openvino")
    model_file = RunFolder(Path(model)).model if Path(model).is_dir() else Path(model)
    path = Path(out) if out is not None else model_file.with_suffix(SUFFIXES[format])
    if path.suffix != SUFFIXES[format]:
        raise UserError(f"--out {path}: the format {format} ends in {SUFFIXES[format]}")
    return path


def _calibration(data: str | os.PathLike[str] | None, categories: Categories, display: Display) -> Calibration:
    if data is None:
        raise UserError("int8 needs images to calibrate on: --calibration DATA, the training data is good")
    split = choose_splits(os.fspath(data)).train
    table = open_dataset(os.fspath(data), split, display=display, skip_bad_data=True, categories=categories)
    table = table.subset(count=min(CALIBRATION_IMAGES, len(table)))

    def map_area(places: Sequence[int], found: Sequence[Detections]) -> float:
        truth = table.subset(indices=places).ground_truth()
        value = voc_average_precision(truth, DetectionTable.from_detections(found), len(categories)).map_area
        if len(places) > 1:
            display.say(f"map_area {value:.4f} of {len(places)} calibration images")
        return float(np.nan_to_num(value))  # of images without objects

    has_objects = not table.ignored.all()
    if has_objects:
        display.say(f"map_area of {len(table)} calibration images: in float32, in int8, as operations are taken back")
    return Calibration([table.image_path(index) for index in range(len(table))], map_area if has_objects else None)


def _check(loaded: LoadedModel, path: Path, selection: Selection) -> Agreement:
    images = [draw_image(np.random.default_rng(seed), size).image for seed, size in enumerate(CHECKED_SIZES)]
    original = Predictor(loaded.detector, loaded.categories, selection, device="cpu", precision="fp32")
    exported = ExportedPredictor(path, device="cpu", selection=selection)
    found = exported.session(images, selection.score_threshold)  # whole: the file's own resizing is checked too
    return compare([original(image) for image in images], [in_torch(one) for one in found])
