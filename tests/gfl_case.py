"""Inputs of the golden case `gfl_losses`, as its reference.json makes them, shared by tests."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ssd300_case import GOLDEN, golden, objects
from torch import Tensor

from onestage.anchors import pyramid_anchors
from onestage.structures import Predictions, Targets

SIZE_HW = (320, 320)
SIDES = (40, 20, 10, 5, 3)  # of the levels' maps, cells
LEVEL_SIZES = [side * side for side in SIDES]
STRIDES = (8, 16, 32, 64, 128)
CASES = {"three_images": (11, (4, 0, 1)), "crowded": (12, (25, 12, 40))}  # seed, objects of each image
REFERENCE: dict[str, Any] = json.loads((GOLDEN / "gfl_losses" / "reference.json").read_text())["cases"]


def anchors() -> Tensor:
    """Squares of 8 strides on the cells' upper left corners."""
    sizes = [8.0 * stride for stride in STRIDES]
    return pyramid_anchors(SIZE_HW, [(side, side) for side in SIDES], sizes, (1.0,), (1.0,), "cornered")


def targets(case: str) -> list[Targets]:
    stored = golden("gfl_losses")
    return [objects(stored[f"{case}_boxes_{i}"], stored[f"{case}_labels_{i}"]) for i in range(3)]


def predictions(case: str) -> Predictions:
    """Class logits (3, 2134, 80) and distributions (3, 2134, 68)."""
    seed, counts = CASES[case]
    rng = np.random.default_rng(seed)
    for count in counts:  # the boxes and labels, which are stored too
        for _ in range(2):
            rng.uniform(size=(count, 2))
        rng.integers(0, 80, count)
    logits = [(rng.standard_normal((3, 80, side, side)) - 4).astype("f") for side in SIDES]
    sides = [(rng.standard_normal((3, 68, side, side)) * 1.5).astype("f") for side in SIDES]
    return Predictions(*(by_position(maps).requires_grad_() for maps in (logits, sides)))


def by_position(maps: list[np.ndarray]) -> Tensor:
    return torch.cat([torch.from_numpy(x).flatten(2).transpose(1, 2) for x in maps], dim=1)


def ignoring(target: Targets, *rows: int) -> Targets:
    """With some objects ignored."""
    ignored = target.ignored.clone()
    ignored[list(rows)] = True
    return replace(target, ignored=ignored)
