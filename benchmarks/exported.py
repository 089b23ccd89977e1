"""An exported file against its model on real pictures: the same detections, the same AP, how fast.

python benchmarks/exported.py runs/mine MY-DATA
python benchmarks/exported.py runs/mine MY-DATA --pictures 100
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

import onestage
from onestage.data import choose_splits
from onestage.evaluation import measure
from onestage.export.check import compare
from onestage.inference.pictures import PicturePredictor
from onestage.jobs.dataset import open_dataset
from onestage.structures import Detections, DetectionTable
from onestage.training.logging import Display

ROUNDS = 3


@dataclass(frozen=True)
class Options:
    """What to compare."""

    model: Annotated[str, tyro.conf.Positional]
    data: Annotated[str, tyro.conf.Positional]
    pictures: int = 100


def main(options: Options) -> None:
    display = Display(Console(quiet=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        exported = onestage.export_model(options.model, out=path, display=display)
        predictors: dict[str, PicturePredictor] = {
            "torch": onestage.load(options.model, device="cpu", precision="fp32"),
            "onnx": onestage.load(path),
        }
    print(f"drawn pictures: {exported.agreement}")
    some = predictors["torch"]
    split = choose_splits(options.data).test
    table = open_dataset(options.data, split, display=display, skip_bad_data=True, categories=some.categories)
    table = table.subset(count=min(options.pictures, len(table)))
    files = [table.image_path(index) for index in range(len(table))]
    found: dict[str, list[Detections]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(ROUNDS):
        for name, predictor in predictors.items():
            predictor.selection = predictor.papers_selection
            started = time.perf_counter()
            found[name] = predictor(files)
            seconds[name].append(time.perf_counter() - started)
    print(f"{options.data}: {compare(found['torch'], found['onnx'])}")
    for name, detections in found.items():
        voc = measure(table.ground_truth(), DetectionTable.from_detections(detections), table.categories).metrics["voc"]
        rate = len(files) / statistics.median(seconds[name])
        print(f"{name:6} map_area {voc['map_area']:.4f}, {rate:.1f} pictures/s")


if __name__ == "__main__":
    main(tyro.cli(Options))
