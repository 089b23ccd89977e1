"""A step that was skipped: what was not finite in it, and the file from which it can be taken again.

Each rank looks at its own images, one by one; gathered, they give a `Diagnosis`: a line to report, an advice. The file
holds the weights, the images as they went through the network, and the losses: see `onestage train --replay FILE`.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from onestage.compute.device import DTYPES, Precision
from onestage.detectors import Detector, build_from_config, config_of
from onestage.errors import UserError
from onestage.input_size import SizeHW
from onestage.models.model_file import read_tensors, write_tensors
from onestage.structures import Batch, Losses, Predictions, Targets
from onestage.training.optimizer import train_mode
from onestage.training.recipe import Recipe
from onestage.training.step import OptimizerStep, StepLosses, in_parts

IMAGES_NAMED = 4  # in the line to report
FILES_KEPT = 3  # of a run, the first ones; each holds the network's weights
OBJECTS = ("boxes_xyxy", "labels", "ignored")  # tensors with the objects of one image after the other


@dataclass(frozen=True)
class ImageLosses:
    """One image's part in the losses of its batch. Pixels are those of the network's input."""

    name: str  # image file
    boxes: int  # number of objects after augmentation
    thinnest: float  # shortest side of any box, pixels; infinite without boxes
    losses: dict[str, float]  # undivided sums by name
    positives: int  # anchors that have an object of the image to find
    non_finite: bool  # True if this image is the reason for the skipped step, as far as that can be known
    non_finite_box: tuple[float, ...] | None  # first object (xyxy) whose losses are not finite, whatever is predicted

    def __str__(self) -> str:
        if self.non_finite_box is not None:
            x0, y0, x1, y1 = self.non_finite_box
            return f"{self.name} (its box of {x1 - x0:.3g} x {y1 - y0:.3g} px at {x0:.4g}, {y0:.4g})"
        if not self.boxes:
            return f"{self.name} (no boxes)"
        return f"{self.name} ({self.boxes} box{'es' * (self.boxes > 1)}, the thinnest {self.thinnest:.2g} px)"


@dataclass(frozen=True)
class Diagnosis:
    """What was not finite in a step."""

    losses: StepLosses
    images: list[ImageLosses]  # of all ranks, in the order in which one process alone would take them
    layer: str | None  # name of the first layer whose output is not finite
    parameters: list[str]  # names of parameters whose gradient is not finite
    compute_dtype: torch.dtype  # number format of the network
    learning_rate: float  # the recipe's

    def __str__(self) -> str:
        """One line: the loss or gradient, the layer, the images and boxes."""
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.by_name.items())
        bad = [name for name, value in self.losses.by_name.items() if not math.isfinite(value)]
        if bad:
            what = f"the {' and the '.join(bad)} loss {'are' if len(bad) > 1 else 'is'} not finite ({values})"
        elif self.parameters:
            parameters = self.parameters[0] + _more(len(self.parameters) - 1, "parameter")
            what = f"the gradient of {parameters} is not finite (losses: {values})"
        else:
            what = f"the gradient is so large that float32 can't hold its norm (losses: {values})"
        layer = f", from layer {self.layer} on" if self.layer is not None else ""
        named = [image for image in self.images if image.non_finite] or self.images
        images = ", ".join(map(str, named[:IMAGES_NAMED])) + _more(len(named) - IMAGES_NAMED, "image")
        return f"{what}{layer}; {'by' if len(named) < len(self.images) else 'in'} {images}"

    def advice(self, steps_taken: int) -> str:
        """What to do; `steps_taken`: by the run before this step."""
        by_box = [image for image in self.images if image.non_finite_box is not None]
        if by_box:
            return f"mend or remove the box (pixels are those of the network's input): {by_box[0]}"
        if self.compute_dtype == torch.float16:
            return "float16 holds no numbers above 65,504: start again with --precision bf16, or fp32"
        if not steps_taken:
            return "no step was taken before, so the weights at the start are at fault: try other --backbone-weights"
        smaller = f"{self.learning_rate / 4:.2g}"
        return f"the learning rate is too large for this: start again with a smaller --learning-rate, as {smaller}"


def _more(count: int, what: str) -> str:
    """` and 3 more images`; nothing where there are no more."""
    return f" and {count} more {what}{'s' * (count > 1)}" if count > 0 else ""


def diagnose(step: OptimizerStep, parts: Sequence[Batch], names: Sequence[str], losses: StepLosses) -> Diagnosis:
    """Look again at a step that was just skipped. Every rank looks at its part; all get the same answer.

    `step` still has the step's gradient, and the statistics from before it. `parts` are this rank's images as they went
    through the network, `names` their files.
    """
    remaining = iter(names)
    with non_finite_layers(step.detector) as layers:
        own = [look_at_part(step, part, list(itertools.islice(remaining, len(part.targets)))) for part in parts]
    of_all = step.world.gather((own, min(layers, default=None)))
    first = min((layer for _, layer in of_all if layer is not None), default=None)
    gradients = {name: p.grad for name, p in step.detector.named_parameters() if p.grad is not None}
    return Diagnosis(
        losses=losses,
        images=[image for part in zip(*(images for images, _ in of_all), strict=True) for one in part for image in one],
        layer=None if first is None else first[1],
        parameters=[name for name, gradient in gradients.items() if not gradient.isfinite().all()],
        compute_dtype=step.compute.dtype,
        learning_rate=step.recipe.learning_rate,
    )


@torch.no_grad()
def look_at_part(step: OptimizerStep, part: Batch, names: Sequence[str]) -> list[ImageLosses]:
    """Each image's losses with the present weights."""
    detector, input_hw = step.detector, (part.images.shape[2], part.images.shape[3])
    # A compiled network would be compiled again for this, and its layers can't be watched.
    with step.statistics_kept(), step.compute.autocast():
        predictions = detector(part.images)
    non_finite = non_finite_rows(predictions)
    if all(non_finite):
        # Batch norms spread a NaN over all images, of all ranks. With the running statistics, each stands alone.
        detector.eval()
        with step.compute.autocast():
            non_finite = non_finite_rows(detector(part.images))
        train_mode(detector)
    images = []
    for row, (name, targets) in enumerate(zip(names, part.targets, strict=True)):
        own = Predictions(*(p[row : row + 1] for p in predictions))
        losses, finite = losses_of(detector, own, targets, input_hw)
        by_losses = not finite and not any(non_finite_rows(own))
        sides = (targets.boxes_xyxy[:, 2:] - targets.boxes_xyxy[:, :2]).flatten()
        image = ImageLosses(
            name=name,
            boxes=len(targets.labels),
            thinnest=sides.min().item() if len(sides) else math.inf,
            losses={part: value.item() for part, value in losses.sums.items()},
            positives=int(losses.divisor.item()),
            non_finite=non_finite[row] or by_losses,
            non_finite_box=box_at_fault(detector, own, targets, input_hw) if by_losses else None,
        )
        images.append(image)
    return images


