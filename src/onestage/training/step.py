"""One optimizer step: a batch in parts, on many processes, in float16 or not; taken only if all of it is finite.

    part -> predictions -> loss sums / positives -> backward, ... -> one gradient -> finite? -> clip -> optimizer

The losses are divided by the positives of the whole batch: of all its parts and all processes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from onestage.compute.device import Compute
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.structures import Batch, Losses
from onestage.training.optimizer import build_optimizer, set_learning_rate, trained_batch_norms
from onestage.training.processes import World
from onestage.training.recipe import Recipe


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step over all processes, per positive anchor, and what its gradient was like.

    Attributes:
        classification, box: per positive anchor; `box` with the recipe's weight.
        positives: anchors that are to find an object.
        gradient_norm: before clipping.
        overflow: the gradient is not finite because float16's losses were scaled up too far; the scale is lowered then.
    """

    classification: float
    box: float
    positives: float
    gradient_norm: float
    overflow: bool = False

    @property
    def total(self) -> float:
        return self.classification + self.box

    @property
    def finite(self) -> bool:
        """Whether the step could be taken; it was not where this is false."""
        return math.isfinite(self.total) and math.isfinite(self.gradient_norm)


class OptimizerStep:
    """Takes the steps of a run."""

    def __init__(self, detector: Detector, network: nn.Module, recipe: Recipe, compute: Compute, world: World) -> None:
        """`network`: the detector as it is called (compiled, connected to other processes).

        Raises:
            UserError: all parameters are frozen.
        """
        self.detector, self.network, self.recipe, self.compute, self.world = detector, network, recipe, compute, world
        self._parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise UserError("frozen: all parameters are; leave some to train")
        self.optimizer = build_optimizer(detector, recipe)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
        self._statistics = [buffer for norm in trained_batch_norms(detector) for buffer in norm.buffers()]

    def __call__(self, batch: Batch, learning_rate: float) -> StepLosses:
        """Take one, unless its loss or gradient is not finite: then weights and statistics are as they were."""
        set_learning_rate(self.optimizer, learning_rate)
        before = self._copies_of_statistics()
        losses = self.gradient(in_parts(batch, self.recipe.accumulate))
        if losses.finite:
            if self.recipe.gradient_clip is not None:
                norm = torch.tensor(losses.gradient_norm, device=self.compute.device)
                nn.utils.clip_grads_with_norm_(self._parameters, self.recipe.gradient_clip, norm, foreach=True)
            self.optimizer.step()
        else:
            self._restore(before)
        if self.scaler.is_enabled():
            # A loss that is not finite is not the scale's fault: then it stays.
            self.scaler.update(None if losses.finite or losses.overflow else self.scaler.get_scale())
        return losses

    def gradient(self, parts: Sequence[Batch]) -> StepLosses:
        """Leave the gradient of the whole batch's losses in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        first_positives, sums = torch.ones((), device=self.compute.device), []
        for part in parts:
            with nullcontext() if part is parts[-1] else self.world.without_exchange(self.network):
                part_sums = self.losses(part)
                if not sums:  # the divisor of all parts, until that of the whole batch is known
                    first_positives = self.world.sum(part_sums.num_positives).clamp(min=1)
                box_loss = self.recipe.box_loss_weight * part_sums.box / first_positives
                loss = part_sums.classification / first_positives + box_loss
                # The mean over the processes is taken of their gradients; the sum is wanted.
                self.scaler.scale(loss * self.world.size).backward()
            sums.append(torch.stack([part_sums.classification, part_sums.box, part_sums.num_positives]).detach())
        classification, box, positives = self.world.sum(torch.stack(sums).sum(dim=0))
        divisor = positives.clamp(min=1)
        if len(parts) > 1:
            for gradient in self._gradients():
                gradient.mul_(first_positives / divisor)
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(self._gradients(), foreach=True)
        box_loss = self.recipe.box_loss_weight * box / divisor
        losses = StepLosses(*torch.stack([classification / divisor, box_loss, positives, norm]).tolist())
        return replace(losses, overflow=self._scaled_too_far(losses))

    def _scaled_too_far(self, losses: StepLosses) -> bool:
        """Whether the gradient is not finite, and that may be because float16's losses were scaled up."""
        if losses.finite or not math.isfinite(losses.total) or self.scaler.get_scale() <= 1:
            return False
        return not all(
            gradient.isfinite().all() for gradient in self._gradients()
        )  # else their norm alone is too large

    def losses(self, part: Batch) -> Losses:
        """Of one part, with their graph."""
        with self.compute.autocast():
            predictions = self.network(part.images)
        return self.detector.losses(predictions, part.targets, (part.images.shape[2], part.images.shape[3]))

    @contextmanager
    def statistics_kept(self) -> Iterator[None]:
        """After `with`, the batch norms' statistics are as before."""
        before = self._copies_of_statistics()
        try:
            yield
        finally:
            self._restore(before)

    def _copies_of_statistics(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._statistics]

    @torch.no_grad()
    def _restore(self, statistics: Sequence[Tensor]) -> None:
        for buffer, value in zip(self._statistics, statistics, strict=True):
            buffer.copy_(value)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]


def in_parts(batch: Batch, count: int) -> Sequence[Batch]:
    """A batch cut into so many, or as many as it has images, whose sizes differ by one at most."""
    size = len(batch.images)
    count = min(count, size)
    edges = [size * part // count for part in range(count + 1)]
    return [
        Batch(batch.images[first:end], batch.targets[first:end], batch.image_indices[first:end])
        for first, end in itertools.pairwise(edges)
    ]
