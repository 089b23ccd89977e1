"""`--batch-size auto`: as many images a step as fit in memory and make training faster, found by trying.

Steps are tried with noise for images. On a GPU too many are an error that is caught; on a processor they would get
this process killed, so there no size is tried that the sizes before it do not promise to fit.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import torch

from onestage.compute.device import Compute, keep_freed_memory
from onestage.compute.memory import Memory, memory_of, out_of_memory
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.input_size import SizeHW
from onestage.structures import Targets
from onestage.training.optimizer import train_mode, trained_batch_norms
from onestage.training.recipe import Recipe

SHARE = 0.8  # of the free memory: batches differ in their sizes and objects, and other programs live too
GAIN = 1.1  # in images a second, that twice the images a step must bring; timings differ by a twentieth or so
MOST_GROWTH = 8  # times the recipe's images a step: further than that the scaling rules of the rate are not trusted
LEAST_STEPS = 1000  # of a run: with fewer, larger batches learn less
OBJECTS = 3  # in each tried image
TIMED_STEPS, TIMED_SECONDS = 3, 3.0  # a size is timed by the fastest of so many steps, or of those in so long


@dataclass(frozen=True)
class BatchSizeFound:
    """Fields of a recipe, and why, in one line."""

    batch_size: int  # images an optimizer step
    accumulate: int  # parts in which they go through the network
    learning_rate: float
    reason: str


@dataclass(frozen=True)
class Tried:
    """A size that was tried and fits."""

    size: int  # images
    bytes: int  # that its steps took at most
    seconds: float  # of a step

    @property
    def pace(self) -> float:
        """Images a second."""
        return self.size / max(self.seconds, 1e-9)


def find_batch_size(
    detector: Detector,
    compute: Compute,
    *,
    recipe: Recipe,
    limit: int,
    say: Callable[[str], None],
    memory: Memory | None = None,
) -> BatchSizeFound:
    """The images a step for this detector on this machine, beginning with the recipe's.

    Where fewer fit, a step's images go through the network in parts, and the learning rate stays. Where more fit and
    are faster, the rate is scaled (see `scaled_rate`). Runs that count steps get no more: they would only take longer.

    Args:
        detector: with what is frozen frozen. It is put where it runs; its weights, statistics and modes are as before
            afterwards, as are random states; it has no gradients.
        compute: where it runs.
        recipe: of the run.
        limit: training images; a step takes no more.
        say: told that this begins.
        memory: how much is free and taken; None: the device's.

    Raises:
        UserError: not even the smallest batch fits, or there are too few images for it.
    """
    least = 2 if trained_batch_norms(detector) else 1  # images that go through the network together
    if limit < least:
        raise UserError(f"batch size auto: training images: {limit}; this detector needs {least}; use more images")
    given = min(recipe.batch_size, limit)
    start = max(least, given)
    say(f"batch size: trying steps of {start} images, and of more or fewer ...")
    keep_freed_memory()  # as the run will
    compute.place(detector)
    memory = memory or memory_of(compute.device)
    free = memory.free()
    room = int(SHARE * free) - state_bytes(detector, recipe)
    input_hw = largest_usual_input_hw(detector)
    with as_before(detector, compute.device):
        search = Search(_Trials(detector, compute, memory, input_hw), room, least, careful=memory.careful)
        size = search.largest_that_fits(start)
        if size == start:
            size = search.faster(start, *growth_limits(recipe, start, limit))
    if size is None:
        raise UserError(
            f"batch size auto: even steps of {least} ({input_hw[1]} x {input_hw[0]} pixels) do not fit in "
            f"{_gb(max(0, room))} ({SHARE:.0%} of the free {_gb(free)}, less the optimizer's state); use smaller "
            "images, a smaller detector, or free memory"
        )
    batch_size, accumulate = divided(max(size, start), size, least)
    factor = max(1.0, batch_size / given)
    rate = scaled_rate(recipe.optimizer, recipe.learning_rate, factor)
    in_parts = f" in {accumulate} parts of up to {size}" if accumulate > 1 else ""
    reason = (
        f"batch size {batch_size}{in_parts} by trial: {_gb(search.tried[size].bytes)} of {_gb(free)} free, "
        f"{search.compared(size)}; learning rate {recipe.learning_rate:.3g}{f' -> {rate:.3g}' if factor > 1 else ''}"
    )
    return BatchSizeFound(batch_size, accumulate, rate, reason)


def divided(images: int, size: int, least: int) -> tuple[int, int]:
    """The images of a step, and into how many parts of `least` to `size` images `in_parts` is to cut them.

    An odd one is left out where parts of exactly two are wanted, as batch norms may.
    """
    if size == least == 2:
        images -= images % 2
    return images, math.ceil(images / size)


def scaled_rate(optimizer: Literal["sgd", "adamw"], learning_rate: float, factor: float) -> float:
    """The learning rate for `factor` times the images a step.

    SGD: times the factor (Goyal 2017, arXiv 1706.02677, 2.1). AdamW: times its root (Malladi 2022, arXiv 2205.10287).
    """
    return learning_rate * (factor if optimizer == "sgd" else math.sqrt(factor))


def growth_limits(recipe: Recipe, start: int, limit: int) -> tuple[int, float]:
    """The most images a step that the run is good for, and the most seconds."""
    most = min(limit, MOST_GROWTH * start)
    if recipe.epochs is not None:
        return min(most, int(recipe.epochs * recipe.repeat * limit / LEAST_STEPS)), math.inf
    if recipe.minutes is not None:
        return most, 60 * recipe.minutes / LEAST_STEPS
    return start, math.inf


def _gb(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count < 10e9 else f"{count / 1e9:.0f} GB"


# --- the search


class Search:
    """Looks for a size; remembers what was tried and fits."""

    def __init__(self, trial: Callable[[int], Tried | None], room: int, least: int, *, careful: bool) -> None:
        """`trial` takes steps, None where they do not fit; `room`: bytes for them; `least`: the fewest images;
        `careful`: what does not fit must not be tried."""
        self._trial, self._room, self._least, self._careful = trial, room, least, careful
        self.tried: dict[int, Tried] = {}
        self.too_large: int | None = None  # the smallest size that does not fit, or is predicted not to

    def largest_that_fits(self, start: int) -> int | None:
        """`start`, or the largest of its halves that fits; None where the least does not."""
        halves = [start >> power for power in range(start.bit_length()) if start >> power > self._least]
        sizes = [*halves, self._least]  # falling
        if self._careful:
            return max(takewhile(self.fits, reversed(sizes)), default=None)
        return next(filter(self.fits, sizes), None)

    def faster(self, size: int, most: int, longest_s: float = math.inf) -> int:
        """`size`, doubled as long as it fits and more images a second come of it, up to `most` and to steps of
        `longest_s` seconds."""
        while 2 * size <= most and self.fits(2 * size):
            one, two = self.tried[size], self.tried[2 * size]
            if two.pace < GAIN * one.pace or two.seconds > longest_s:
                break
            size *= 2
        return size

    def fits(self, size: int) -> bool:
        """Whether steps of this size fit: tried, unless care forbids it."""
        may_be_tried = not self._careful or self.predicted(size) <= self._room
        tried = self._trial(size) if may_be_tried else None
        if tried is None or tried.bytes > self._room:
            self.too_large = size
            return False
        self.tried[size] = tried
        return True

    def predicted(self, size: int) -> float:
        """Bytes for a larger size than those tried, on a line through the two largest; 0 where nothing is known."""
        known = [self.tried[one] for one in sorted(self.tried)[-2:]]
        if not known:
            return 0.0
        if len(known) == 1:
            return known[0].bytes * size / known[0].size  # at most: a part of them does not grow
        small, large = known
        an_image = max(0.0, (large.bytes - small.bytes) / (large.size - small.size))
        return large.bytes + an_image * (size - large.size)

    def compared(self, size: int) -> str:
        """How fast it is, and why neither half nor twice as many."""
        others = [f"{one.size}: {one.pace:.3g}" for one in self.tried.values() if one.size in (size // 2, 2 * size)]
        if self.too_large is not None:
            others.append(f"{self.too_large} do not fit")
        return f"{self.tried[size].pace:.3g} images/s" + (f" ({', '.join(others)})" if others else "")


# --- the steps


class _Trials:
    """Real steps, forward and backward. The optimizer's own part is left out: it is the same for every size."""

    def __init__(self, detector: Detector, compute: Compute, memory: Memory, input_hw: SizeHW) -> None:
        self._detector, self._compute, self._memory, self._input_hw = detector, compute, memory, input_hw

    def __call__(self, size: int) -> Tried | None:
        fastest = None
        with self._memory.watch() as peak:
            try:
                fastest = self._fastest_step(size)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            taken = peak()
        self._detector.zero_grad(set_to_none=True)
        gc.collect()
        return None if fastest is None else Tried(size, taken, fastest)

    def _fastest_step(self, size: int) -> float:
        images, targets = drawn_batch(size, self._input_hw, self._detector.num_classes, self._compute.device)
        self._step(images, targets)  # the first one also chooses and compiles kernels
        seconds: list[float] = []
        while len(seconds) < TIMED_STEPS and sum(seconds) < TIMED_SECONDS:
            started = time.perf_counter()
            self._step(images, targets)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _step(self, images: torch.Tensor, targets: list[Targets]) -> None:
        self._detector.zero_grad(set_to_none=True)
        with torch.enable_grad():
            with self._compute.autocast():
                predictions = self._detector(images)
            sums = self._detector.losses(predictions, targets, self._input_hw)
            ((sums.classification + sums.box) / sums.num_positives.clamp(min=1)).backward()
        if self._compute.device.type == "cuda":
            torch.cuda.synchronize(self._compute.device)