def non_finite_rows(predictions: Predictions) -> list[bool]:
    """For each image, True if a number predicted for it is not finite."""
    return torch.stack([~p.isfinite().flatten(1).all(dim=1) for p in predictions]).any(dim=0).tolist()


def box_at_fault(detector: Detector, own: Predictions, targets: Targets, input_hw: SizeHW) -> tuple[float, ...] | None:
    """The first object of an image that by itself gives losses that are not finite, even for predictions of 0."""
    zeros = Predictions(*(torch.zeros_like(p) for p in own))  # the predictions may be too large themselves
    for row in range(len(targets.labels)):
        rows = slice(row, row + 1)
        alone = Targets(targets.boxes_xyxy[rows], targets.labels[rows], targets.ignored[rows])
        if not losses_of(detector, zeros, alone, input_hw)[1]:
            return tuple(targets.boxes_xyxy[row].tolist())
    return None


@torch.enable_grad()
def losses_of(detector: Detector, predictions: Predictions, targets: Targets, input_hw: SizeHW) -> tuple[Losses, bool]:
    """One image's losses, and True if they and their gradient by its predictions are finite."""
    leaves = [p.detach().requires_grad_() for p in predictions]
    losses = detector.losses(Predictions(*leaves), [targets], input_hw)
    sums = list(losses.sums.values())
    gradients = torch.autograd.grad(reduce(torch.add, sums), leaves, allow_unused=True)
    numbers = [*sums, *(gradient for gradient in gradients if gradient is not None)]
    return losses, all(bool(number.isfinite().all()) for number in numbers)


