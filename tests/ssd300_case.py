"""SSD300's anchors for VOC, and the inputs and targets of the golden case `multibox_loss`, shared by tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onestage.anchors import ssd_anchors
from onestage.structures import Targets

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
GOLDEN = Path(__file__).parent / "golden"

MAP_SIZES = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
STRIDES = [8, 16, 32, 64, 100, 300]
SIZES = [30, 60, 111, 162, 213, 264, 315]
ASPECT_RATIOS = [(2,), (2, 3), (2, 3), (2, 3), (2,), (2,)]


def ssd300_anchors() -> Tensor:
    return ssd_anchors(300, MAP_SIZES, STRIDES, SIZES, ASPECT_RATIOS, clip="all")


def golden(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / case / "case.npz") as arrays:
        return dict(arrays)


def multibox_inputs() -> tuple[Tensor, Tensor]:
    """Class logits and box deltas as the golden case's reference.json makes them."""
    rng = np.random.default_rng(3)
    box_deltas = rng.standard_normal((4, 8732, 4)).astype("f") * 0.5
    class_logits = rng.standard_normal((4, 8732, 21)).astype("f")
    return torch.from_numpy(class_logits), torch.from_numpy(box_deltas)


def multibox_targets() -> list[Targets]:
    case = golden("multibox_loss")
    ends = np.cumsum(case["targets_per_image"])[:-1]
    boxes = np.split(case["targets_xyxy_normalised"] * np.float32(300), ends)
    labels = np.split(case["targets_label"].astype(np.int64), ends)
    return [objects(b, n) for b, n in zip(boxes, labels, strict=True)]


def objects(boxes_xyxy, labels=None, ignored=None) -> Targets:
    """Targets from plain lists; labels 0 and not ignored unless told."""
    boxes = torch.as_tensor(np.asarray(boxes_xyxy, np.float32).reshape(-1, 4))
    return Targets(
        boxes,
        torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.as_tensor(labels, dtype=torch.int64),
        torch.zeros(len(boxes), dtype=torch.bool) if ignored is None else torch.as_tensor(ignored, dtype=torch.bool),
    )