def drawn_batch(
    size: int, input_hw: SizeHW, num_classes: int, device: torch.device
) -> tuple[torch.Tensor, list[Targets]]:
    """Images of noise, channels last as the loader gives them, with boxes of a tenth to a half of the sides."""
    generator = torch.Generator().manual_seed(0)
    height, width = input_hw
    images = torch.randint(0, 256, (size, height, width, 3), dtype=torch.uint8, generator=generator)
    targets = []
    for _ in range(size):
        sides = 0.1 + 0.4 * torch.rand(OBJECTS, 2, generator=generator)
        corners = (1 - sides) * torch.rand(OBJECTS, 2, generator=generator)
        boxes_xyxy = torch.cat([corners, corners + sides], dim=1) * torch.tensor([width, height, width, height])
        labels = torch.randint(0, num_classes, (OBJECTS,), generator=generator)
        targets.append(Targets(boxes_xyxy, labels, torch.zeros(OBJECTS, dtype=torch.bool)).to(device))
    return images.to(device).permute(0, 3, 1, 2), targets


def largest_usual_input_hw(detector: Detector) -> SizeHW:
    """The input of a batch with a landscape and a portrait photograph of 3:2; SSD's and M2Det's is always the same."""
    resize = detector.resize
    return resize.input_hw([resize.image_hw((2, 3)), resize.image_hw((3, 2))])


def state_bytes(detector: Detector, recipe: Recipe) -> int:
    """What the run holds besides: the optimizer's state, the gradients of a step's earlier parts, averaged weights."""
    trained = sum(p.numel() * p.element_size() for p in detector.parameters() if p.requires_grad)
    states = 2 if recipe.optimizer == "adamw" else 1
    averaged = sum(t.numel() * t.element_size() for t in detector.state_dict().values()) if recipe.ema_decay else 0
    return (states + 1) * trained + averaged


@contextmanager
def as_before(detector: Detector, device: torch.device) -> Iterator[None]:
    """Inside of `with`, the detector trains; afterwards its buffers, modes and the random states are as they were."""
    modes = [(module, module.training) for module in detector.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in detector.buffers()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        train_mode(detector)
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for module, training in modes:
                module.training = training
