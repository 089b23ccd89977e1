"""The self-describing model file, the training checkpoint, and the folder of a run.

Both files are safetensors: tensors plus a JSON header, so that loading one can't run code. The header holds a SHA-256
of itself and the tensors, because safetensors alone doesn't notice a flipped bit. A file is written under a temporary
name, flushed to the disk and renamed, so a reader sees the old one or the new one and nothing between.
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
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from onestage.detectors import Detector, build_from_config, config_of
from onestage.errors import UserError
from onestage.models.import_weights import read_safetensors
from onestage.structures import Categories
from onestage.whole_file import flush_folder

FORMAT = 2


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
    def previous_checkpoint(self) -> Path:
        """The one before, in case the newest is damaged."""
        return self.root / "checkpoint" / "previous.safetensors"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.json"

    @property
    def log(self) -> Path:
        return self.root / "log.csv"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.json"

    def replay(self, step: int) -> Path:
        """A step that was skipped."""
        return self.root / "replay" / f"step-{step:08}.safetensors"

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


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, keep_as: Path | None = None
) -> None:
    """Write tensors and a JSON header so that a crash leaves the old file or the new one.

    Args:
        keep_as: what was at `path` is found there afterwards, instead of being replaced.

    Raises:
        UserError: the disk is full, or can't be written; `path` is as it was.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    as_read = json.loads(json.dumps({**header, "format": FORMAT}))
    as_read["sha256"] = _digest(plain, as_read)
    text = json.dumps(as_read)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(plain, temporary, metadata={"onestage": text})
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if keep_as is not None and path.exists():
                path.replace(keep_as)
            temporary.replace(path)
            flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for tensor in plain.values()) + len(text)
        raise UserError(f"{path}: can't be written ({_reason(error)}); {needed:,} bytes are needed there") from error


def _reason(error: OSError | SafetensorError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read `write_tensors` back and check it.

    Raises:
        UserError: nothing there, not ours, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata["onestage"])
        if not isinstance(header, dict):
            raise KeyError("onestage")
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a onestage file; `onestage import` reads other projects' weights") from error
    if header.get("format") != FORMAT:
        raise UserError(f"{path}: file format {header.get('format')}; this onestage reads {FORMAT}")
    if header.get("sha256") != _digest(tensors, header):
        raise UserError(f"{path}: damaged, it does not have the SHA-256 that it names; use another copy")
    return tensors, header


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Of the header but for this digest, and of the tensors."""
    without = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(without, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
