"""How many more mistakes a model makes in the images that `predict --rank uncertain` chooses than in random ones.

A mistake is a detection above the threshold that matches no object of its class (IoU 0.5), or an object that no
detection matches.

    python benchmarks/ranking.py MODEL DATA [--split test] [--score-threshold 0.5] [--images 100] [--of 500]

MODEL must not have been trained on the split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from tyro.conf import Positional

from onestage.boxes import pairwise_iou
from onestage.data import read_dataset
from onestage.data.table import Table
from onestage.inference.predictor import load
from onestage.inference.ranking import choose, doubt_of, lowest_score
from onestage.structures import Detections

RANDOM_DRAWS = 1000


@dataclass(frozen=True)
class Options:
    """What is measured."""

    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")]
    data: Annotated[Positional[Path], tyro.conf.arg(metavar="DATA")]
    split: str = "test"
    score_threshold: float = 0.5
    images: int = 100
    of: int = 500  # images at random that the model looks at


def mistakes_of(found: Detections, table: Table, index: int) -> tuple[int, int]:
    """How many detections match no object of an image, and how many objects match none; best detections first."""
    boxes_xyxy, labels, ignored = table.objects(index)
    overlap = pairwise_iou(found.boxes_xyxy, torch.from_numpy(np.array(boxes_xyxy))).numpy().copy()
    overlap[found.labels.numpy()[:, None] != np.array(labels)[None]] = 0
    missed, wrong = np.ones(len(labels), dtype=bool), 0
    for row in overlap:
        row = row * missed
        best = int(row.argmax()) if len(row) else 0
        if len(row) and row[best] >= 0.5:
            missed[best] = False
        else:
            wrong += 1
    return wrong, int((missed & ~np.array(ignored)).sum())


def main(options: Options) -> None:
    table, _ = read_dataset(options.data, options.split)
    threshold, rng = options.score_threshold, np.random.default_rng(0)
    looked_at = rng.permutation(len(table))[: options.of].tolist()
    predictor = load(options.model)
    predictor.selection = replace(predictor.selection, score_threshold=lowest_score(threshold))
    doubts, counts = [], []
    files = predictor.predict_files([table.image_path(index) for index in looked_at])
    for index, file in zip(looked_at, files, strict=True):
        assert file.image is not None
        assert isinstance(file.outcome, Detections)
        doubts.append(doubt_of(file.outcome, file.image, threshold))
        counts.append((*mistakes_of(file.outcome.filter(score=threshold), table, index), len(table.objects(index)[1])))
    sums = np.array([one.mistakes for one in doubts])
    chosen = list(choose(sums, np.stack([one.vector for one in doubts]), options.images))
    rows = np.array(counts)
    mistakes = rows[:, :2].sum(axis=1)
    draws = np.array([mistakes[rng.permutation(len(mistakes))[: len(chosen)]].mean() for _ in range(RANDOM_DRAWS)])
    low, high = np.quantile(draws, [0.025, 0.975])
    most = np.sort(mistakes)[-len(chosen) :].mean()
    print(f"{len(mistakes)} images, {rows[:, 2].mean():.2f} objects an image; threshold {threshold:g}")
    print(f"random {len(chosen)}: {draws.mean():.2f} mistakes an image (95 % of draws: {low:.2f} to {high:.2f})")
    print(
        f"chosen {len(chosen)}: {mistakes[chosen].mean():.2f} mistakes an image ({rows[chosen, 0].mean():.2f} wrong, "
        f"{rows[chosen, 1].mean():.2f} missed), {rows[chosen, 2].mean():.2f} objects"
    )
    agreement = np.corrcoef(sums, mistakes)[0, 1]
    print(f"those with most mistakes: {most:.2f}; correlation of doubt and mistakes: {agreement:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Options))
