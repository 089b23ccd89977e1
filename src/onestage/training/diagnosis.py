"""A step that was skipped because its loss or gradient is not finite: what was seen in it, and what to do.

    each process looks at its own images, one by one  ->  put together  ->  Diagnosis: a line to say, an advice

`replay_file.py` keeps the step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    """What one image gives to the losses of its batch.

    Attributes:
        name: of its file.
        boxes: objects in it after augmentation.
        thinnest: the shortest side of any of them, pixels of the network's input; infinite without boxes.
        classification, box: its part of the sums, undivided.
        positives: anchors matched in it.
        sick: the trouble is in this image, as far as that can be told.
        sick_box: the first object (xyxy, pixels of the input) whose losses are not finite whatever is predicted.
    """

    name: str
    boxes: int
    thinnest: float
    classification: float
    box: float
    positives: int
    sick: bool
    sick_box: tuple[float, ...] | None

    def __str__(self) -> str:
        if self.sick_box is not None:
            x0, y0, x1, y1 = self.sick_box
            return f"{self.name} (its box of {x1 - x0:.3g} x {y1 - y0:.3g} px at {x0:.4g}, {y0:.4g})"
        if not self.boxes:
            return f"{self.name} (no boxes)"
        return f"{self.name} ({self.boxes} box{'es' * (self.boxes > 1)}, the thinnest {self.thinnest:.2g} px)"


@dataclass(frozen=True)
class Diagnosis:
    """What was not finite in a step.

    Attributes:
        losses: of the step.
        images: of all processes, in the order of the parts that one process alone would take.
        layer: the first whose output is not finite, by name.
        parameters: names of those whose gradient is not finite.
        compute_dtype: in which the network ran.
        learning_rate: the recipe's.
    """

    losses: StepLosses
    images: list[ImageLosses]
    layer: str | None
    parameters: list[str]
    compute_dtype: torch.dtype
    learning_rate: float

    def __str__(self) -> str:
        """Which loss or gradient, from where on, and which images and boxes; one line."""
        layer = f", from layer {self.layer} on" if self.layer is not None else ""
        sick = [image for image in self.images if image.sick]
        named = sick or self.images
        images = ", ".join(map(str, named[:IMAGES_NAMED])) + _more(len(named) - IMAGES_NAMED, "image")
        return f"{self._numbers()}{layer}; {'by' if len(named) < len(self.images) else 'in'} {images}"

    def _numbers(self) -> str:
        losses = {"class": self.losses.classification, "box": self.losses.box}
        values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        sick = [name for name, value in losses.items() if not math.isfinite(value)]
        if sick:
            return f"the {' and the '.join(sick)} loss {'are' if len(sick) > 1 else 'is'} not finite ({values})"
        if self.parameters:
            parameters = self.parameters[0] + _more(len(self.parameters) - 1, "parameter")
            return f"the gradient of {parameters} is not finite (losses: {values})"
        return f"the gradient is so large that float32 can't hold its norm (losses: {values})"

    def advice(self, steps_taken: int) -> str:
        """What to do, by what was seen; `steps_taken`: by the run, before this one."""
        by_box = [image for image in self.images if image.sick_box is not None]
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
    """Look again at a step that was just skipped. Every process does, each at its part; all get the same answer.

    Args:
        step: its gradient is still there, and its statistics are as before it.
        parts: of this process, as they went through the network.
        names: of their images, in order.
        losses: what the step said.
    """
    with sick_outputs(step.detector) as outputs:
        own = look_at_images(step, parts, names)
    of_all = step.world.gather((own, min(outputs, default=None)))
    first = min((output for _, output in of_all if output is not None), default=None)
    together = zip(*(images for images, _ in of_all), strict=True)  # by part
    return Diagnosis(
        losses=losses,
        images=[image for part in together for one in part for image in one],
        layer=None if first is None else first[1],
        parameters=sick_parameters(step.detector),
        compute_dtype=step.compute.dtype,
        learning_rate=step.recipe.learning_rate,
    )


@torch.no_grad()
def look_at_images(step: OptimizerStep, parts: Sequence[Batch], names: Sequence[str]) -> list[list[ImageLosses]]:
    """Each image's losses with the present weights, by part.

    Batch norms spread a NaN over all images, of all processes. Where all images of a part have it, each is asked
    again with the running statistics, and those that have it even so are sick.
    """
    remaining = iter(names)
    found: list[list[ImageLosses]] = []
    for part in parts:
        with step.statistics_kept():
            predictions = predict(step, part)
        sick = sick_rows(predictions)
        if all(sick):
            step.detector.eval()
            sick = sick_rows(predict(step, part))
            train_mode(step.detector)
        input_hw = (part.images.shape[2], part.images.shape[3])
        found.append([])
        for row, targets in enumerate(part.targets):
            own = Predictions(*(p[row : row + 1] for p in predictions))
            found[-1].append(look_at_image(step.detector, own, targets, input_hw, next(remaining), sick[row]))
    return found


def predict(step: OptimizerStep, part: Batch) -> Predictions:
    """By the detector itself: a compiled one would be compiled again for this, and its layers can't be watched."""
    with step.compute.autocast():
        return step.detector(part.images)


