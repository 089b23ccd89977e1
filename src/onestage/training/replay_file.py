"""The file of a skipped step: the weights, the images as they went through the network, and the losses.

`onestage train --replay FILE` takes the step again from it, alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

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
KINDS = {  # number format and dimensions of the batch's tensors; objects come one image after the other
    "images": (torch.uint8, 4),
    "boxes_xyxy": (torch.float32, 2),
    "labels": (torch.int64, 1),
    "ignored": (torch.bool, 1),
}


class StepPosition(NamedTuple):
    """Where a step stands in its run."""

    number: int  # from 1
    steps_taken: int  # by the run before, skipped ones left out
    learning_rate: float


@dataclass(frozen=True)
class SkippedStep:
    """A skipped step with all that it takes to take it again.

    Attributes:
        detector: has the weights from before the step.
        parts: parts of the batch, as one process takes them.
        names: image files, in the parts' order.
        precision, device: number format and device of the run.
        scaler: state of float16's loss scaling.
        losses: the step's losses in the run.
    """

    detector: Detector
    recipe: Recipe
    parts: list[Batch]
    names: list[str]
    position: StepPosition
    precision: Precision
    device: str
    scaler: dict[str, Any]
    losses: StepLosses


def save_skipped_step(
    path: Path, step: OptimizerStep, batch: Batch, diagnosis: Diagnosis, position: StepPosition
) -> bool:
    """Write the file; every rank brings its images, rank 0 writes.

    Args:
        step: was just skipped, so its weights are those from before.
        batch: this rank's images.

    Returns:
        False if the folder has enough such files, or can't be written.
    """
    others = set(path.parent.glob(f"*{path.suffix}")) - {path}
    if not step.world.from_main(len(others) < FILES_KEPT):
        return False
    batches = step.world.gather(batch.to(torch.device("cpu")))

    def write() -> bool:
        parts = list(zip(*(in_parts(one, step.recipe.accumulate) for one in batches), strict=True))
        pieces = [piece for part in parts for piece in part]  # each rank's piece of the first part, of the second, ...
        targets = [one for piece in pieces for one in piece.targets]
        header = {
            "config": config_of(step.detector),
            "recipe": step.recipe.as_dict(),
            "names": [image.name for image in diagnosis.images],
            "parts": [sum(len(piece.images) for piece in part) for part in parts],
            "objects": [len(one.labels) for one in targets],
            **position._asdict(),
            "precision": next(name for name, dtype in DTYPES.items() if dtype == step.compute.dtype),
            "device": str(step.compute.device),
            "scaler": step.scaler.state_dict(),
            "losses": asdict(diagnosis.losses),
        }
        tensors = {f"model/{name}": tensor for name, tensor in step.detector.state_dict().items()}
        tensors["images"] = torch.cat([piece.images for piece in pieces])
        tensors |= {name: torch.cat([getattr(one, name) for one in targets]) for name in KINDS if name != "images"}
        try:
            write_tensors(path, tensors, header)
        except UserError:  # a full disk is reported when the run saves; this file is not worth its end
            return False
        return True

    return step.world.on_main(write)


def read_skipped_step(path: Path) -> SkippedStep:
    """Read the file.

    Raises:
        UserError: there is none, or it is another file, or damaged.
    """
    tensors, header = read_tensors(path)
    try:
        weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
        with torch.device("meta"):  # before memory is taken for a network that the weights do not fill
            build_from_config(header["config"]).load_state_dict(weights, assign=True)
        detector = build_from_config(header["config"])
        detector.load_state_dict(weights)
        if header["precision"] not in DTYPES:
            raise ValueError("precision")
        return SkippedStep(
            detector=detector,
            recipe=Recipe.from_dict(header["recipe"]),
            parts=_read_parts(tensors, header, detector.num_classes),
            names=[str(name) for name in header["names"]],
            position=StepPosition(int(header["number"]), int(header["steps_taken"]), float(header["learning_rate"])),
            precision=cast(Precision, header["precision"]),
            device=str(header["device"]),
            scaler=dict(header["scaler"]),
            losses=StepLosses(**header["losses"]),
        )
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise UserError(
            f"{path}: not a step for replay ({type(error).__name__}); those are in a run folder's replay/"
        ) from error


def _read_parts(tensors: Mapping[str, Tensor], header: Mapping[str, Any], num_classes: int) -> list[Batch]:
    """The parts of the batch.

    Raises:
        KeyError, ValueError, TypeError, RuntimeError: the file holds something else.
    """
    images, boxes_xyxy, labels, ignored = (tensors[name] for name in KINDS)
    if any((tensors[name].dtype, tensors[name].ndim) != kind for name, kind in KINDS.items()):
        raise ValueError("types")
    sizes, objects = header["parts"], header["objects"]
    if images.shape[1] != 3 or boxes_xyxy.shape[1] != 4 or not len(objects) == len(header["names"]) == len(images):
        raise ValueError("shapes")
    if min(sizes) < 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < num_classes):
        raise ValueError("sizes or labels")
    of_image = (tensor.split(objects) for tensor in (boxes_xyxy, labels, ignored))
    targets = iter([Targets(*one) for one in zip(*of_image, strict=True)])
    return [
        # The loader's memory format: another would change the last bits of the convolutions.
        Batch(
            part.contiguous(memory_format=torch.channels_last), [next(targets) for _ in part], torch.arange(len(part))
        )
        for part in images.split(sizes)
    ]
