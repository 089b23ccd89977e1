"""What would hold a GPU up, counted on the pretended one: waits, operators that come by images, work of the host."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from device.chosen import DEVICE, Gpu
from shape_checks import unchecked
from small_detectors import FAMILIES, noise, small
from torch import Tensor

from onestage.compute.device import choose_compute
from onestage.detectors import Detector
from onestage.postprocess import select
from onestage.selection import Selection
from onestage.structures import Batch, Predictions
from onestage.training.optimizer import AveragedWeights, train_mode
from onestage.training.processes import ALONE
from onestage.training.recipe import Recipe
from onestage.training.step import OptimizerStep

RECIPE = Recipe(steps=1, optimizer="adamw", learning_rate=1e-3, gradient_clip=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("precision", "accumulate"), [("bf16", 1), ("fp16", 2)])
def test_a_step_waits_once_for_the_losses_that_are_logged(family: str, precision, accumulate: int) -> None:
    with Gpu() as gpu:
        detector, compute = small(family), choose_compute(str(DEVICE), precision)
        compute.place(detector)
        train_mode(detector)
        step = OptimizerStep(detector, detector, replace(RECIPE, accumulate=accumulate), compute, ALONE)
        step.scaler = torch.amp.GradScaler(DEVICE.type, init_scale=1.0, enabled=precision == "fp16")  # no overflow
        average, batch = AveragedWeights(detector, 0.9), noise(detector, "cpu", images=4)
        waits: list[Counter[str]] = []
        for number in range(2):  # anchors are laid in the first
            before = Counter(gpu.synchronisations)
            assert step(batch.to(DEVICE), 1e-3).finite
            average.update(number)
            waits.append(Counter(gpu.synchronisations) - before)
    assert sum(waits[1].values()) == 1, waits[1]


class Work:
    """A step without its network: its predictions are given."""

    def __init__(self, detector: Detector, images: int, device: str) -> None:
        self.batch, self.device = noise(detector, "cpu", images), torch.device(device)
        height, width = self.batch.images.shape[2:]
        self.input_hw = (height, width)
        with torch.no_grad():
            shapes = [values.shape[1:] for values in detector.eval()(self.batch.images[:1].to(device))]
        self.outputs = [torch.randn(images, *shape, device=device).requires_grad_() for shape in shapes]
        compute = choose_compute(device, "fp32")
        self.step = OptimizerStep(detector, detector, RECIPE, compute, ALONE)
        self.step.network = self.predict  # type: ignore[assignment]
        self.parameters = list(detector.parameters())
        self.gradients = [torch.rand_like(parameter) for parameter in self.parameters]
        self.average = AveragedWeights(detector, 0.9)

    def predict(self, images: Tensor) -> Predictions:
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return Predictions(*self.outputs)

    def __call__(self) -> None:
        assert self.step(self.batch.to(self.device), 1e-3).finite
        self.average.update(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_large_batch_takes_as_many_operators_as_one_image(family: str) -> None:
    calls = []
    with Gpu() as gpu:
        for images in (1, 32):
            work = Work(small(family).to(DEVICE), images, str(DEVICE))
            work()
            gpu.calls.clear()
            work()
            calls.append(sum(gpu.calls.values()))
    assert calls[1] <= 1.1 * calls[0]


@pytest.mark.parametrize("nms", ["hard", "soft-gaussian"])
def test_post_processing_takes_as_many_operators_for_a_batch_as_for_one_image(nms) -> None:
    random = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(16, 300, 2, generator=random)
    boxes_xyxy = torch.cat([corner, corner + 5 + 20 * torch.rand(16, 300, 2, generator=random)], dim=2)
    scores = torch.rand(16, 300, 5, generator=random) ** 4
    selection = Selection(score_threshold=0.3, nms=nms, max_detections=60)
    expected = select(boxes_xyxy, scores, selection)
    calls = []
    with Gpu() as gpu:
        for images in (1, 16):
            there = boxes_xyxy[:images].to(DEVICE), scores[:images].to(DEVICE)
            gpu.calls.clear()
            found = select(*there, selection)
            calls.append(sum(gpu.calls.values()))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy)
        torch.testing.assert_close(one.scores, other.scores)
    assert calls[1] <= 1.2 * calls[0]  # soft-NMS goes on as long as the largest of the groups


def test_the_host_has_little_to_do_in_a_step_of_many_images() -> None:
    """On the CPU, where the anchors are so few that what is computed for them takes no time."""
    detector = small("ssd")
    work = Work(detector, 32, "cpu")
    few = torch.arange(0, detector.head.anchors.shape[0], 500)  # type: ignore[union-attr, operator]
    detector.head.anchors = detector.head.anchors[few]  # type: ignore[union-attr, index]
    work.outputs = [output.detach()[:, few].requires_grad_() for output in work.outputs]
    work.batch = Batch(work.batch.images[:, :, :8, :8], work.batch.targets, work.batch.image_indices)
    seconds = []
    with unchecked():
        for _ in range(12):
            begun = time.process_time()
            work()
            seconds.append(time.process_time() - begun)
    assert min(seconds) < 0.015
