"""One optimizer step: a batch in parts, in one or many processes, in float16 or not; taken only if all of it is finite.

    part -> predictions -> named loss sums / positives -> backward, ... -> one gradient -> finite? -> clip -> optimizer

Losses are divided by the positive anchors of the whole batch, or by a divisor of their own: of all its parts and all
processes.
"""

import functools
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
from onestage.training.optimizer import build_optimizer, copy_all, set_learning_rate, trained_batch_norms
from onestage.training.processes import World
from onestage.training.recipe import Recipe


@dataclass(frozen=True)
class StepLosses:
    """Losses of one step over all processes, divided, and the norm of its gradient."""

    by_name: dict[str, float]  # the parts of the loss, as the detector names them
    positives: float  # anchors that have an object to find; sums without a divisor of their own were divided by it
    gradient_norm: float  # of the whole gradient, before clipping
    overflow: bool = False  # True if the gradient is not finite because float16's losses were scaled up too far

    @property
    def total(self) -> float:
        return sum(self.by_name.values())

    @property
    def finite(self) -> bool:
        """False if the step was skipped because a number is not finite."""
        return math.isfinite(self.total) and math.isfinite(self.gradient_norm)


class OptimizerStep:
    """Takes the steps of a run."""

    def __init__(self, detector: Detector, network: nn.Module, recipe: Recipe, compute: Compute, world: World) -> None:
        """`network`: the detector as it is called (compiled, connected). A UserError if all parameters are frozen."""
        self.detector, self.network, self.recipe, self.compute, self.world = detector, network, recipe, compute, world
        self._parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        if not self._parameters:
            raise UserError("frozen: all parameters are; leave some to train")
        self.optimizer = build_optimizer(detector, recipe)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
        self._statistics = [buffer for norm in trained_batch_norms(detector) for buffer in norm.buffers()]
        self._before = [buffer.clone() for buffer in self._statistics]

    def __call__(self, batch: Batch, learning_rate: float) -> StepLosses:
        """Take one step. If its loss or gradient is not finite, weights and batch norm statistics stay as they were."""
        set_learning_rate(self.optimizer, learning_rate)
        copy_all(zip(self._before, self._statistics, strict=True))
        losses = self.gradient(in_parts(batch, self.recipe.accumulate))
        if losses.finite:
            if self.recipe.gradient_clip is not None:
                clip(self._gradients(), losses.gradient_norm, self.recipe.gradient_clip)
            self.optimizer.step()
        else:
            copy_all(zip(self._statistics, self._before, strict=True))
        if self.scaler.is_enabled():
            # The scale stays where it is not the reason for a loss that is not finite.
            self.scaler.update(None if losses.finite or losses.overflow else self.scaler.get_scale())
        return losses

    def gradient(self, parts: Sequence[Batch]) -> StepLosses:
        """Leave the gradient of the whole batch's losses in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        names: list[str] = []
        sums: list[Tensor] = []  # of each part: the losses by name, what each is divided by, the positives
        divisors: Tensor | None = None
        if len(parts) > 1 and self.detector.several_divisors:
            divisors = self._divisors_of(parts)
        for part in parts:
            with nullcontext() if part is parts[-1] else self.world.without_exchange(self.network):
                losses = self.losses(part)
                names = list(losses.sums)
                if divisors is None:  # the first part's divisor serves all parts until that of the whole batch is known
                    divisors = self.world.sum(losses.divisors()).clamp(min=1)
                divided = (value / by for value, by in zip(losses.sums.values(), divisors, strict=True))
                # Processes average their gradients, but the sum is wanted.
                self.scaler.scale(functools.reduce(torch.add, divided) * self.world.size).backward()
            sums.append(torch.stack([*losses.sums.values(), *losses.divisors(), losses.divisor]).detach())
        *values, positives = self.world.sum(torch.stack(sums).sum(dim=0))
        values, whole_divisors = values[: len(names)], torch.stack(values[len(names) :]).clamp(min=1)
        if len(parts) > 1 and divisors is not None and not self.detector.several_divisors:
            for gradient in self._gradients():
                gradient.mul_(divisors[0] / whole_divisors[0])
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(self._gradients(), foreach=True)
        divided = (value / by for value, by in zip(values, whole_divisors, strict=True))
        numbers = torch.stack([*divided, positives, norm]).tolist()
        result = StepLosses(dict(zip(names, numbers, strict=False)), positives=numbers[-2], gradient_norm=numbers[-1])
        if result.finite or not math.isfinite(result.total) or self.scaler.get_scale() <= 1:
            return result
        # Float16's losses may be scaled up too far; or each gradient is finite, and their norm too large for float32.
        return replace(result, overflow=not all(gradient.isfinite().all() for gradient in self._gradients()))

    def losses(self, part: Batch) -> Losses:
        """The losses of one part, with their graph."""
        with self.compute.autocast():
            predictions = self.network(part.images)
        return self.detector.losses(predictions, part.targets, (part.images.shape[2], part.images.shape[3]))

    def _divisors_of(self, parts: Sequence[Batch]) -> Tensor:
        """The divisors of the whole batch, before any gradient is computed, by a forward pass more.

        One factor mends a gradient whose losses were all divided by one number, but not by several.
        """
        with torch.no_grad(), self.statistics_kept():
            return self.world.sum(torch.stack([self.losses(part).divisors() for part in parts]).sum(dim=0)).clamp(min=1)

    @contextmanager
    def statistics_kept(self) -> Iterator[None]:
        """Put the statistics of the batch norms back after `with`."""
        before = [buffer.clone() for buffer in self._statistics]
        try:
            yield
        finally:
            copy_all(zip(self._statistics, before, strict=True))

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]


def clip(gradients: list[Tensor], norm: float, most: float) -> None:
    """Scale gradients of a norm above `most` to that, by what `torch.nn.utils.clip_grad_norm_` computes in float32."""
    factor = float(most / (torch.tensor(norm) + 1e-6))
    if factor < 1:
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]


def in_parts(batch: Batch, count: int) -> Sequence[Batch]:
    """Cut a batch into `count` parts (or one an image, where it has fewer), whose sizes differ by one at most."""
    size = len(batch.images)
    count = min(count, size)
    edges = [size * part // count for part in range(count + 1)]
    return [
        Batch(batch.images[first:end], batch.targets[first:end], batch.image_indices[first:end])
        for first, end in itertools.pairwise(edges)
    ]
