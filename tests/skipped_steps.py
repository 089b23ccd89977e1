"""A step of a small real detector, and the file for its replay."""

from __future__ import annotations

from pathlib import Path

import torch

from onestage.compute.device import DTYPES, Compute
from onestage.detectors import Detector, build, detector_config
from onestage.structures import Batch, Targets
from onestage.training.optimizer import freeze_untrained, train_mode
from onestage.training.processes import ALONE, World
from onestage.training.recipe import Recipe
from onestage.training.skipped_step import Diagnosis, StepPosition, diagnose, save_skipped_step
from onestage.training.step import OptimizerStep, in_parts

NAME = "retinanet-test_efficientnet"


def small_step(
    recipe: Recipe | None = None, precision: str = "fp32", world: World = ALONE, seed: int = 0, device: str = "cpu"
) -> OptimizerStep:
    """The step of a detector of three classes for images of 96 pixels, whose batch norms have seen some."""
    torch.manual_seed(seed)
    recipe = recipe or Recipe(detector=NAME, steps=1)
    detector = build(NAME, 3, config=detector_config(NAME).adjusted({"image_size": 96, "channels": 64}))
    compute = Compute(torch.device(device), DTYPES[precision], "as the test asks")
    compute.place(detector)
    freeze_untrained(detector, recipe)
    train_mode(detector)
    step = OptimizerStep(detector, detector, recipe, compute, world)
    detector(small_batch(seed=8).images.to(device))
    return step


def small_batch(count: int = 4, seed: int = 9) -> Batch:
    """Noise; every other image has two objects. As the loader gives it: channels last."""
    images = torch.randint(0, 256, (count, 96, 96, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [40.0, 30.0, 90.5, 90.0]])
    two = Targets(boxes, torch.tensor([0, 2]), torch.tensor([False, True]))
    none = Targets(boxes[:0], two.labels[:0], two.ignored[:0])
    targets = [two if row % 2 == 0 else none for row in range(count)]
    return Batch(images.permute(0, 3, 1, 2), targets, torch.arange(count))


def write_small_step(path: Path, step: OptimizerStep, batch: Batch) -> tuple[Diagnosis, bool]:
    """Take a step as a run does, and write its file, skipped or not; the diagnosis, and True if there is a file."""
    detector: Detector = step.detector
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    losses = step(batch, 0.25)
    detector.load_state_dict(before)  # a finite step was taken
    names = [f"{index}.jpg" for index in batch.image_indices.tolist()]
    diagnosis = diagnose(step, in_parts(batch, step.recipe.accumulate), names, losses)
    return diagnosis, save_skipped_step(path, step, batch, diagnosis, StepPosition(12, 9, 0.25))