def sick_rows(predictions: Predictions) -> list[bool]:
    """Of each image, whether anything predicted for it is not finite."""
    return torch.stack([~p.isfinite().flatten(1).all(dim=1) for p in predictions]).any(dim=0).tolist()


def look_at_image(
    detector: Detector, own: Predictions, targets: Targets, input_hw: SizeHW, name: str, sick: bool
) -> ImageLosses:
    """One image by what was predicted for it; `sick`: that is not finite, and not because of another image."""
    sums, finite = losses_of(detector, own, targets, input_hw)
    only_losses = not finite and not any(sick_rows(own))
    sides = (targets.boxes_xyxy[:, 2:] - targets.boxes_xyxy[:, :2]).flatten()
    return ImageLosses(
        name=name,
        boxes=len(targets.labels),
        thinnest=sides.min().item() if len(sides) else math.inf,
        classification=sums.classification.item(),
        box=sums.box.item(),
        positives=int(sums.num_positives.item()),
        sick=sick or only_losses,
        sick_box=first_sick_box(detector, own, targets, input_hw) if only_losses else None,
    )


def first_sick_box(
    detector: Detector, own: Predictions, targets: Targets, input_hw: SizeHW
) -> tuple[float, ...] | None:
    """The first object of an image that by itself gives losses that are not finite, even for predictions of 0."""
    zeros = Predictions(*(torch.zeros_like(p) for p in own))  # as they are, they may be too large themselves
    for row in range(len(targets.labels)):
        rows = slice(row, row + 1)
        alone = Targets(targets.boxes_xyxy[rows], targets.labels[rows], targets.ignored[rows])
        if not losses_of(detector, zeros, alone, input_hw)[1]:
            return tuple(targets.boxes_xyxy[row].tolist())
    return None


@torch.enable_grad()
def losses_of(
    detector: Detector, predictions: Predictions, targets: Targets, input_hw: SizeHW
) -> tuple[Losses, bool]:
    """One image's losses, and whether they and their gradient by its predictions are finite."""
    leaves = [p.detach().requires_grad_() for p in predictions]
    sums = detector.losses(Predictions(*leaves), [targets], input_hw)
    gradients = torch.autograd.grad(sums.classification + sums.box, leaves, allow_unused=True)
    numbers = [sums.classification, sums.box, *(gradient for gradient in gradients if gradient is not None)]
    return sums, all(bool(number.isfinite().all()) for number in numbers)


def sick_parameters(detector: Detector) -> list[str]:
    """Names of the parameters whose gradient is not finite."""
    gradients = {name: parameter.grad for name, parameter in detector.named_parameters() if parameter.grad is not None}
    return [name for name, gradient in gradients.items() if not gradient.isfinite().all()]


@contextmanager
def sick_outputs(detector: Detector) -> Iterator[list[tuple[int, str]]]:
    """Inside of `with`, layers that put out what is not finite come into a list: the number of the call, the name."""
    found: list[tuple[int, str]] = []
    calls = itertools.count()

    def watched(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            call = next(calls)
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append((call, name))

        return hook

    leaves = ((name, module) for name, module in detector.named_modules() if not list(module.children()))
    handles = [module.register_forward_hook(watched(name)) for name, module in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
