"""One change of the made recipe at a time: AP50 and COCO's AP on test after the same minutes.

    python benchmarks/ablation.py --out FOLDER --data neu-det=FOLDER bccd=FOLDER [--changes none gfl] [--minutes 5]

Beside the sets given there are two drawn ones: `small`, boards of 640 px with marks of 12 to 24 px, and `rare`, the
demo's drawings, where 15 of the training images have a star and half of those that test do.

The protocol: machines differ in pace from one hour to the next, so runs count steps. First it takes 40 steps with each
change on each set, beside which nothing else may run, and notes the images a second; a run then has the steps that fit
the minutes at that pace. Other work beside a run makes it longer, not worse. It runs for hours: every result is written
to FOLDER/results.json as it comes, and a second call runs what is missing. `--settings` are of the recipe that is
changed, to go on from what won.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import tyro

import onestage
from onestage.data.generated import write_generated_voc
from onestage.data.generated_marks import write_marks_voc
from onestage.data.writing import write_voc
from onestage.data_options import DataOptions
from onestage.jobs.convert import read_all_splits
from onestage.jobs.train import TrainResult
from onestage.terminal import Display
from onestage.training.journal import read_log
from onestage.whole_file import write_whole

RARE, RARE_IMAGES = "star", 15
PACE_STEPS = 40

# Each change: a detector in place of the usual one ("FAMILY-" takes its backbone), or settings of the recipe.
CHANGES: dict[str, dict[str, Any]] = {
    "none": {},
    "ssd": {"detector": "ssd300-"},
    "gfl": {"detector": "gfl-"},
    "retinanet": {"detector": "retinanet-"},
    "gfl atss": {"detector": "gfl-", "assignment": "atss"},
    "size 224": {"image_size": 224},
    "size 256": {"image_size": 256},
    "size 256, batch 8": {"image_size": 256, "batch_size": 8, "learning_rate": 1.4e-3},
    "size 224, batch 8": {"image_size": 224, "batch_size": 8, "learning_rate": 1.4e-3},
    "size 288": {"image_size": 288},
    "size 384": {"image_size": 384},
    "batch 8": {"batch_size": 8, "learning_rate": 1.4e-3},
    "batch 32": {"batch_size": 32, "learning_rate": 2.8e-3},
    "rate halved": {"learning_rate": 1e-3},
    "rate doubled": {"learning_rate": 4e-3},
    "backbone rate 0.25": {"backbone_learning_rate_factor": 0.25},
    "backbone rate 1": {"backbone_learning_rate_factor": 1.0},
    "stem trains": {"train_stem": True},
    "no EMA": {"ema_decay": "none"},
    "EMA 0.99": {"ema_decay": 0.99},
    "decay 0.005": {"weight_decay": 0.005},
    "cosine": {"schedule": "cosine"},
    "texture": {"augmentation.flip.vertical_probability": 0.5, "augmentation.flip.quarter_turn_probability": 0.5},
    "no crop": {"augmentation.crop.probability": 0.0},
    "no expansion": {"augmentation.expand.probability": 0.0},
    "wide scale": {"augmentation.expand.max": 4.0, "augmentation.crop.min_side": 0.3},
    "no colour": {"augmentation.colour.probability": 0.0},
}


@dataclass(frozen=True)
class Options:
    """What is measured."""

    out: Path
    data: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()  # names of those to use; none: all that are given, and the drawn ones
    changes: tuple[str, ...] = tuple(CHANGES)
    minutes: float = 5.0
    seeds: tuple[int, ...] = (0, 1, 2)
    detector: str = "ssd300-tf_efficientnet_lite0"
    backbone_weights: str = "imagenet"
    settings: tuple[tuple[str, str], ...] = ()


class Benchmark:
    """The results so far, and what makes more of them."""

    def __init__(self, options: Options) -> None:
        self.options, self.file = options, options.out / "results.json"
        stored = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.paces: dict[str, float] = stored.get("images a second", {})
        self.results: dict[str, dict[str, float]] = stored.get("results", {})
        given = dict(entry.split("=", 1) for entry in options.data)
        self.folders = {**{name: Path(folder) for name, folder in given.items()}, **drawn_sets(options.out / "data")}
        self.sets = options.sets or tuple(self.folders)

    def write(self) -> None:
        """Keep what is there."""
        text = json.dumps({"images a second": self.paces, "results": self.results}, indent=1)
        self.options.out.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, text.encode())

    def train(self, data: str, change: str, seed: int, out: Path, **length: Any) -> TrainResult:
        """Train once, by the recipe that `onestage train` makes, with the change."""
        settings = {name: json.loads(value) for name, value in self.options.settings} | CHANGES[change]
        family = settings.pop("detector", None)
        detector = self.options.detector
        if family is not None:
            detector = family + detector.partition("-")[2] if family.endswith("-") else family
        return onestage.train(
            str(self.folders[data]),
            detector=detector,
            out=out,
            backbone_weights=self.options.backbone_weights,
            seed=seed,
            settings={"evaluations": 1, **settings},
            data_options=DataOptions(skip_bad_data=True),
            **length,
        )

    def measure_pace(self, data: str, change: str) -> None:
        """Note the images a second that this machine trains, without other work beside it."""
        out = self.options.out / "paces" / f"{data}-{change}".replace(" ", "_")
        self.train(data, change, 0, out, steps=PACE_STEPS)
        rows = read_log(out / "log.csv")[1:]  # the first has what is made at the first steps
        self.paces[f"{data}, {change}"] = statistics.median(row["images_per_second"] or 0.0 for row in rows)
        self.write()

    def run(self, data: str, change: str, seed: int) -> None:
        """Train for as many steps as fit the minutes, and note the figures on test, in points."""
        options = self.options
        out = options.out / "runs" / f"{data}-{change}-{options.minutes:g}-{seed}".replace(" ", "_")
        images = 60 * options.minutes * self.paces[f"{data}, {change}"]
        recipe = json.loads((options.out / "paces" / f"{data}-{change}".replace(" ", "_") / "recipe.json").read_text())
        metrics = self.train(data, change, seed, out, steps=round(images / recipe["batch_size"])).metrics
        found = {"AP50": 100 * metrics["voc"]["map_area"], "AP": 100 * metrics["coco"]["AP"]}
        if data == "rare":
            found["AP50 of the rare class"] = 100 * (metrics["voc"]["per_class"][RARE]["ap_area"] or 0.0)
        self.results[self.key(data, change, seed)] = found
        self.write()

    def key(self, data: str, change: str, seed: int) -> str:
        """The name of a result."""
        return f"{data}, {change}, {self.options.minutes:g} minutes, seed {seed}"

    def table(self) -> str:
        """Means and deviations over the seeds that are there, a line for each set and change."""
        lines = ["| set | change | images a second | seeds | mean on test, points |", "|---|---|---|---|---|"]
        for data, change in product(self.sets, self.options.changes):
            keys = [self.key(data, change, seed) for seed in self.options.seeds]
            found = [self.results[key] for key in keys if key in self.results]
            if found:
                figures = ", ".join(f"{name} {_spread([one[name] for one in found])}" for name in found[0])
                pace = self.paces[f"{data}, {change}"]
                lines.append(f"| {data} | {change} | {pace:.1f} | {len(found)} | {figures} |")
        return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def drawn_sets(root: Path) -> dict[str, Path]:
    """The two sets that are drawn; drawn now if they are not there."""
    small, rare, usual = root / "small", root / "rare", root / "usual"
    if not small.exists():
        write_marks_voc(small)
    if not rare.exists():
        write_generated_voc(usual, train=1200, test=300)
        tables = read_all_splits(str(usual), Display())
        train, label = tables["trainval"], tables["trainval"].categories.label_of[RARE]
        having = {row for row in range(len(train)) if label in train.objects(row).labels}
        kept = [row for row in range(len(train)) if row not in having or row in sorted(having)[:RARE_IMAGES]]
        write_voc({**tables, "trainval": train.subset(indices=kept)}, rare)
    return {"small": small, "rare": rare}


def main(options: Options) -> None:
    """Run what is missing, and print the table."""
    benchmark = Benchmark(options)
    cases = list(product(benchmark.sets, options.changes))
    for data, change in cases:
        if f"{data}, {change}" not in benchmark.paces:
            benchmark.measure_pace(data, change)
    for seed, (data, change) in product(options.seeds, cases):
        if benchmark.key(data, change, seed) not in benchmark.results:
            print(f"--- {benchmark.key(data, change, seed)}", flush=True)
            benchmark.run(data, change, seed)
    print(benchmark.table())


if __name__ == "__main__":
    main(tyro.cli(Options))
