"""Main memory that training takes: the peak of a process that trains a few steps on images of noise.

    python benchmarks/training_memory.py
    python benchmarks/training_memory.py --detectors m2det320-vgg16 --batch-sizes 4 8 --steps 2

Each row is a process of its own. The optimizer is AdamW with averaged weights, as in the recipe made for a data set
with ImageNet weights at hand (the backbone's first layers are not trained).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table as Screen

from onestage.compute.device import choose_compute
from onestage.compute.memory import keep_freed_memory
from onestage.detectors import build, detector_config
from onestage.input_size import typical_input_hw
from onestage.structures import Targets
from onestage.training.optimizer import AveragedWeights, build_optimizer, freeze, train_mode
from onestage.training.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """What to measure."""

    detectors: tuple[str, ...] = ("m2det320-vgg16", "m2det512-vgg16", "m2det704-vgg16", "m2det800-vgg16")
    batch_sizes: tuple[int, ...] = (4,)
    checkpoint_activations: tuple[bool, ...] = (False, True)  # M2Det only
    steps: int = 2
    row: str | None = None  # one measurement, in this process; what the others are started with


def measure(name: str, batch_size: int, frugal: bool, steps: int) -> dict[str, float]:
    """Train `steps` steps in this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    config = detector_config(name).made_for_data(name.partition("-")[2], pretrained=False).config
    if frugal:
        config = config.adjusted({"checkpoint_activations": True})
    compute = choose_compute("cpu", "auto")
    detector = build(name, 20, config=config)
    compute.place(detector)
    freeze(detector, tuple(f"backbone.{stem}" for stem in detector.backbone.stem))
    recipe = Recipe(detector=name, optimizer="adamw", learning_rate=1e-4)
    optimizer, average = build_optimizer(detector, recipe), AveragedWeights(detector, 0.998)
    train_mode(detector)
    height, width = typical_input_hw(detector.resize)
    images = torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8)
    boxes_xyxy = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8]]) * torch.tensor([width, height] * 2)
    targets = [Targets(boxes_xyxy, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))] * batch_size
    started = time.perf_counter()
    for step in range(steps):
        with compute.autocast():
            predictions = detector(images)
        losses = detector.losses(predictions, targets, (height, width))
        optimizer.zero_grad(set_to_none=True)
        (sum(losses.sums.values()) / losses.divisor).backward()
        optimizer.step()
        average.update(step + 1)
    seconds = (time.perf_counter() - started) / steps
    return {
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "images_per_second": batch_size / seconds,
    }


def main(options: Options) -> None:
    if options.row is not None:
        print(json.dumps(measure(**json.loads(options.row))))
        return
    screen = Screen("detector", "batch", "checkpointed", "peak, GiB", "images/s")
    for name in options.detectors:
        for batch_size in options.batch_sizes:
            for frugal in options.checkpoint_activations if name.startswith("m2det") else (False,):
                row = {"name": name, "batch_size": batch_size, "frugal": frugal, "steps": options.steps}
                command = [sys.executable, __file__, "--row", json.dumps(row)]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                rate = f"{found['images_per_second']:.2f}"
                screen.add_row(name, str(batch_size), "yes" if frugal else "no", f"{found['gib']:.1f}", rate)
    Console().print(screen)


if __name__ == "__main__":
    main(tyro.cli(Options))
