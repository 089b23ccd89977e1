"""`--batch-size auto`: as many images a step as fit in memory and make training faster, found by trying."""

import copy
import gc
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.filesize import decimal
from torch import Tensor

from onestage.compute.batch_size import Search, Trial, try_steps
from onestage.compute.device import Compute
from onestage.compute.memory import keep_freed_memory, memory_of
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.input_size import SizeHW
from onestage.structures import Targets
from onestage.training.optimizer import train_mode, trained_batch_norms
from onestage.training.recipe import Recipe

SHARE = 0.8  # of the free memory: batches differ in their sizes and objects, and other programs live too
MOST_GROWTH = 8  # times the recipe's batch size; beyond that the scaling rules of the learning rate are not trusted
LEAST_STEPS = 1000  # of a run: with fewer, larger batches learn less
OBJECTS = 3  # in each noise image


def find_batch_size(
    detector: Detector, compute: Compute, *, recipe: Recipe, limit: int, say: Callable[[str], None]
) -> Recipe:
    """The recipe with the batch size for this machine, found from the recipe's own by steps of a copy of the detector.

    If fewer images fit, a step's images go through the network in parts, and the learning rate stays. If more fit and
    are faster, the rate is scaled (see `scaled_rate`). Runs that count steps get no more: they would only take longer.

    The detector's frozen parameters are frozen already; `limit` is the number of training images, of which a step takes
    no more. A UserError if not even the smallest batch fits, or if there are too few images for it.
    """
    least = 2 if trained_batch_norms(detector) else 1  # images that go through the network together
    if limit < least:
        raise UserError(f"batch size auto: training images: {limit}; this detector needs {least}; use more images")
    given = min(recipe.batch_size, limit)
    start = max(least, given)
    say(f"batch size: trying steps of {start} images, and of more or fewer ...")
    keep_freed_memory()  # as the run will
    twin = copy.deepcopy(detector)
    compute.place(twin)
    train_mode(twin)
    memory = memory_of(compute.device)
    room = int(SHARE * memory.free) - state_bytes(detector, recipe)
    resize = detector.resize
    input_hw = resize.input_hw([resize.image_hw((2, 3)), resize.image_hw((3, 2))])  # of photographs, both ways up

    def trial(size: int) -> Trial | None:
        found = try_steps(size, lambda images: _prepared_step(twin, compute, images, input_hw), memory)
        twin.zero_grad(set_to_none=True)
        gc.collect()
        return found

    search = Search(trial, room, least, careful=memory.fatal)
    with torch.random.fork_rng(devices=[compute.device] if compute.device.type == "cuda" else []):
        size = search.largest_that_fits(start)
        if size == start:
            size = search.faster(start, *growth_limits(recipe, start, limit))
    if size is None:
        raise UserError(
            f"batch size auto: even steps of {least} ({input_hw[1]} x {input_hw[0]} pixels) do not fit in "
            f"{decimal(max(0, room))} ({SHARE:.0%} of the free {decimal(memory.free)}, less the optimizer's state); "
            "use smaller images, a smaller detector, or free memory"
        )
    batch_size, accumulate = divided(max(size, start), size, least)
    factor = max(1.0, batch_size / given)
    rate = scaled_rate(recipe.optimizer, recipe.learning_rate, factor)
    in_parts = f" in {accumulate} parts of up to {size}" if accumulate > 1 else ""
    taken = decimal(search.tried[size].bytes)
    say(
        f"batch size {batch_size}{in_parts} by trial: {taken} of {decimal(memory.free)} free, {search.compared(size)}; "
        f"learning rate {recipe.learning_rate:.3g}{f' -> {rate:.3g}' if factor > 1 else ''}"
    )
    return replace(recipe, batch_size=batch_size, accumulate=accumulate, learning_rate=rate)


