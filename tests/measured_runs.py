"""Evaluations of drawn detectors, good or bad, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from onestage.evaluation.measured import Measured
from onestage.models.model_file import write_tensors
from onestage.structures import Categories, DetectionTable, GroundTruth

NAMES = ("ball", "wall", "star")


def measured_run(
    quality: float = 0.7,
    seed: int = 0,
    *,
    images: int = 60,
    names: tuple[str, ...] = NAMES,
    root: Path = Path("nowhere"),
    about: dict[str, Any] | None = None,
    data_seed: int = 0,
) -> Measured:
    """Three objects an image; so many of them are found, the better the closer, and two detections a false alarm.

    `data_seed` draws the objects, `seed` what the detector does.
    """
    rng = np.random.default_rng(data_seed)
    image_index = np.repeat(np.arange(images), 3)
    count = len(image_index)
    corner = rng.integers(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(10, 40, (count, 2))], axis=1).astype(np.float64)
    labels = rng.integers(0, len(names), count)
    ignored = rng.random(count) < 0.05
    truth = GroundTruth(images, image_index, labels, boxes, ignored, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    rng = np.random.default_rng([seed, round(1e6 * quality)])
    hit = rng.random(count) < quality
    near = boxes[hit] + rng.normal(0, 3 * (1 - quality), (hit.sum(), 4))
    wrong = rng.random(count) < 0.3
    away = boxes[wrong] + 60
    found = DetectionTable(
        np.concatenate([image_index[hit], image_index[wrong]]),
        np.concatenate([labels[hit], labels[wrong]]),
        np.concatenate([rng.uniform(0.3, 1, hit.sum()), rng.uniform(0, 0.7, wrong.sum())]).astype(np.float32),
        np.concatenate([near, away]).astype(np.float32).astype(np.float64),
    )
    found = DetectionTable(found.image_index, found.labels, found.scores.astype(np.float64), found.boxes_xyxy)
    image_names = tuple(f"{number:03}.jpg" for number in range(images))
    thresholds = np.full(len(names), 0.5)
    return Measured(truth, found, Categories.from_names(names), image_names, root, thresholds, about or {})


def write_run(folder: Path, measured: Measured, recipe: dict[str, Any] | None = None) -> Path:
    """A run folder with its evaluation, and a recipe if one is given."""
    folder.mkdir(parents=True)
    write_tensors(folder / "measured.safetensors", *measured.file_content())
    if recipe is not None:
        (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder
