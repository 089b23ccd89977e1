"""The self-describing model file, the training checkpoint, and the folder of a run.

Both files are safetensors: tensors plus a JSON header, so that loading one can't run code. The header holds a SHA-256
of itself and the tensors, because safetensors alone doesn't notice a flipped bit.
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
from onestage.models.weight_files import read_safetensors
from onestage.structures import Categories
from onestage.whole_file import written_whole

FORMAT = 2


class RunFolder:
    """The files of one training run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model.safetensors"
        self.checkpoint = root / "checkpoint" / "training.safetensors"
        self.previous_checkpoint = root / "checkpoint" / "previous.safetensors"  # in case the newest is damaged
        self.recipe = root / "recipe.json"
        self.log = root / "log.csv"
        self.metrics = root / "metrics.json"
        self.report = root / "report.html"

    def replay(self, step: int) -> Path:
        """The file of a skipped step."""
        return self.root / "replay" / f"step-{step:08}.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A model file that was read: a detector in evaluation mode, its classes, and the file's header."""

    detector: Detector
    categories: Categories
    header: dict[str, Any]


def save_model(
    path: Path, detector: Detector, tensors: Mapping[str, Tensor], categories: Categories, **about: Any
) -> None:
    """Write a model file.

    Args:
        path: the file; its folder is made.
        detector: the detector whose configuration is written.
        tensors: its weights by name, or their running average.
        categories: the classes that it detects.
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
        UserError: no such file, not a model file of onestage, or a damaged one.
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
    """Refuse weights that do not fit, before memory is taken for the network that a stranger's header asks for."""
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
    """Write tensors and a JSON header; a crash leaves the old file or the new one.

    Args:
        keep_as: where to keep the old file; None: it is replaced.

    Raises:
        UserError: the disk is full, or can't be written; the old file is intact.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    as_read = json.loads(json.dumps({**header, "format": FORMAT}))
    text = json.dumps(as_read | {"sha256": _sha256(plain, as_read)})
    try:
        with written_whole(path, keep_as=keep_as) as temporary:
            save_file(plain, temporary, metadata={"onestage": text})
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        needed = sum(tensor.nbytes for tensor in plain.values()) + len(text)
        raise UserError(f"{path}: can't be written ({reason}); {needed:,} bytes are needed there") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the header that `write_tensors` wrote, and check them.

    Raises:
        UserError: no such file, not one of onestage, or a damaged one.
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
    if header.get("sha256") != _sha256(tensors, header):
        raise UserError(f"{path}: damaged, it does not have the SHA-256 in its header; use another copy")
    return tensors, header


def _sha256(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 of the header without its own "sha256", and of the tensors."""
    without = {key: value for key, value in header.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(without, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
