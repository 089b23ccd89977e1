"""The self-describing model file, the training checkpoint, and the folder of a run.

Both files are safetensors: tensors plus a JSON header, so that loading one can't run code. The header holds a SHA-256
of itself and the tensors, because safetensors alone doesn't notice a flipped bit.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from onestage.detectors import Detector, build_from_config, config_of
from onestage.errors import UserError
from onestage.models.hub import MODEL_FILE, hub_name, local_model
from onestage.models.weight_files import is_safetensors, read_safetensors
from onestage.runtime.calibration import ScoreCalibration
from onestage.runtime.exported_file import checked_bits
from onestage.runtime.tiles import Tiling
from onestage.selection import USUAL_THRESHOLD, Selection
from onestage.structures import Categories
from onestage.thresholds import Thresholds
from onestage.whole_file import written_whole

FORMAT = 2


class RunFolder:
    """The files of one training run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / MODEL_FILE
        self.checkpoint = root / "checkpoint" / "training.safetensors"
        self.previous_checkpoint = root / "checkpoint" / "previous.safetensors"  # in case the newest is damaged
        self.recipe = root / "recipe.json"
        self.data = root / "data.json"  # the splits that were asked for, and the weights that the run began with
        self.old_objects = root / "old_objects.safetensors"  # of classes that the data lacks and the run keeps
        self.log = root / "log.csv"
        self.batches = root / "batches.png"  # the first training images
        self.metrics = root / "metrics.json"
        self.report = root / "report.html"
        self.measured = root / "measured.safetensors"  # objects and detections of the evaluation, to compare it

    def replay(self, step: int) -> Path:
        """The file of a skipped step."""
        return self.root / "replay" / f"step-{step:08}.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A model file that was read: a detector in evaluation mode, its classes, and the file's header."""

    detector: Detector
    categories: Categories
    header: dict[str, Any]
    thresholds: Thresholds | None = None  # of the classes' scores, where an evaluation has found them

    @property
    def selection(self) -> Selection:
        """The usual post-processing: the paper's, above the class's threshold, or above 0.5 where there is none."""
        papers = self.detector.evaluation_selection
        if self.thresholds is None:
            return replace(papers, score_threshold=USUAL_THRESHOLD)
        return papers.with_class_thresholds(self.thresholds.scores)

    @property
    def calibration(self) -> ScoreCalibration | None:
        """What the scores mean, where an evaluation has found it."""
        return None if self.thresholds is None else self.thresholds.calibration

    @property
    def input_bits(self) -> int:
        """How many bits of 16-bit images hold values."""
        return self.detector.input_bits


def save_model(
    path: Path, detector: Detector, categories: Categories, thresholds: Thresholds | None = None, **about: Any
) -> None:
    """Write a detector and its classes; `about` are more JSON-able facts for the header (recipe, metrics)."""
    classes = {"names": categories.names, "source_ids": categories.source_ids}
    header = {"config": config_of(detector), "categories": classes, "input_bits": detector.input_bits}
    header |= {"tiling": None if detector.tiling is None else asdict(detector.tiling)}
    header |= {"thresholds": None if thresholds is None else asdict(thresholds), **about}
    write_tensors(path, detector.state_dict(), header)


def keep_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Put the thresholds that were found for a model's classes into its file.

    Raises:
        UserError: it can't be read or written.
    """
    tensors, header = read_tensors(path)
    write_tensors(path, tensors, {**header, "thresholds": asdict(thresholds)})


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Read a model file, or the `model.safetensors` of a run folder or of a hub (see `hub.fetch`).

    Raises:
        UserError: it is missing, damaged, or no model: a header that describes no network or another one than the
            weights', or weights that are not finite.
    """
    folder = path = local_model(path)
    for run in map(RunFolder, path.parents[:2]):
        if path in (run.checkpoint.parent, run.checkpoint, run.previous_checkpoint):
            raise UserError(f"{path}: keeps the state of a training, not a model; give the run folder, {run.root}")
    if folder.is_dir():
        path = RunFolder(folder).model
        if not path.exists() and RunFolder(folder).recipe.exists():
            raise UserError(f"{folder}: keeps no weights before its first evaluation; go on with it by --resume")
        if not path.exists():
            raise UserError(f"{folder}: no run folder (no {path.name}); give the folder of a run, or a model file")
    tensors, header = read_tensors(path)
    if "config" not in header or "categories" not in header:
        raise UserError(f"{path}: not a onestage model file; `onestage import` reads other projects' weights")
    try:
        categories = Categories.from_dict(header["categories"])
        detector = _network(header["config"], tensors)
        if len(categories) != detector.num_classes:
            raise UserError(f"{len(categories)} class names for a network of {detector.num_classes}; use another copy")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    detector.input_bits = checked_bits(header.get("input_bits"), str(path))
    detector.tiling = Tiling.from_header(header.get("tiling"), str(path))
    thresholds = Thresholds.from_header(header.get("thresholds"), len(categories), str(path))
    return LoadedModel(detector, categories, header, thresholds)


def named_file(model: str | os.PathLike[str]) -> Path:
    """The file that a model's name means: of a run folder, its `model.safetensors`.

    Of a hub's model it is `NAME/model.safetensors` here, where nothing is yet: what is made of the model lies beside
    that by default, because nobody writes into the hub's cache.
    """
    name, path = hub_name(model), Path(model)
    if name is not None:
        return RunFolder(Path(name.repository.partition("/")[2])).model
    return RunFolder(path).model if path.is_dir() else path


def is_model_file(path: Path) -> bool:
    """True for a file with the header of a onestage model; a UserError for one that is missing or can't be read."""
    return is_safetensors(path) and "onestage" in read_safetensors(path)[1]


def _network(config: Any, tensors: Mapping[str, Tensor]) -> Detector:
    """The detector that a header describes, in evaluation mode, with the weights of its file; else a UserError."""
    if not isinstance(config, dict):
        raise UserError("its configuration is no table; use another copy")
    try:
        with torch.device("meta"):  # no memory is taken yet for the network that a stranger's header asks for
            build_from_config(config).load_state_dict(tensors, assign=True)
        detector = build_from_config(config)
        detector.load_state_dict(tensors)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # layers raise nearly anything for numbers that make none
        misfit = ([type(error).__name__, *str(error).splitlines()])[-1].strip()[:200]
        raise UserError(f"the weights do not fit the network it names ({misfit}); use another copy") from error
    for name, value in detector.state_dict().items():
        if not value.isfinite().all():
            raise UserError(f"{name} holds NaN or infinite values, so it would find nothing; use another copy")
    return detector.eval()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, keep_as: Path | None = None
) -> None:
    """Write tensors and a JSON header; a crash leaves the old file or the new one. `keep_as` keeps the old one too.

    A UserError says that the disk is full, or can't be written; the old file is intact.
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
    """Read the tensors and the header that `write_tensors` wrote; a UserError if the file is missing or damaged."""
    tensors, metadata = read_safetensors(path)
    try:
        header = dict(json.loads(metadata["onestage"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
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
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty one may have strides that can't be viewed as bytes
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
