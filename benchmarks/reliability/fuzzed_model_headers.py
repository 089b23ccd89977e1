"""Case `model-headers`: model files with a right checksum and a wrong header; each must end in one line or work.

Every value in the header's configuration and categories, in turn, becomes something else: of another kind, out of its
range, not finite, huge, or missing. What still loads has to detect in an image.

python benchmarks/reliability/fuzzed_model_headers.py --files 2000
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from onestage.detectors import build
from onestage.errors import UserError
from onestage.inference.predictor import Predictor
from onestage.models.model_file import load_model, read_tensors, save_model, write_tensors
from onestage.structures import Categories

DETECTORS = ("ssd300-test_efficientnet", "retinanet-test_efficientnet")
ODD = (
    *(None, True, -1, 0, 1, 7, 10**9, 10**30, -0.5, 0.0, 1e-30, 1e30, float("nan"), float("inf"), "", "x", "none"),
    *([], [None], [-1, -1], ["a", "b", "c"], [1, 2, 3, 4, 5, 6, 7], [[]], [[0.0]] * 6, {}, {"side": 0}, "ssd300-vgg16"),
)


@dataclass(frozen=True)
class Options:
    """How many, and which."""

    files: int = 2000
    seed: int = 0


def main(options: Options) -> None:
    rng = np.random.default_rng(options.seed)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    refused = worked = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        originals = [original(name, Path(folder) / f"{number}.safetensors") for number, name in enumerate(DETECTORS)]
        file = Path(folder) / "fuzzed.safetensors"
        for _ in range(options.files):
            tensors, header = originals[rng.integers(len(originals))]
            header = changed(header, rng)
            write_tensors(file, tensors, header)
            began = time.perf_counter()
            try:
                loaded = load_model(file)
                Predictor(loaded.detector, loaded.categories, device="cpu", precision="fp32")(image)
                worked += 1
            except UserError as error:  # anything else ends the run with its traceback
                refused += 1
                if "\n" in str(error) or file.name not in str(error):
                    raise SystemExit(f"not one line that names the file: {error}") from error
            except Exception:
                print(f"with {header['config']}, {header['categories']}")
                raise
            slowest = max(slowest, time.perf_counter() - began)
    print(f"{options.files:,} headers: {refused:,} refused in one line, {worked:,} work; the slowest {slowest:.1f} s")


def original(name: str, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the header of a model file."""
    torch.manual_seed(0)
    save_model(path, build(name, 3), Categories.from_names(["ball", "wall", "star"]))
    return read_tensors(path)


def changed(header: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """The header with one value of its configuration, categories or bits replaced, or left out."""
    header = copy.deepcopy(header)
    about = {key: header[key] for key in ("config", "categories", "input_bits")}
    places = list(paths(about))
    path = places[rng.integers(len(places))]
    at: Any = header
    for key in path[:-1]:
        at = at[key]
    if rng.random() < 0.05:
        del at[path[-1]]
    else:
        at[path[-1]] = ODD[rng.integers(len(ODD))]
    return header


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of nested tables and lists stands."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from paths(inner, (*path, key))


if __name__ == "__main__":
    main(tyro.cli(Options))