@contextmanager
def non_finite_layers(detector: Detector) -> Iterator[list[tuple[int, str]]]:
    """Inside of `with`, layers whose output is not finite come into a list: the number of the call, the name."""
    found, calls = list[tuple[int, str]](), itertools.count()

    def check(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        call = next(calls)
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append((call, name))

    with ExitStack() as hooks:
        for name, module in detector.named_modules():
            if not list(module.children()):
                hooks.enter_context(module.register_forward_hook(partial(check, name)))
        yield found


# --- the file


class StepPosition(NamedTuple):
    """Where a step stands in its run."""

    number: int  # from 1
    steps_taken: int  # by the run before, skipped ones left out
    learning_rate: float


@dataclass(frozen=True)
class SkippedStep:
    """A skipped step with all that it takes to take it again."""

    detector: Detector  # has the weights from before the step
    recipe: Recipe
    parts: list[Batch]  # parts of the batch, as one process takes them
    names: list[str]  # image files, in the parts' order
    position: StepPosition
    precision: Precision  # of the run, as the device
    device: str
    scaler: dict[str, Any]  # state of float16's loss scaling
    losses: StepLosses  # in the run


def save_skipped_step(path: Path, step: OptimizerStep, batch: Batch, diagnosis: Diagnosis, at: StepPosition) -> bool:
    """Write the file of a step that was just skipped; False if the folder has enough of them, or can't be written."""
    others = set(path.parent.glob(f"*{path.suffix}")) - {path}
    if not step.world.from_main(len(others) < FILES_KEPT):
        return False
    batches = step.world.gather(batch.to(torch.device("cpu")))  # all ranks' images; rank 0 writes

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
            **at._asdict(),
            "precision": next(name for name, dtype in DTYPES.items() if dtype == step.compute.dtype),
            "device": str(step.compute.device),
            "scaler": step.scaler.state_dict(),
            "losses": asdict(diagnosis.losses),
        }
        tensors = {f"model/{name}": tensor for name, tensor in step.detector.state_dict().items()}
        tensors["images"] = torch.cat([piece.images for piece in pieces])
        tensors |= {name: torch.cat([getattr(one, name) for one in targets]) for name in OBJECTS}
        try:
            write_tensors(path, tensors, header)
        except UserError:  # a full disk is reported when the run saves; this file is not worth its end
            return False
        return True

    return step.world.on_main(write)


def read_skipped_step(path: Path) -> SkippedStep:
    """Read the file; a UserError if there is none, or it is another file, or damaged."""
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
    """The parts of the batch. A file that holds something else raises a KeyError, ValueError, TypeError, ..."""
    images, boxes_xyxy, labels, ignored = (tensors[name] for name in ("images", *OBJECTS))
    kinds = [(tensor.dtype, tensor.ndim) for tensor in (images, boxes_xyxy, labels, ignored)]
    if kinds != [(torch.uint8, 4), (torch.float32, 2), (torch.int64, 1), (torch.bool, 1)]:
        raise ValueError("types")
    sizes, objects = header["parts"], header["objects"]
    if images.shape[1] != 3 or boxes_xyxy.shape[1] != 4 or not len(objects) == len(header["names"]) == len(images):
        raise ValueError("shapes")
    if min(sizes) < 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < num_classes):
        raise ValueError("sizes or labels")
    of_image = (tensor.split(objects) for tensor in (boxes_xyxy, labels, ignored))
    targets = iter([Targets(*one) for one in zip(*of_image, strict=True)])
    # The loader's memory format: another would change the last bits of the convolutions.
    images = images.contiguous(memory_format=torch.channels_last)
    return [Batch(part, [next(targets) for _ in part], torch.arange(len(part))) for part in images.split(sizes)]
