"""Exported files and their model on real images: common detections, AP, images a second.

python benchmarks/exported.py runs/mine MY-DATA
python benchmarks/exported.py runs/mine MY-DATA --formats onnx openvino openvino-int8 --images 300

int8 is calibrated on MY-DATA's training images. Predictors resize images when they read them; in the column "whole"
the file resizes them itself. The rate is that of the predictor from image files to detections, reading included.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table as PrintedTable

import onestage
from onestage.data import choose_splits
from onestage.data.table import Table
from onestage.data_options import DataOptions
from onestage.evaluation import measure
from onestage.export import FORMATS
from onestage.export.base import as_detections
from onestage.export.check import compare
from onestage.inference.predictor import BasePredictor, ExportedPredictor
from onestage.jobs.dataset import open_dataset
from onestage.runtime.decode import decode_image
from onestage.structures import Detections, DetectionTable
from onestage.terminal import Display

ROUNDS = 3
QUIET = Display(Console(quiet=True))
AT_ONCE = 8
Target = Literal["onnx", "openvino", "openvino-bf16", "openvino-int8"]
EXPORTS: dict[Target, tuple[str, str]] = {  # format, precision
    "onnx": ("onnx", "fp32"),
    "openvino": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
    "openvino-int8": ("openvino", "int8"),
}


@dataclass(frozen=True)
class Options:
    """A model, a data set, and the formats to compare."""

    model: Annotated[str, tyro.conf.Positional]
    data: Annotated[str, tyro.conf.Positional]
    formats: tuple[Target, ...] = ("onnx",)
    images: int = 100
    """Number of images, drawn from the test split by a fixed seed; all where it has fewer."""


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        predictors = {"the model": onestage.load(options.model, device="cpu", precision="fp32")}
        predictors |= {target: _exported(options, target, Path(folder)) for target in options.formats}
        table = _test_images(options, predictors["the model"])
        files = [table.image_path(index) for index in range(len(table))]
        found, rates = _run(predictors, files)
        whole = {name: _whole(one, files) for name, one in predictors.items() if isinstance(one, ExportedPredictor)}
    printed = PrintedTable(
        "", "in common with the model", "largest difference", "in common, whole", "map_area", "images/s"
    )
    for name, detections in found.items():
        same = compare(found["the model"], detections)
        printed.add_row(
            name,
            f"{same.same:,} of {same.of:,} ({same.share:.2%})",
            f"{same.largest_offset:.2g} px, {same.largest_score_difference:.2g} of score",
            f"{compare(found['the model'], whole[name]).share:.2%}" if name in whole else "",
            f"{_map_area(table, detections):.4f}",
            f"{rates[name]:.1f}",
        )
    console = Console()
    console.print(f"{options.data}: {len(table)} test images")
    console.print(printed)


def _exported(options: Options, target: Target, folder: Path) -> BasePredictor:
    format_, precision = EXPORTS[target]
    exported = onestage.export_model(
        options.model,
        format=format_,
        precision=precision,
        calibration=options.data if precision == "int8" else None,
        out=folder / f"{target}{FORMATS[format_].suffix}",
        display=QUIET,
    )
    return onestage.load(exported.path, device="cpu")


def _test_images(options: Options, predictor: BasePredictor) -> Table:
    split = choose_splits(options.data, hold_out=False).test
    table = open_dataset(
        options.data, split, display=QUIET, options=DataOptions(skip_bad_data=True), categories=predictor.categories
    )
    return table.subset(count=min(options.images, len(table)))


def _run(
    predictors: dict[str, BasePredictor], files: Sequence[Path]
) -> tuple[dict[str, list[Detections]], dict[str, float]]:
    """Detections and images a second of each predictor; the rate is the median of rounds in turn."""
    found: dict[str, list[Detections]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(ROUNDS):
        for name, predictor in predictors.items():
            predictor.selection = predictor.papers_selection
            started = time.perf_counter()
            found[name] = predictor(files)
            seconds[name].append(time.perf_counter() - started)
    return found, {name: len(files) / statistics.median(times) for name, times in seconds.items()}


def _whole(predictor: ExportedPredictor, files: Sequence[Path]) -> list[Detections]:
    """Detections in images that the file resizes itself."""
    found: list[Detections] = []
    for start in range(0, len(files), AT_ONCE):
        images = [decode_image(file) for file in files[start : start + AT_ONCE]]
        found += map(as_detections, predictor.session(images, predictor.selection.score_threshold))
    return found


def _map_area(table: Table, detections: Sequence[Detections]) -> float:
    measured = measure(table.ground_truth(), DetectionTable.from_detections(detections), table.categories)
    return measured.metrics["voc"]["map_area"]


if __name__ == "__main__":
    main(tyro.cli(Options))
