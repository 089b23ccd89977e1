"""What the convolutions of a training step take by themselves: the least that the step can take without faster ones.

Every convolution of a step, forward and backward, is recorded with its shapes, memory formats and number formats, and
is then timed alone on random numbers.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ConvolutionRecorder(TorchDispatchMode):
    """Within, counts the convolutions and their gradients by all that their time depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[Any, tuple[Any, ...]]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            self.calls[func, tuple(_described(argument) for argument in args)] += 1
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class TensorLike:
    """All of a tensor but its values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def random(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype).normal_()


def _described(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return TensorLike(tuple(argument.shape), argument.stride(), argument.dtype)
    return tuple(argument) if isinstance(argument, list) else argument


def convolution_seconds(step: Callable[[], object], rounds: int = 3) -> float:
    """The sum over the convolutions of a step, each the median of some calls."""
    with ConvolutionRecorder() as recorder:
        step()
    total = 0.0
    for (operation, described), count in recorder.calls.items():
        arguments = [one.random() if isinstance(one, TensorLike) else one for one in described]
        seconds = []
        for _ in range(1 + rounds):
            started = time.perf_counter()
            operation(*arguments)
            seconds.append(time.perf_counter() - started)
        total += count * statistics.median(seconds[1:])
    return total
