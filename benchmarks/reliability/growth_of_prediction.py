"""Case `growth`: memory and open files over many predictions.

    python benchmarks/reliability/growth_of_prediction.py --predictions 1000000

One predictor of a tiny network reads small drawn JPEG files again and again. Memory is measured as in `growth.py`.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from growth import DETECTOR, MOST_SLOPE, Sample, measured, slope

import onestage
from onestage.data.generated import write_generated_voc
from onestage.structures import Detections
from onestage.terminal import quiet

REPORTS, SETTLED_REPORTS = 50, 2  # measurements, and those before which readers and heaps fill
SCORE_THRESHOLD = 0.01  # an untrained network is sure of nothing


@dataclass(frozen=True)
class Options:
    """How many, of what."""

    predictions: int = 1_000_000
    batch_size: int = 64
    images: int = 200
    drawn_size: int = 80  # nominal side of the drawn images
    image_size: int = 32  # of the network's input


def samples(root: Path, options: Options) -> Iterator[Sample]:
    """What the process has at equal distances, counted from 1."""
    write_generated_voc(root / "data", seed=0, train=options.images, test=10, size=options.drawn_size)
    settings = {"batch_size": 8, "image_size": options.image_size}
    onestage.train(
        root / "data",
        detector=DETECTOR,
        backbone_weights="none",
        out=root / "run",
        steps=2,
        settings=settings,
        display=quiet(),
    )
    predictor = onestage.load(root / "run", device="cpu")
    predictor.selection = replace(predictor.selection, score_threshold=SCORE_THRESHOLD)
    files = itertools.cycle(sorted((root / "data").rglob("*.jpg")))
    distance, detections = options.predictions // REPORTS, 0
    predictions = predictor.predict_files(itertools.islice(files, options.predictions), options.batch_size)
    for number, prediction in enumerate(predictions, start=1):
        assert isinstance(prediction.outcome, Detections)  # all of these can be read
        detections += len(prediction.outcome)
        if number % distance == 0:
            sample = measured(number // distance)
            print(
                f"{number:,} predictions, {detections:,} detections: {sample.memory_mb:.1f} MB, its own "
                f"{sample.own_mb:.1f}, {sample.open_files} open files",
                flush=True,
            )
            yield sample


def main(options: Options) -> None:
    torch.set_num_threads(1)  # images so small are slowed by threads that wait for others
    with tempfile.TemporaryDirectory() as name:
        taken = list(samples(Path(name), options))
    settled = taken[SETTLED_REPORTS:]
    first, last = settled[0], settled[-1]
    parts_in_100_000 = 100_000 * REPORTS / options.predictions
    growth = slope([sample.epoch for sample in settled], [sample.own_mb for sample in settled]) * parts_in_100_000
    print(
        f"{options.predictions:,} predictions: {first.own_mb:.1f} MB of its own after part {first.epoch} of {REPORTS}, "
        f"{last.own_mb:.1f} at the end, slope {growth:+.3f} MB in 100,000; "
        f"open files {first.open_files} and {last.open_files}"
    )
    if growth >= MOST_SLOPE or last.open_files > first.open_files:
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
