"""Detectors beside each other: trained for the same minutes, then average precision over images a second.

    python benchmarks/pareto.py NEU-DET --out OUT --environments ENVS --backbone-weights lite0.safetensors --minutes 5

Each is trained by its own defaults on the same images (train, val, test of one folder, as COCO and as YOLO), exported
as its package does it (OpenVINO int8 where it can), and finds objects in the test images one file at a time. One judge
for all: VOC's AP50 and COCO's AP of `onestage evaluate`. Images a second are from the file to boxes in a list, medians
of processes that take turns.

`--environments` holds a virtual environment a package: `ultralytics`, `libreyolo` (with its extra openvino) and
`getitune`; `pip install PACKAGE nncf openvino` makes one. Whoever lacks its environment, or fails, is named at the end
with the reason. OUT/results.json keeps what is done; a second call runs the rest.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from line_plot import line_plot
from side_by_side import machine
from tyro.conf import Positional

from onestage.data import AS_IT_IS, choose_splits, read_dataset
from onestage.data.table import Table
from onestage.data.writing import write_coco, write_yolo
from onestage.evaluation import measure
from onestage.structures import DetectionTable
from onestage.whole_file import write_whole

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Peer:
    """A detector: who trains it, and from what."""

    script: str  # in peers/
    model: str
    imagenet: bool = False  # its backbone starts from ImageNet weights
    environment: str | None = None  # ours

    @property
    def folder(self) -> Path:
        """Of its run, below `runs`."""
        return Path(self.script) / (self.model if self.imagenet else f"{self.model}-scratch")


KNOWN = {
    "onestage gfl-lite0": Peer("ours", "gfl-tf_efficientnet_lite0", imagenet=True),
    "onestage ssd-lite0": Peer("ours", "ssd300-tf_efficientnet_lite0", imagenet=True),
    "onestage gfl-lite0, scratch": Peer("ours", "gfl-tf_efficientnet_lite0"),
    "torchvision SSD, lite0": Peer("torchvision_detectors", "ssd", imagenet=True),
    "torchvision RetinaNet, lite0": Peer("torchvision_detectors", "retinanet", imagenet=True),
    "torchvision SSDlite320, scratch": Peer("torchvision_detectors", "ssdlite320"),
    "YOLO11n 320, scratch": Peer("ultralytics_yolo", "yolo11n-320", environment="ultralytics"),
    "YOLO26n 320, scratch": Peer("ultralytics_yolo", "yolo26n-320", environment="ultralytics"),
    "LibreYOLO PicoDet-s, scratch": Peer("libreyolo_detectors", "picodet-s", environment="libreyolo"),
    "LibreYOLO YOLOX-n, scratch": Peer("libreyolo_detectors", "yolox-n", environment="libreyolo"),
    "getitune SSD, scratch": Peer("getitune_detectors", "ssd_mobilenetv2", environment="getitune"),
    "getitune ATSS, scratch": Peer("getitune_detectors", "atss_mobilenetv2", environment="getitune"),
}


@dataclass(frozen=True)
class Options:
    """What is compared."""

    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")]
    out: Path
    environments: Path
    backbone_weights: Path
    minutes: float = 5.0
    seed: int = 0
    peers: tuple[str, ...] = tuple(KNOWN)
    timed_images: int = 100
    rounds: int = 5


# --- data


def write_data(options: Options) -> Table:
    """The three splits as COCO and as YOLO, unless they are there; the test table."""
    splits = choose_splits(options.data)
    tables: dict[str, Table] = {}
    for role, split in (("train", splits.train), ("val", splits.choose), ("test", splits.evaluated)):
        known = tables["train"].categories if tables else None
        tables[role], _ = read_dataset(options.data, split, known, options=AS_IT_IS)
    for form, write in (("coco", write_coco), ("yolo", write_yolo)):
        if not (options.out / "data" / form).exists():
            write(tables, options.out / "data" / form)
    return tables["test"]


# --- running a peer


def call(options: Options, peer: Peer, *words: object) -> None:
    """Run its script in its environment; what it says goes to OUT/log.txt."""
    python = sys.executable if peer.environment is None else options.environments / peer.environment / "bin" / "python"
    command = [str(python), str(PEERS / f"{peer.script}.py"), *map(str, words), "--model", peer.model]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"}
    with (options.out / "log.txt").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=options.out, env=offline)


def train_and_find(options: Options, name: str, run: Path, test: Table) -> dict[str, Any]:
    """Train a peer unless it is trained, and what it finds in the test images."""
    peer = KNOWN[name]
    if not (run / "seconds.json").exists():
        weights = ("--weights", options.backbone_weights.resolve()) if peer.imagenet else ()
        minutes = ("--minutes", options.minutes, "--seed", options.seed)
        call(options, peer, "train", options.out.resolve() / "data", run, *minutes, *weights)
    found = run / "found.json"
    call(options, peer, "find", run, options.out.resolve() / "data/coco/images/test", "--out", found)
    measured = measure(
        test.ground_truth(), detections(json.loads(found.read_text())["detections"], test), test.categories
    )
    seconds = json.loads((run / "seconds.json").read_text())
    return {"AP50": 100 * measured.voc.map_area, "AP": 100 * measured.coco["AP"], "seconds": seconds}


def detections(rows: list[dict[str, Any]], test: Table) -> DetectionTable:
    """What a peer wrote, as the metrics take it."""
    number = {test.image_path(index).name: index for index in range(len(test))}
    return DetectionTable(
        np.array([number[row["file"]] for row in rows], dtype=np.int64),
        np.array([row["label"] for row in rows], dtype=np.int64),
        np.array([row["score"] for row in rows], dtype=np.float64),
        np.array([row["box_xyxy"] for row in rows], dtype=np.float64).reshape(-1, 4),
    )


def rates(options: Options, names: list[str], runs: dict[str, Path]) -> dict[str, list[float]]:
    """Images a second of each in each round, by the median over images; slowest round first."""
    images = options.out.resolve() / "data/coco/images/test"
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            timed = runs[name] / "timed.json"
            call(options, KNOWN[name], "find", runs[name], images, "--out", timed, "--first", options.timed_images)
            found[name].append(1 / statistics.median(json.loads(timed.read_text())["seconds"]))
    return {name: sorted(values) for name, values in found.items()}


# --- what is told


def show(options: Options, results: dict[str, dict[str, Any]], failed: dict[str, str]) -> None:
    """The table, and OUT/pareto.svg."""
    print(f"{options.data.name}, {options.minutes:g} minutes, seed {options.seed}; {machine()}\n")
    print("| detector | AP50 | AP | trained for, min | images/s |\n|---|---|---|---|---|")
    for name, one in sorted(results.items(), key=lambda item: -item[1]["AP"]):
        pace = f"{statistics.median(one['rates']):.1f} ({one['rates'][0]:.0f} to {one['rates'][-1]:.0f})"
        cells = (f"{one['AP50']:.1f}", f"{one['AP']:.1f}", f"{one['seconds'] / 60:.1f}", pace)
        print(f"| {name} | {' | '.join(cells)} |")
    for name, reason in failed.items():
        print(f"\n{name}: not measured: {reason}")
    points = {name: [(statistics.median(one["rates"]), one["AP"])] for name, one in results.items()}
    plot = line_plot(points, ("images a second, from a file, one at a time", "COCO AP"), "AP over images a second")
    (options.out / "pareto.svg").write_text(plot)


def main(options: Options) -> None:
    """Train who is not trained, measure, time all in turn."""
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    test, failed = write_data(options), {}
    runs = {name: options.out.resolve() / "runs" / KNOWN[name].folder for name in options.peers}
    for name in options.peers:
        if name not in results:
            print(f"--- {name}", flush=True)
            try:
                results[name] = train_and_find(options, name, runs[name], test)
            except (OSError, subprocess.CalledProcessError) as error:
                failed[name] = f"{error}; the end of {options.out / 'log.txt'} says more"
                continue
            write_whole(file, json.dumps(results, indent=1).encode())
    there = [name for name in options.peers if name in results]
    for name, of_rounds in rates(options, there, runs).items():
        results[name]["rates"] = of_rounds
    write_whole(file, json.dumps(results, indent=1).encode())
    show(options, {name: results[name] for name in there}, failed)


if __name__ == "__main__":
    main(tyro.cli(Options))
