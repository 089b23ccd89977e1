"""The self-describing model file, the training checkpoint, and the folder of a run.

Both files are safetensors: tensors plus a JSON header, so that loading one can't run code. The header holds a SHA-256
of the tensors, because safetensors alone doesn't notice a flipped bit. A file is written under a temporary name,
flushed to the disk and renamed, so a reader sees the old one or the new one and nothing between.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from onestage.detectors import Detector, build_from_config, config_of
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.weights import read_safetensors

FORMAT = 1


@dataclass(frozen=True)
class RunFolder:
    """The files of one training run."""

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint" / "training.safetensors"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.json"

    @property
    def log(self) -> Path:
        return self.root / "log.csv"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"


@dataclass(frozen=True)
class LoadedModel:
    """A model file, read: a network in evaluation mode and what travelled with it."""

    detector: Detector
    categories: Categories
    header: dict[str, Any]


def save_model(
    path: Path, detector: Detector, tensors: Mapping[str, Tensor], categories: Categories, **about: Any
) -> None:
    """Write a model file.

    Args:
        path: the file; its folder is made.
        detector: whose configuration is written.
        tensors: the weights to write, by the detector's entry names (its own, or their running average).
        categories: the classes it detects.
        about: more JSON-able facts for the header (recipe, metrics).
    """
    header = {
        "format": FORMAT,
        "config": config_of(detector),
        "categories": {"names": categories.names, "source_ids": categories.source_ids},
        **about,
    }
    write_tensors(path, tensors, header)


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Read a model file, or the `model.safetensors` of a run folder.

    Raises:
        UserError: nothing there, not a model file of ours, or a damaged one.
    """
    path = Path(path)
    if path.is_dir():
        path = RunFolder(path).model
    tensors, header = read_tensors(path)
    if "config" not in header or "categories" not in header:
        raise UserError(f"{path}: not a onestage model file; `onestage import` reads other projects' weights")
    categories = Categories(*(tuple(header["categories"][key]) for key in ("names", "source_ids")))
    _check_shapes(path, tensors, header["config"])
    detector = build_from_config(header["config"])
    detector.load_state_dict(tensors)
    detector.eval()
    return LoadedModel(detector, categories, header)


def _check_shapes(path: Path, tensors: Mapping[str, Tensor], config: dict[str, Any]) -> None:
    """Refuse weights that do not fit before memory is taken for the network that a stranger's header asks for."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build_from_config(config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path}: the weights do not fit the network it names ({name}: {found.get(name, 'missing')}, expected "
                f"{expected.get(name, 'none')}); use another copy"
            )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header so that a crash leaves the old file or the new one."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {**header, "sha256": _digest(plain)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(plain, temporary, metadata={"onestage": json.dumps(header)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(path.parent)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read `write_tensors` back and check it.

    Raises:
        UserError: nothing there, not ours, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata["onestage"])
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a onestage file; `onestage import` reads other projects' weights") from error
    if header.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path}: file format {header['format']}; this onestage reads {FORMAT}; upgrade it")
    if header.get("sha256") != _digest(tensors):
        raise UserError(f"{path}: damaged, its tensors do not have the SHA-256 of its header; use another copy")
    return tensors, header


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
