"""The file of a step that was skipped: the weights, the images as they went through the network, what came of it.

`onestage train --replay FILE` takes the step again from it, alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from onestage.compute.device import DTYPES, Precision
from onestage.detectors import Detector, build_from_config, config_of
from onestage.errors import UserError
from onestage.models.model_file import read_tensors, write_tensors
from onestage.structures import Batch, Targets
from onestage.training.diagnosis import Diagnosis
from onestage.training.recipe import Recipe
from onestage.training.step import OptimizerStep, StepLosses, in_parts

FILES_KEPT = 3  # of a run, the first ones; each holds the network's weights
KINDS = {  # number format and dimensions of a part's tensors
    "images": (torch.uint8, 4),
    "boxes_xyxy": (torch.float32, 2),
    "labels": (torch.int64, 1),
    "ignored": (torch.bool, 1),
    "objects": (torch.int64, 1),  # of each image
}


@dataclass(frozen=True)
class SkippedStep:
    """What it takes to take the step again, and what came of it.

    Attributes:
        detector: with the weights before the step.
        parts: of the batch, as one process takes them.
        names: of the images, in the parts' order.
        number: of the step, from 1.
        steps_taken: by the run, before this one.
        learning_rate: of the step.
        precision, device: in which and where it was taken.
        scaler: the state of float16's scaling.
        losses: that came of it.
    """

    detector: Detector
    recipe: Recipe
    parts: list[Batch]
    names: list[str]
    number: int
    steps_taken: int
    learning_rate: float
    precision: Precision
    device: str
    scaler: dict[str, Any]
    losses: StepLosses


def save_skipped_step(
    path: Path,
    step: OptimizerStep,
    batch: Batch,
    diagnosis: Diagnosis,
    *,
    number: int,
    steps_taken: int,
    learning_rate: float,
) -> bool:
    """Write the file; every process brings its images, process 0 writes.

    Args:
        path: the file.
        step: that was just skipped, so its weights are those before it.
        batch: this process's images.
        diagnosis: of the step.
        number, steps_taken, learning_rate: as `SkippedStep` has them.

    Returns:
        Whether it was written: not where the folder has enough of them, or can't be written.
    """
    others = set(path.parent.glob(f"*{path.suffix}")) - {path}
    if not step.world.from_main(len(others) < FILES_KEPT):
        return False
    batches = step.world.gather(batch.to(torch.device("cpu")))
    header = {
        "config": config_of(step.detector),
        "recipe": step.recipe.as_dict(),
        "names": [image.name for image in diagnosis.images],
        "number": number,
        "steps_taken": steps_taken,
        "learning_rate": learning_rate,
        "precision": next(name for name, dtype in DTYPES.items() if dtype == step.compute.dtype),
        "device": str(step.compute.device),
        "scaler": step.scaler.state_dict(),
        "losses": asdict(diagnosis.losses),
    }

    def write() -> bool:
        cut = [in_parts(one, step.recipe.accumulate) for one in batches]
        parts = [_as_tensors(together) for together in zip(*cut, strict=True)]
        tensors = {f"model/{name}": tensor for name, tensor in step.detector.state_dict().items()}
        tensors |= {f"part {row}/{name}": tensor for row, part in enumerate(parts) for name, tensor in part.items()}
        try:
            write_tensors(path, tensors, header)
        except UserError:  # a full disk is told of when the run saves; this file is not worth its end
            return False
        return True

    return step.world.on_main(write)


def read_skipped_step(path: Path) -> SkippedStep:
    """Read the file.

    Raises:
        UserError: nothing there, another file, or a damaged one.
    """
    tensors, header = read_tensors(path)
    try:
        return _from_file(tensors, header)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a step for replay ({type(error).__name__}); those are in a run folder's replay/"
        ) from error


def _from_file(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> SkippedStep:
    weights, config = _below("model/", tensors), header["config"]
    with torch.device("meta"):  # before memory is taken for a network that the weights do not fill
        build_from_config(config).load_state_dict(weights, assign=True)
    detector = build_from_config(config)
    detector.load_state_dict(weights)
    numbers = range(len({name.partition("/")[0] for name in tensors} - {"model"}))
    parts = [_from_tensors(_below(f"part {number}/", tensors), detector.num_classes) for number in numbers]
    names = [str(name) for name in header["names"]]
    if len(names) != sum(len(part.targets) for part in parts) or not names:
        raise ValueError("names")
    if header["precision"] not in DTYPES:
        raise ValueError("precision")
    return SkippedStep(
        detector=detector,
        recipe=Recipe.from_dict(header["recipe"]),
        parts=parts,
        names=names,
        number=int(header["number"]),
        steps_taken=int(header["steps_taken"]),
        learning_rate=float(header["learning_rate"]),
        precision=cast(Precision, header["precision"]),
        device=str(header["device"]),
        scaler=dict(header["scaler"]),
        losses=StepLosses(**header["losses"]),
    )


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _as_tensors(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """The images of some batches of one size, and their objects one after the other."""
    targets = [one for batch in batches for one in batch.targets]
    return {
        "images": torch.cat([batch.images for batch in batches]),
        "boxes_xyxy": torch.cat([one.boxes_xyxy for one in targets]),
        "labels": torch.cat([one.labels for one in targets]),
        "ignored": torch.cat([one.ignored for one in targets]),
        "objects": torch.tensor([len(one.labels) for one in targets]),
    }


def _from_tensors(part: Mapping[str, Tensor], num_classes: int) -> Batch:
    """Read `_as_tensors` back.

    Raises:
        KeyError, ValueError, RuntimeError: it is something else.
    """
    if any((part[name].dtype, part[name].ndim) != kind for name, kind in KINDS.items()):
        raise ValueError("types")
    images, boxes_xyxy, labels, ignored, objects = (part[name] for name in KINDS)
    if images.shape[1] != 3 or boxes_xyxy.shape[1] != 4 or len(objects) != len(images):
        raise ValueError("shapes")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError("labels")
    counts = objects.tolist()
    fields = (field.split(counts) for field in (boxes_xyxy, labels, ignored))
    targets = [Targets(*one) for one in zip(*fields, strict=True)]
    # The loader's memory format: another would change the last bits of the convolutions.
    return Batch(images.contiguous(memory_format=torch.channels_last), targets, torch.arange(len(images)))
