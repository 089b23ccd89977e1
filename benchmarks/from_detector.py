"""Start from a trained detector, or from ImageNet: AP50 on the test images after the same minutes.

    python benchmarks/from_detector.py NEU-DET BCCD --out FOLDER [--scenarios more-classes] [--parts 0.1] [--minutes 5]

| scenario | trained first on | then on |
|---|---|---|
| bccd | NEU-DET | BCCD |
| neu-det | BCCD | NEU-DET |
| more-classes | NEU-DET, images of three of its six classes | NEU-DET, all six |
| other-half | half of NEU-DET's training images | the other half |
| keep | BCCD, two of its three classes | BCCD, where only the third is labelled; figures of the two and the third |

It runs for hours: every result is written to FOLDER/results.json as it comes, and a second call runs what is missing.
With `--pace`, runs count steps instead of minutes, as many as a machine of so many images a second takes, so that other
work beside does not matter.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

import onestage
from onestage.data.table import Table
from onestage.data.writing import write_voc
from onestage.data_options import DataOptions
from onestage.jobs.convert import read_all_splits
from onestage.structures import Categories
from onestage.terminal import Display
from onestage.whole_file import write_whole

FIRST = {"bccd": "neu-det", "neu-det": "bccd", "more-classes": "three-classes", "other-half": "first-half"}
THEN = {"bccd": "bccd", "neu-det": "neu-det", "more-classes": "neu-det", "other-half": "second-half"}
OLD, NEW = ("RBC", "WBC"), ("Platelets",)  # of scenario keep
BATCH = 16


@dataclass(frozen=True)
class Options:
    """What is measured."""

    neu_det: Annotated[Positional[Path], tyro.conf.arg(metavar="NEU-DET")]
    bccd: Annotated[Positional[Path], tyro.conf.arg(metavar="BCCD")]
    out: Path
    scenarios: tuple[str, ...] = ("bccd", "neu-det", "more-classes", "other-half", "keep")
    parts: tuple[float, ...] = (0.1, 0.25, 1.0)
    minutes: tuple[float, ...] = (2.0, 5.0, 15.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    first_minutes: float = 10.0
    detector: str = "ssd300-tf_efficientnet_lite0"
    backbone_weights: str = "imagenet"
    pace: float | None = None
    settings: tuple[tuple[str, str], ...] = ()
    """Settings of the recipe of runs that start from a detector, to try others: learning_rate 0.0005 ..."""


@dataclass(frozen=True)
class Job:
    """One training."""

    scenario: str
    start: str  # imagenet, detector; of scenario keep drop, label
    part: float
    minutes: float
    seed: int
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        words = (self.scenario, self.start, f"{self.part:g}", f"{self.minutes:g}", self.seed, *sum(self.settings, ()))
        return " ".join(map(str, words))


def write_data(options: Options) -> dict[str, Path]:
    """The data sets that are drawn from the two, as VOC folders."""
    folders = {"neu-det": options.neu_det, "bccd": options.bccd}
    neu, bccd = (read_all_splits(str(folder), Display()) for folder in folders.values())
    three = next(iter(neu.values())).categories.names[:3]
    halves = {
        name: {**neu, "trainval": _half(neu["trainval"], first)}
        for first, name in enumerate(("second-half", "first-half"))
    }
    drawn = {
        "three-classes": {split: only(table, three, whole_images=True) for split, table in neu.items()},
        **halves,
        "old": {split: only(table, OLD) for split, table in bccd.items()},
        "new": {split: only(table, NEW) for split, table in bccd.items()},
    }
    for name, tables in drawn.items():
        folders[name] = options.out / "data" / name
        if not folders[name].exists():
            write_voc(tables, folders[name])
    return folders


def only(table: Table, names: tuple[str, ...], *, whole_images: bool = False) -> Table:
    """The objects of some classes; with `whole_images`, the images alone that show nothing else."""
    wanted = np.isin(table.labels, [table.categories.label_of[name] for name in names])
    image = table.ground_truth().image_index
    if whole_images:
        others = set(image[~wanted].tolist())
        return only(table.subset(indices=[row for row in range(len(table)) if row not in others]), names)
    columns: dict[str, Any] = {
        name: getattr(table, name)[wanted] for name in ("boxes_xyxy", "ignored", "difficult", "areas")
    }
    counts = np.bincount(image[wanted], minlength=len(table))
    new_label = np.full(len(table.categories), -1)
    new_label[[table.categories.label_of[name] for name in names]] = range(len(names))
    return replace(
        table,
        categories=Categories.from_names(names),
        labels=new_label[table.labels[wanted]],
        first_object=np.concatenate([[0], np.cumsum(counts)]),
        **columns,
    )


def _half(table: Table, first: int) -> Table:
    """Every other image."""
    return table.subset(indices=range(first, len(table), 2))


def train(options: Options, data: Path, out: Path, minutes: float, seed: int, **more: Any) -> dict[str, Any]:
    """Train, unless the folder holds the run; its metrics."""
    if not (out / "metrics.json").exists():
        steps = None if options.pace is None else round(60 * minutes * options.pace / BATCH)
        length = {"minutes": minutes} if steps is None else {"steps": steps}
        settings = {"evaluations": 2} | more.pop("settings", {})
        onestage.train(str(data), out=out, seed=seed, settings=settings, resume=out.exists(), **length, **more)
    return json.loads((out / "metrics.json").read_text())


def run(options: Options, job: Job, folders: dict[str, Path]) -> dict[str, float]:
    """Train the first detector where it is not there yet, then the second; its AP50, in points."""
    imagenet = {"detector": options.detector, "backbone_weights": options.backbone_weights}
    first = "old" if job.scenario == "keep" else FIRST[job.scenario]
    first_run, out = options.out / "first" / first, options.out / "runs" / job.key.replace(" ", "_")
    if job.start != "imagenet":
        train(options, folders[first], first_run, options.first_minutes, 0, **imagenet)
    begin = (
        imagenet
        if job.start == "imagenet"
        else {"start_from": first_run, "settings": {name: json.loads(value) for name, value in job.settings}}
    )
    if job.scenario == "keep":
        begin |= {"old_classes": job.start} if job.start != "imagenet" else {}
        train(options, folders["new"], out, job.minutes, job.seed, subset=job.part, **begin)
        known = folders["new" if job.start == "drop" else "bccd"]  # a model does not take classes that it lacks
        clean = DataOptions(skip_bad_data=True)  # as the two drawn sets lack what is bad in BCCD
        voc = onestage.evaluate(out, str(known), split="test", out=out / "all", data_options=clean)["voc"]
        return {f"{'new' if name in NEW else 'old'} {name}": of_class(voc, name) for name in (*OLD, *NEW)}
    voc = train(options, folders[THEN[job.scenario]], out, job.minutes, job.seed, subset=job.part, **begin)["voc"]
    return {"AP50": 100 * voc["map_area"]}


def of_class(voc: dict[str, Any], name: str) -> float:
    """AP50 of a class, in points; 0 where the model does not have it."""
    return 100 * (voc["per_class"].get(name, {}).get("ap_area") or 0.0)


def jobs(options: Options) -> list[Job]:
    """All that is asked for, the first seed of everything first."""
    starts = {name: ("imagenet", "detector") for name in FIRST} | {"keep": ("drop", "label")}
    return [
        Job(scenario, start, part, minutes, seed, () if start == "imagenet" else options.settings)
        for seed, scenario, part, minutes in product(options.seeds, options.scenarios, options.parts, options.minutes)
        for start in starts[scenario]
    ]


def print_results(results: dict[str, dict[str, float]], wanted: list[Job]) -> None:
    """Mean and deviation over the seeds that are there, a line for each scenario, part, length and start."""
    print("| scenario | start | part | minutes | seeds | AP50, points |\n|---|---|---|---|---|---|")
    for job in [job for job in wanted if job.seed == wanted[0].seed]:
        found = [results[one.key] for one in wanted if one.key in results and replace(one, seed=job.seed) == job]
        if not found:
            continue
        shown = []
        for name in found[0]:
            values = [one[name] for one in found]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            shown.append(f"{name} {statistics.mean(values):.1f}{spread}")
        start = " ".join((job.start, *sum(job.settings, ())))
        print(f"| {job.scenario} | {start} | {job.part:g} | {job.minutes:g} | {len(found)} | {', '.join(shown)} |")


def main(options: Options) -> None:
    """Run what is missing, and print the table."""
    file = options.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    folders, wanted = write_data(options), jobs(options)
    for number, job in enumerate(wanted, 1):
        if job.key not in results:
            print(f"--- {number} of {len(wanted)}: {job.key}", flush=True)
            results[job.key] = run(options, job, folders)
            write_whole(file, json.dumps(results, indent=1).encode())
    print_results(results, wanted)


if __name__ == "__main__":
    main(tyro.cli(Options))
