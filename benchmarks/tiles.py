"""The price of tiles: images cut into tiles beside the same number of whole images of a tile's size, in turn.

    python benchmarks/tiles.py [--model runs/mine] [--detector ssd300-tf_efficientnet_lite0] [--rounds 5]

Pixels are in memory, and scores are cut at 0.05. What differs is cutting the tiles and merging their detections.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from side_by_side import Result, show, time_in_turn

from onestage.data.generated_marks import MARKS, draw_marks
from onestage.detectors import build
from onestage.inference.predictor import BasePredictor, Predictor, load
from onestage.runtime.tiles import TileDetections, Tiling, merge_tiles
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


def merging() -> dict[str, float]:
    """Seconds to merge random detections, hardly any of which are of one object."""
    found: dict[str, float] = {}
    for size_hw, of_tile, classes in (((3000, 4000), 200, 6), ((9000, 12000), 50, 3)):
        rng, tiling = np.random.default_rng(0), Tiling(640, 128)
        windows = tiling.windows_xyxy(size_hw)
        corners = rng.uniform(0, 560, (len(windows), of_tile, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 80, corners.shape)], axis=2)
        rows = [(one, rng.random(of_tile), rng.integers(0, classes, of_tile)) for one in boxes]
        detections = TileDetections.of_tiles(windows, rows)
        timing = time_in_turn({"merging": partial(merge_tiles, detections, size_hw, 0.45)})["merging"]
        found[f"{len(windows)} tiles with {of_tile} detections each of {classes} classes"] = timing.median
    return found


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
            notes=(
                f"{len(windows)} tiles an image of {SIZE_HW[1]} x {SIZE_HW[0]} pixels",
                *(f"merging {what}: {seconds:.2f} s" for what, seconds in merging().items()),
            ),
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
