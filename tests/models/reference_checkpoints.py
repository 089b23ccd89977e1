"""The reference implementations' checkpoints and outputs, as tests/golden keeps them.

No checkpoint is stored: its entries are drawn from their names, by one formula, here and where the outputs were made.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "golden"


def checkpoint(case: str, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The reference's state dict, in its own layout; with `prefixes`, the entries whose names start with one."""
    reference = json.loads((GOLDEN / case / "reference.json").read_text())
    return {name: _entry(name, tuple(shape)) for name, shape in reference["state_dict"] if name.startswith(prefixes)}


def images(image_size: int) -> Tensor:
    """The input of the reference run, already normalised."""
    drawn = np.random.default_rng(7).standard_normal((1, 3, image_size, image_size)).astype("float32")
    return torch.from_numpy(drawn)


def outputs(case: str, name: str) -> tuple[Tensor, Tensor, float]:
    """Positions in the flattened output, the values there, and the whole output's standard deviation."""
    reference = json.loads((GOLDEN / case / "reference.json").read_text())
    with np.load(GOLDEN / case / "outputs.npz") as arrays:
        index, value = (torch.from_numpy(arrays[f"{name}_{kind}"]) for kind in ("index", "value"))
    return index, value, reference["outputs"][name]["std"]


def _entry(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    # One module stands in these lists several times, and has its values once.
    key = re.sub(r"\b(leach|fc1|fc2)\.\d+", r"\1.0", name)
    drawn = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype("float32")
    if name.endswith("integral.project"):
        drawn = np.linspace(0, 16, 17)
    elif name.endswith(".scale"):
        drawn = 1 + 0.1 * drawn
    elif name.endswith("running_var"):
        drawn = 1 + 0.1 * np.abs(drawn)
    elif name.endswith("running_mean"):
        drawn = 0.1 * drawn
    elif len(shape) >= 2:
        drawn = drawn * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("bn3.weight"):
        drawn = 0.4 + 0.04 * drawn
    else:
        drawn = 0.7 + 0.07 * drawn if name.endswith("weight") else 0.02 * drawn
    return torch.from_numpy(np.asarray(drawn, dtype="float32"))
