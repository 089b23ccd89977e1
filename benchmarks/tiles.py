"""The price of tiles: images cut into tiles beside the same number of whole images of a tile's size, in turn.

    python benchmarks/tiles.py [--model runs/mine] [--detector ssd300-tf_efficientnet_lite0] [--rounds 5]

Pixels are in memory, and scores are cut at 0.05. What differs is cutting the tiles and merging their detections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from side_by_side import Result, show, time_in_turn

from onestage.data.generated_marks import MARKS, draw_marks
from onestage.detectors import build
from onestage.inference.predictor import BasePredictor, Predictor, load
from onestage.runtime.tiles import Tiling
from onestage.structures import Categories

SIZE_HW = (1500, 2000)
SIDE, OVERLAP = 300, 30
GOAL = 0.9


@dataclass(frozen=True)
class Options:
    """What is timed."""

    model: Path | None = None
    """A trained model; without, a network with random weights."""
    detector: str = "ssd300-tf_efficientnet_lite0"
    images: int = 4
    batch_size: int = 8
    rounds: int = 5
    score_threshold: float = 0.05


def _predictor(options: Options) -> BasePredictor:
    if options.model is not None:
        return load(options.model)
    torch.manual_seed(0)
    return Predictor(build(options.detector, len(MARKS)), Categories.from_names(MARKS))


def main(options: Options) -> None:
    """Time both, and print the ratio."""
    predictor = _predictor(options)
    predictor.selection = replace(predictor.selection, score_threshold=options.score_threshold)
    tiling = Tiling(SIDE, OVERLAP)
    rngs = [np.random.default_rng(seed) for seed in range(options.images)]
    images = [draw_marks(rng, SIZE_HW, (24, 24), 30).image for rng in rngs]
    windows = tiling.windows_xyxy(SIZE_HW).tolist()
    tiles = [np.ascontiguousarray(image[y0:y1, x0:x1]) for image in images for x0, y0, x1, y1 in windows]

    def whole() -> object:
        predictor.tiling = None
        return predictor(tiles, batch_size=options.batch_size)

    def tiled() -> object:
        predictor.tiling = tiling
        return predictor(images, batch_size=options.batch_size)

    timings = time_in_turn({"whole images": whole, "tiles": tiled}, rounds=options.rounds)
    pace = {name: len(tiles) / one.median for name, one in timings.items()}
    ratio = pace["tiles"] / pace["whole images"]
    show(
        Result(
            "tiles",
            "python benchmarks/tiles.py",
            ("what", "a second"),
            tuple((name, f"{value:.1f}") for name, value in pace.items()),
            goals=(
                f"tiles at {GOAL:.0%} of the pace of whole images: {ratio:.0%}, {'met' if ratio >= GOAL else 'missed'}",
            ),
            notes=(f"{len(windows)} tiles an image of {SIZE_HW[1]} x {SIZE_HW[0]} pixels",),
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