def seconds_of_a_step(detector: Detector, compute: Compute, batch_size: int) -> float | None:
    """The time of a training step of a copy of the detector with images of noise; None if memory runs out.

    The detector's frozen parameters are frozen already.
    """
    keep_freed_memory()  # as the run will
    twin = copy.deepcopy(detector)
    compute.place(twin)
    train_mode(twin)
    input_hw = detector.resize.input_hw([detector.resize.image_hw((3, 4))])  # of a photograph
    with torch.random.fork_rng(devices=[compute.device] if compute.device.type == "cuda" else []):
        tried = try_steps(
            batch_size, lambda size: _prepared_step(twin, compute, size, input_hw), memory_of(compute.device)
        )
    return None if tried is None else tried.seconds


def divided(images: int, size: int, least: int) -> tuple[int, int]:
    """The images of a step, and the number of parts with `least` to `size` images into which they are cut.

    With parts of exactly two, which batch norms may ask for, an odd image is left out.
    """
    if size == least == 2:
        images -= images % 2
    return images, math.ceil(images / size)


def scaled_rate(optimizer: str, learning_rate: float, factor: float) -> float:
    """The learning rate for `factor` times the images a step.

    SGD: times the factor (Goyal 2017, arXiv 1706.02677, 2.1). AdamW: times its root (Malladi 2022, arXiv 2205.10287).
    """
    return learning_rate * (factor if optimizer == "sgd" else math.sqrt(factor))


def growth_limits(recipe: Recipe, start: int, limit: int) -> tuple[int, float]:
    """The most images a step, and the most seconds a step, that still leave the run enough steps."""
    most = min(limit, MOST_GROWTH * start)
    if recipe.epochs is not None:
        return min(most, int(recipe.epochs * recipe.repeat * limit / LEAST_STEPS)), math.inf
    if recipe.minutes is not None:
        return most, 60 * recipe.minutes / LEAST_STEPS
    return start, math.inf


def _prepared_step(detector: Detector, compute: Compute, images: int, input_hw: SizeHW) -> Callable[[], None]:
    """A function that goes forward and backward; the optimizer's own part is the same for every size."""
    pixels, targets = noise_batch(images, input_hw, detector.num_classes, compute.device)

    def step() -> None:
        detector.zero_grad(set_to_none=True)
        with compute.autocast():
            predictions = detector(pixels)
        losses = detector.losses(predictions, targets, input_hw)
        (torch.stack([*losses.sums.values()]).sum() / losses.divisor.clamp(min=1)).backward()
        if compute.device.type == "cuda":
            torch.cuda.synchronize(compute.device)

    return step


def noise_batch(size: int, input_hw: SizeHW, num_classes: int, device: torch.device) -> tuple[Tensor, list[Targets]]:
    """Images of noise, channels last as the loader gives them, with boxes of a tenth to a half of the sides."""
    generator = torch.Generator().manual_seed(0)
    height, width = input_hw
    images = torch.randint(0, 256, (size, height, width, 3), dtype=torch.uint8, generator=generator)
    sides = 0.1 + 0.4 * torch.rand(size, OBJECTS, 2, generator=generator)
    corners = (1 - sides) * torch.rand(size, OBJECTS, 2, generator=generator)
    boxes_xyxy = torch.cat([corners, corners + sides], dim=2) * torch.tensor([width, height, width, height])
    labels = torch.randint(0, num_classes, (size, OBJECTS), generator=generator)
    ignored = torch.zeros(size, OBJECTS, dtype=torch.bool)
    targets = [Targets(*one).to(device) for one in zip(boxes_xyxy, labels, ignored, strict=True)]
    return images.to(device).permute(0, 3, 1, 2), targets


def state_bytes(detector: Detector, recipe: Recipe) -> int:
    """Bytes that a run holds beside a step: optimizer state, gradients of earlier parts, averaged weights."""
    trained = sum(parameter.nbytes for parameter in detector.parameters() if parameter.requires_grad)
    states = 2 if recipe.optimizer == "adamw" else 1
    averaged = sum(tensor.nbytes for tensor in detector.state_dict().values()) if recipe.ema_decay else 0
    return (states + 1) * trained + averaged
