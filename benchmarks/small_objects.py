"""Small objects on drawn boards: AP50 on test after the same minutes, with tiles, without, with a larger input.

    python benchmarks/small_objects.py --out FOLDER [--boards boards] [--ways auto] [--minutes 8] [--seeds 0 1 2]

| boards | images | marks |
|---|---|---|
| boards | 640 x 640 px, 300 train, 100 test | 8 of 12 to 24 px, six kinds |
| large | 4,000 x 3,000 px, 48 train, 12 test | 30 of 24 px, six kinds |

| way | what is trained |
|---|---|
| auto | what `onestage train` chooses by itself |
| tiles | tiles: `--tile auto` |
| none | whole images at the usual input: `--tile none` |
| 800 | whole images at another one: `--tile none --image-size 800`; multiples of 32 for every detector |

Every result is written to FOLDER/results.json as it comes, and a second call runs what is missing. `--pace` and
`--settings` are as in `from_detector.py`.
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
from onestage.data.generated_marks import write_marks_voc
from onestage.whole_file import write_whole

BOARDS: dict[str, dict[str, Any]] = {
    "boards": {"size_hw": (640, 640), "sides": (12, 24), "count": 8, "train": 300, "test": 100},
    "large": {"size_hw": (3000, 4000), "sides": (24, 24), "count": 30, "train": 48, "test": 12},
}
BATCH = 16


@dataclass(frozen=True)
class Options:
    """What is measured."""

    out: Path
    boards: tuple[str, ...] = ("boards", "large")
    ways: tuple[str, ...] = ("auto", "tiles", "none")
    minutes: float = 30.0
    seeds: tuple[int, ...] = (0, 1, 2)
    detector: str = "ssd300-tf_efficientnet_lite0"
    backbone_weights: str = "imagenet"
    pace: float | None = None
    settings: tuple[tuple[str, str], ...] = ()


def run(options: Options, boards: str, way: str, seed: int) -> dict[str, float]:
    """Train one detector; its AP50 and COCO's AP on the test images, in points."""
    data = options.out / "data" / boards
    if not data.exists():
        write_marks_voc(data, **BOARDS[boards])
    settings: dict[str, Any] = {"evaluations": 2} | {name: json.loads(value) for name, value in options.settings}
    settings |= {"auto": {}, "tiles": {"tile": "auto"}}.get(way, {"tile": "none"})
    settings |= {"image_size": int(way)} if way.isdigit() else {}
    length: dict[str, Any] = {"minutes": options.minutes}
    if options.pace is not None:
        length = {"steps": round(60 * options.minutes * options.pace / BATCH)}
    result = onestage.train(
        str(data),
        detector=options.detector,
        out=options.out / "runs" / f"{boards}-{way}-{options.minutes:g}-{seed}",
        backbone_weights=options.backbone_weights,
        seed=seed,
        settings=settings,
        **length,
    )
    return {"AP50": 100 * result.metrics["voc"]["map_area"], "AP": 100 * result.metrics["coco"]["AP"]}


def main(options: Options) -> None:
    """Run what is missing, and print the table."""
    file = options.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    cases = list(product(options.boards, options.ways))
    for seed, (boards, way) in product(options.seeds, cases):
        key = f"{boards} {way} {options.minutes:g} {seed}"
        if key not in results:
            results[key] = run(options, boards, way, seed)
            write_whole(file, json.dumps(results, indent=1).encode())
    print("| boards | way | seeds | AP50 | COCO's AP |\n|---|---|---|---|---|")
    for boards, way in cases:
        found = [results[f"{boards} {way} {options.minutes:g} {seed}"] for seed in options.seeds]
        shown = []
        for name in ("AP50", "AP"):
            values = [one[name] for one in found]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            shown.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| {boards} | {way} | {len(found)} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
