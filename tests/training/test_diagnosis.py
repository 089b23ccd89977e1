"""What is reported about a skipped step: which loss, from which layer on, by which images and boxes, what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from process_threads import Threads
from tiny_detector import TinyDetector, batch_of, taker_of_steps, with_box
from torch import Tensor, nn

from onestage.structures import Batch, Losses, Targets
from onestage.training.optimizer import train_mode
from onestage.training.processes import World
from onestage.training.recipe import Recipe
from onestage.training.skipped_step import Diagnosis, diagnose
from onestage.training.step import OptimizerStep, in_parts

RECIPE = Recipe(steps=1, momentum=0.0, weight_decay=0.0, learning_rate=0.02)


def diagnosis_of(step: OptimizerStep, batch: Batch) -> Diagnosis:
    """The diagnosis of a step that must be skipped; the images are a.jpg, b.jpg, ..."""
    train_mode(step.detector)
    losses = step(batch, 0.02)
    assert not losses.finite
    names = [f"{chr(ord('a') + index)}.jpg" for index in batch.image_indices.tolist()]
    return diagnose(step, in_parts(batch, step.recipe.accumulate), names, losses)


def with_boxes(batch: Batch, row: int, boxes_xyxy: Sequence[Sequence[float]]) -> Batch:
    """The batch with other boxes in one image."""
    count = len(boxes_xyxy)
    targets = list(batch.targets)
    labels, ignored = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
    targets[row] = Targets(torch.tensor(boxes_xyxy), labels, ignored)
    return replace(batch, targets=targets)


def dislikes_thin_boxes(losses: Losses, targets: Sequence[Targets]) -> Losses:
    sides = torch.cat([one.boxes_xyxy[:, 2:] - one.boxes_xyxy[:, :2] for one in targets])
    return losses.scaled(box=math.nan if (sides < 0.1).any() else 1.0)


class Overflowing(nn.Module):
    """Where a pixel is above 200."""

    def forward(self, images: Tensor) -> Tensor:
        return images.masked_fill(images > 200, math.inf)


def overflowing_before_a_batch_norm() -> TinyDetector:
    detector = TinyDetector()
    detector.norm = nn.Sequential(Overflowing(), nn.BatchNorm2d(3))
    return detector


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_image_and_the_box_are_named(accumulate: int) -> None:
    step = taker_of_steps(TinyDetector(change_losses=dislikes_thin_boxes), replace(RECIPE, accumulate=accumulate))
    batch = with_boxes(batch_of((1, 2, 3), (1, 0, 2)), 2, [[1, 2, 5, 6], [3, 5, 3.0625, 9], [4, 4, 4.03125, 8]])
    diagnosis = diagnosis_of(step, batch)
    assert str(diagnosis) == (  # 14 / 2 / 4
        "the box loss is not finite (classification 1.75, box nan); by c.jpg (its box of 0.0625 x 4 px at 3, 5)"
    )
    assert diagnosis.advice(7) == (
        "mend or remove the box (pixels are those of the network's input): c.jpg (its box of 0.0625 x 4 px at 3, 5)"
    )
    assert diagnosis.layer is None
    assert [image.non_finite for image in diagnosis.images] == [False, False, True]
    assert [image.boxes for image in diagnosis.images] == [1, 0, 3]
    assert [image.thinnest for image in diagnosis.images] == [4.0, math.inf, 0.03125]
    assert [image.losses["classification"] for image in diagnosis.images] == [0.5, 2.0, 4.5]
    assert [image.losses["box"] for image in diagnosis.images[:2]] == [2.0, 8.0]
    assert math.isnan(diagnosis.images[2].losses["box"])
    assert [image.positives for image in diagnosis.images] == [1, 0, 3]


def test_a_box_that_is_not_a_number_is_named() -> None:
    def of_sides(losses: Losses, targets: Sequence[Targets]) -> Losses:
        return with_box(losses, losses.sums["box"] + torch.cat([one.boxes_xyxy for one in targets]).sum())

    step = taker_of_steps(TinyDetector(change_losses=of_sides), RECIPE)
    diagnosis = diagnosis_of(step, with_boxes(batch_of((1, 2), (1, 1)), 0, [[1, 2, 5, 6], [1, 2, math.nan, 6]]))
    assert str(diagnosis).endswith("; by a.jpg (its box of nan x 4 px at 1, 2)")
    assert math.isnan(diagnosis.images[0].thinnest)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_image_is_found_whose_nan_a_batch_norm_spreads_over_all(accumulate: int) -> None:
    step = taker_of_steps(overflowing_before_a_batch_norm(), replace(RECIPE, accumulate=accumulate))
    diagnosis = diagnosis_of(step, batch_of((9, 250, 30, 40), (1, 2, 0, 0)))
    assert str(diagnosis) == (
        "the classification and the box loss are not finite (classification nan, box nan), from layer norm.0 on; "
        "by b.jpg (2 boxes, the thinnest 4 px)"
    )
    assert [image.non_finite for image in diagnosis.images] == [False, True, False, False]
    spread = [math.isnan(image.losses["classification"]) for image in diagnosis.images]
    assert spread == [True] * (4 // accumulate) + [False] * (4 - 4 // accumulate)


def test_where_no_image_is_finite_the_first_are_named_and_the_rest_counted() -> None:
    detector = TinyDetector()
    detector.boxes.weight.data.fill_(3e38)  # as after some steps with a large learning rate
    diagnosis = diagnosis_of(taker_of_steps(detector, RECIPE), batch_of((2,) * 6, (0, 1, 2, 0, 0, 0)))
    assert str(diagnosis) == (
        "the box loss is not finite (classification 4, box inf), from layer boxes on; in a.jpg (no boxes), "
        "b.jpg (1 box, the thinnest 4 px), c.jpg (2 boxes, the thinnest 4 px), d.jpg (no boxes) and 2 more images"
    )
    assert all(image.non_finite for image in diagnosis.images)
    assert diagnosis.advice(7) == (
        "the learning rate is too large for this: start again with a smaller --learning-rate, as 0.005"
    )
    assert diagnosis.advice(0) == (
        "no step was taken before, so the weights at the start are at fault: try other --backbone-weights"
    )


def test_a_box_is_not_blamed_for_predictions_that_are_too_large() -> None:
    detector = TinyDetector()
    detector.boxes.weight.data.fill_(1e30)  # their square is more than float32 holds
    diagnosis = diagnosis_of(taker_of_steps(detector, RECIPE), batch_of((2, 0), (1, 1)))
    assert str(diagnosis) == (
        "the box loss is not finite (classification 1, box inf); by a.jpg (1 box, the thinnest 4 px)"
    )
    assert diagnosis.advice(7).startswith("the learning rate is too large for this")


def test_what_float16_can_not_hold_is_told_from_what_diverged() -> None:
    detector = TinyDetector()
    detector.classes.weight.data.fill_(1000)
    diagnosis = diagnosis_of(taker_of_steps(detector, RECIPE, torch.float16), batch_of((60, 70, 1), (1, 1, 1)))
    assert str(diagnosis) == (  # 1000 x 70 is more than 65504; (3600 + 4900 + 1) x 4 / 2 / 3 = 5667.3
        "the classification loss is not finite (classification inf, box 5667), from layer classes on; "
        "by b.jpg (1 box, the thinnest 4 px)"
    )
    assert diagnosis.advice(7) == ("float16 holds no numbers above 65,504: start again with --precision bf16, or fp32")


def test_a_gradient_is_traced_to_its_image_through_the_losses() -> None:
    def root_of_nothing(losses: Losses, targets: Sequence[Targets]) -> Losses:
        """Its slope is not a number where an image has two objects."""
        two = any(len(one.labels) == 2 for one in targets)
        return with_box(losses, (losses.sums["box"] * 0).sqrt()) if two else losses

    step = taker_of_steps(TinyDetector(change_losses=root_of_nothing), RECIPE)
    diagnosis = diagnosis_of(step, batch_of((1, 2, 3), (1, 2, 1)))
    assert str(diagnosis) == (
        "the gradient of boxes.weight is not finite (losses: classification 1.75, box 0); "
        "by b.jpg (2 boxes, the thinnest 4 px)"
    )


def test_a_gradient_of_many_parameters_and_one_that_is_only_too_long_are_told_apart() -> None:
    def steep(losses: Losses, targets: Sequence[Targets]) -> Losses:
        bad = (detector.classes.weight.sum() * 0).sqrt() + (detector.boxes.weight.sum() * 0).sqrt()
        return with_box(losses, losses.sums["box"] + bad)

    detector = TinyDetector(change_losses=steep)
    step = taker_of_steps(detector, RECIPE)
    assert str(diagnosis_of(step, batch_of((2,), (0,)))) == (
        "the gradient of classes.weight and 1 more parameter is not finite (losses: classification 2, box 8); "
        "in a.jpg (no boxes)"
    )
    detector.change_losses = lambda losses, targets: losses.scaled(box=1e30)
    assert str(diagnosis_of(step, batch_of((2,), (0,)))) == (
        "the gradient is so large that float32 can't hold its norm (losses: classification 2, box 8e+30); "
        "in a.jpg (no boxes)"
    )


def test_looking_changes_nothing() -> None:
    detector = overflowing_before_a_batch_norm()
    detector.backbone = nn.Sequential(nn.BatchNorm2d(3))  # pyright: ignore[reportAttributeAccessIssue]
    for parameter in detector.backbone.parameters():
        parameter.requires_grad_(False)
    step = taker_of_steps(detector, RECIPE)
    train_mode(detector)
    batch = batch_of((9, 250), (1, 1))
    losses = step(batch, 0.02)

    def everything() -> list[Any]:
        tensors = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
        gradients = [p.grad.clone() for p in detector.parameters() if p.grad is not None]
        modes = [module.training for module in detector.modules()]
        hooks = sum(len(module._forward_hooks) for module in detector.modules())
        return [[*tensors.values(), *gradients], modes, hooks]

    before = everything()
    diagnose(step, [batch], ["a.jpg", "b.jpg"], losses)
    after = everything()
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]
    assert before[1].count(False) == 1  # the frozen batch norm
    assert before[2] == 0


def test_each_process_learns_of_the_images_of_all() -> None:
    def work(world: World) -> Diagnosis:
        step = taker_of_steps(
            TinyDetector(change_losses=dislikes_thin_boxes), replace(RECIPE, accumulate=2), world=world
        )
        own = batch_of((1, 3, 5), (1, 1, 1)) if world.is_main else batch_of((2, 4), (1, 1))
        indices = torch.tensor([0, 2, 4] if world.is_main else [1, 3])
        if not world.is_main:
            own = with_boxes(own, 1, [[1, 1, 1.0625, 3]])
        return diagnosis_of(step, replace(own, image_indices=indices))

    first, second = Threads.run(work)
    assert str(first) == str(second)
    assert str(first) == (  # (1 + 4 + 9 + 16 + 25) / 2 / 5
        "the box loss is not finite (classification 5.5, box nan); by d.jpg (its box of 0.0625 x 2 px at 1, 1)"
    )
    # As one process would have them in two parts: the first parts of both, then the second.
    assert [image.name for image in first.images] == ["a.jpg", "b.jpg", "c.jpg", "e.jpg", "d.jpg"]


def test_the_first_layer_of_all_processes_is_named() -> None:
    def work(world: World) -> Diagnosis:
        detector = TinyDetector()
        step = taker_of_steps(detector, RECIPE, world=world)
        if world.is_main:
            detector.boxes.weight.data.fill_(3e38)
        else:
            detector.norm = Overflowing()  # comes before
        return diagnosis_of(step, batch_of((2, 255), (1, 1)))

    first, second = Threads.run(work)
    assert first.layer == second.layer == "norm"
