"""A detector of two weights, whose losses and gradients can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from onestage.compute.device import Compute
from onestage.detectors import Detector
from onestage.structures import Batch, Losses, Predictions, Targets
from onestage.training.processes import ALONE, World
from onestage.training.recipe import Recipe
from onestage.training.step import OptimizerStep


class TinyDetector(Detector):
    """Of an image whose mean is v, and with both weights 1 at first: logit = class_weight v, deltas = box_weight v.

    Losses: half of each number's square; positives: the objects. So the gradient of the sums is v² class_weight and
    4 v² box_weight. `change_losses` gets the losses and the targets.
    """

    def __init__(
        self,
        *,
        batch_norm: bool = False,
        change_losses: Callable[[Losses, Sequence[Targets]], Losses] = lambda losses, targets: losses,
    ) -> None:
        nn.Module.__init__(self)
        self.norm: nn.Module = nn.BatchNorm2d(3) if batch_norm else nn.Identity()
        self.classes = nn.Linear(1, 1, bias=False)
        self.boxes = nn.Linear(1, 4, bias=False)
        nn.init.ones_(self.classes.weight)
        nn.init.ones_(self.boxes.weight)
        self.change_losses = change_losses

    def forward(self, images: Tensor) -> Predictions:
        means = self.norm(images.float()).mean(dim=(1, 2, 3))[:, None, None]  # (B, 1, 1)
        return Predictions(self.classes(means), self.boxes(means))

    def losses(self, predictions: Predictions, targets: Sequence[Targets], input_hw: tuple[int, int]) -> Losses:
        classification, box = (p.float().square().sum() / 2 for p in predictions)
        positives = torch.tensor(sum(len(one.labels) for one in targets))
        return self.change_losses(Losses({"classification": classification, "box": box}, positives), targets)


def with_box(losses: Losses, box: Tensor) -> Losses:
    """The same losses with another box loss."""
    return Losses({**losses.sums, "box": box}, losses.divisor)


def batch_of(means: Sequence[int], objects: Sequence[int], side: float = 4.0) -> Batch:
    """Images of one colour each, with so many square objects of so many pixels each."""
    images = torch.tensor(means, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    boxes = torch.tensor([1.0, 2.0, 1.0 + side, 2.0 + side])
    targets = [
        Targets(boxes.repeat(count, 1), torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool))
        for count in objects
    ]
    return Batch(images, targets, torch.arange(len(means)))


def taker_of_steps(
    detector: Detector, recipe: Recipe | None = None, dtype: torch.dtype = torch.float32, world: World = ALONE
) -> OptimizerStep:
    """Without momentum and weight decay, unless the recipe says so."""
    recipe = recipe or Recipe(steps=1, momentum=0.0, weight_decay=0.0)
    return OptimizerStep(detector, detector, recipe, Compute(torch.device("cpu"), dtype, "as the test asks"), world)
