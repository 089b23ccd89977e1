"""A detector that needs no training and finds a lot, as a model file."""

from __future__ import annotations

from pathlib import Path

import torch

from onestage.detectors import build
from onestage.models.model_file import save_model
from onestage.structures import Categories

NAMES = ("ball", "wall", "star")


def write_small_model(path: Path, seed: int = 0) -> Path:
    """SSD on a tiny backbone with fresh weights; the class convolutions' are larger, so that scores differ."""
    torch.manual_seed(seed)
    detector = build("ssd300-test_efficientnet", len(NAMES))
    for name, parameter in detector.named_parameters():
        if "class_convs" in name and parameter.ndim > 1:
            parameter.data *= 8
    save_model(path, detector, Categories.from_names(NAMES))
    return path
