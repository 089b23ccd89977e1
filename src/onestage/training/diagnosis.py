"""Diagnosis of a step that was skipped: which loss or gradient is not finite, where it comes from, what to do.

each rank looks at its own images, one by one  ->  gathered  ->  Diagnosis: a line to report, an advice
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from onestage.detectors import Detector
from onestage.input_size import SizeHW
from onestage.structures import Batch, Losses, Predictions, Targets
from onestage.training.optimizer import train_mode
from onestage.training.step import OptimizerStep, StepLosses

IMAGES_NAMED = 4


@dataclass(frozen=True)
class ImageLosses:
    """One image's part in the losses of its batch.

    Attributes:
        name: image file.
        boxes: number of objects after augmentation.
        thinnest: shortest side of any box, pixels of the network's input; infinite without boxes.
        losses: undivided sums by name.
        positives: anchors that have an object of the image to find.
        non_finite: True if this image is the reason for the skipped step, as far as that can be known.
        non_finite_box: first object (xyxy, pixels of the input) whose losses are not finite, whatever is predicted.
    """

    name: str
    boxes: int
    thinnest: float
    losses: dict[str, float]
    positives: int
    non_finite: bool
    non_finite_box: tuple[float, ...] | None

    def __str__(self) -> str:
        if self.non_finite_box is not None:
            x0, y0, x1, y1 = self.non_finite_box
            return f"{self.name} (its box of {x1 - x0:.3g} x {y1 - y0:.3g} px at {x0:.4g}, {y0:.4g})"
        if not self.boxes:
            return f"{self.name} (no boxes)"
        return f"{self.name} ({self.boxes} box{'es' * (self.boxes > 1)}, the thinnest {self.thinnest:.2g} px)"


@dataclass(frozen=True)
class Diagnosis:
    """What was not finite in a step.

    Attributes:
        losses: the step's losses.
        images: images of all ranks, in the order in which one process alone would take them.
        layer: name of the first layer whose output is not finite.
        parameters: names of parameters whose gradient is not finite.
        compute_dtype: number format of the network.
        learning_rate: the recipe's.
    """

    losses: StepLosses
    images: list[ImageLosses]
    layer: str | None
    parameters: list[str]
    compute_dtype: torch.dtype
    learning_rate: float

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

    Args:
        step: has the gradient of the skipped step still, and the statistics from before it.
        parts: this rank's images, as they went through the network.
        names: their files, in order.
        losses: the step's losses.
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
            non_finite_box=first_non_finite_box(detector, own, targets, input_hw) if by_losses else None,
        )
        images.append(image)
    return images


def non_finite_rows(predictions: Predictions) -> list[bool]:
    """For each image, True if a number predicted for it is not finite."""
    return torch.stack([~p.isfinite().flatten(1).all(dim=1) for p in predictions]).any(dim=0).tolist()


def first_non_finite_box(
    detector: Detector, own: Predictions, targets: Targets, input_hw: SizeHW
) -> tuple[float, ...] | None:
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
    found: list[tuple[int, str]] = []
    calls = itertools.count()

    def check(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        call = next(calls)
        if isinstance(output, Tensor) and not output.isfinite().all():
            found.append((call, name))

    leaves = ((name, module) for name, module in detector.named_modules() if not list(module.children()))
    handles = [module.register_forward_hook(partial(check, name)) for name, module in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
