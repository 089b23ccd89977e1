"""The optimizer step: one gradient from a batch in parts, clipping, float16, and steps that are not taken."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_detector import TinyDetector, batch_of, taker_of_steps, with_box
from torch import Tensor

from onestage.detectors import build, detector_config
from onestage.errors import UserError
from onestage.structures import Batch, Losses, Targets
from onestage.training.optimizer import freeze, train_mode
from onestage.training.recipe import Recipe
from onestage.training.step import in_parts

PLAIN = Recipe(steps=1, momentum=0.0, weight_decay=0.0)


def weights(detector: TinyDetector) -> list[float]:
    return [detector.classes.weight.item(), *detector.boxes.weight.flatten().tolist()]


@pytest.mark.parametrize("accumulate", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("objects", "divisor"),
    [
        ((1, 0, 2), 3),
        ((0, 0, 4), 4),  # no positive in the first part
        ((4, 0, 0), 4),
        ((0, 0, 0), 1),
    ],
)
def test_the_losses_are_divided_by_the_positives_of_all_parts(
    accumulate: int, objects: Sequence[int], divisor: int
) -> None:
    detector = TinyDetector(change_losses=lambda losses, targets: losses.scaled(box=0.5))
    step = taker_of_steps(detector, replace(PLAIN, accumulate=accumulate))
    losses = step(batch_of((1, 2, 3), objects), 0.03)  # 1 + 4 + 9 = 14
    expected = {"classification": 14 / 2 / divisor, "box": 0.5 * 4 * 14 / 2 / divisor}
    assert losses.by_name == pytest.approx(expected)
    assert losses.total == pytest.approx(sum(expected.values()))
    assert losses.positives == sum(objects)
    # The gradient: 14 for the class weight, half of 14 for each of the four box weights; (1 + 4 / 4) 14² = (14 √2)².
    assert losses.gradient_norm == pytest.approx(14 * math.sqrt(2) / divisor)
    assert weights(detector) == pytest.approx([1 - 0.03 * 14 / divisor, *[1 - 0.03 * 7 / divisor] * 4])
    assert losses.finite
    assert not losses.overflow


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_loss_may_have_a_divisor_of_its_own(accumulate: int) -> None:
    """Here half a number for each object: 3.5 in all, while the others are divided by 7."""

    def halves(losses: Losses, targets: Sequence[Targets]) -> Losses:
        return replace(losses, own_divisors={"box": losses.divisor / 2})

    detector = TinyDetector(change_losses=halves)
    detector.several_divisors = True
    losses = taker_of_steps(detector, replace(PLAIN, accumulate=accumulate))(batch_of((1, 2, 3), (4, 1, 2)), 0.03)
    assert losses.by_name == pytest.approx({"classification": 14 / 2 / 7, "box": 4 * 14 / 2 / 3.5})
    assert losses.positives == 7
    assert weights(detector) == pytest.approx([1 - 0.03 * 14 / 7, *[1 - 0.03 * 14 / 3.5] * 4])


def test_divisors_that_are_asked_for_beforehand_leave_the_statistics_of_batch_norms_as_they_were() -> None:
    after = []
    for own in ({}, {"box": torch.tensor(5.0)}):
        detector = TinyDetector(batch_norm=True, change_losses=lambda one, _, own=own: replace(one, own_divisors=own))
        detector.several_divisors = bool(own)
        step = taker_of_steps(detector, replace(PLAIN, accumulate=2))
        assert step(batch_of((1, 2, 5, 9), (1, 1, 1, 1)), 0.0).finite
        after.append([buffer.clone() for buffer in detector.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*after, strict=True))


@pytest.mark.parametrize("name", ["retinanet-test_efficientnet", "gfl-test_efficientnet"])
def test_a_batch_in_parts_gives_a_real_network_the_gradient_of_the_whole(name: str) -> None:
    torch.manual_seed(0)
    config = detector_config(name).adjusted({"image_size": 96})
    detector = build(name, 3, config=config)
    freeze(detector, ("backbone.",))  # batch norms see other images in a part than in the whole
    train_mode(detector)
    if name.startswith("gfl"):
        detector.eval()  # its neck and head have batch norms too
    images = torch.randint(0, 256, (5, 3, 96, 96), dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 12.0, 50.0, 60.0], [40.0, 30.0, 90.0, 90.0]])
    one = Targets(boxes, torch.tensor([0, 2]), torch.tensor([False, False]))
    none = Targets(boxes[:0], one.labels[:0], one.ignored[:0])
    batch = Batch(images, [none, none, one, one, none], torch.arange(5))
    step = taker_of_steps(detector)
    step.gradient([batch])
    whole = gradients(detector)
    step.gradient(in_parts(batch, 3))  # the first part has no object
    assert len(whole) > 20
    for name, gradient in gradients(detector).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6, msg=name)


def gradients(detector: torch.nn.Module) -> dict[str, Tensor]:
    named = detector.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def test_a_batch_is_cut_into_parts_of_nearly_the_same_size_and_none_is_empty() -> None:
    batch = batch_of((0, 1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 6))
    parts = in_parts(batch, 3)
    assert [part.image_indices.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [len(one.labels) for part in parts for one in part.targets] == [0, 1, 2, 3, 4, 5, 6]
    assert [part.images[:, 0, 0, 0].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [len(part.images) for part in in_parts(batch, 1)] == [7]
    assert [len(part.images) for part in in_parts(batch, 9)] == [1] * 7


@pytest.mark.parametrize(("clip", "factor"), [(None, 1.0), (100.0, 1.0), (1.0, 1 / (14 * math.sqrt(5)))])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_gradient_above_the_limit_is_shortened_to_it(clip: float | None, factor: float, accumulate: int) -> None:
    detector = TinyDetector()
    step = taker_of_steps(detector, replace(PLAIN, gradient_clip=clip, accumulate=accumulate))
    losses = step(batch_of((1, 2, 3), (0, 0, 1)), 0.01)
    assert losses.gradient_norm == pytest.approx(14 * math.sqrt(5))  # five weights, 14 each; before clipping
    assert weights(detector) == pytest.approx([1 - 0.01 * 14 * factor] * 5)


# --- steps that are not taken


def not_a_number(losses: Losses, targets: Sequence[Targets]) -> Losses:
    return losses.scaled(box=math.nan)


def infinite_gradient(losses: Losses, targets: Sequence[Targets]) -> Losses:
    """The gradient of the box loss at 0: the value of the root is 0, its slope is not a number."""
    return with_box(losses, (losses.sums["box"] * 0).sqrt())


def enormous(losses: Losses, targets: Sequence[Targets]) -> Losses:
    """Each gradient fits in float32, the sum of their squares does not."""
    return losses.scaled(classification=1e30)


@pytest.mark.parametrize("bad", [not_a_number, infinite_gradient, enormous])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "recipe", [Recipe(steps=1), Recipe(steps=1, optimizer="adamw")], ids=lambda recipe: recipe.optimizer
)
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(bad, accumulate: int, recipe: Recipe) -> None:
    detector = TinyDetector(batch_norm=True)
    step = taker_of_steps(detector, replace(recipe, accumulate=accumulate, gradient_clip=1.0))
    batch = batch_of((1, 2, 5, 9), (1, 1, 1, 1))
    detector.change_losses = bad
    fresh = state(detector, step.optimizer)
    assert not step(batch, 0.1).finite  # the first step of all
    assert same(fresh, state(detector, step.optimizer))

    detector.change_losses = lambda losses, targets: losses
    assert step(batch, 0.1).finite
    before = state(detector, step.optimizer)
    assert not same(fresh, before)
    detector.change_losses = bad
    losses = step(batch, 0.1)
    assert not losses.finite
    assert not losses.overflow
    assert same(before, state(detector, step.optimizer))
    assert "norm.num_batches_tracked" in before


def state(detector: TinyDetector, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    for number, entries in enumerate(optimizer.state.values()):
        tensors |= {f"{number}/{name}": value.clone() for name, value in entries.items()}
    return tensors


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_loss_a_gradient_and_a_norm_that_are_not_finite_can_be_told_apart() -> None:
    batch = batch_of((1, 2), (1, 0))
    of_loss = taker_of_steps(TinyDetector(change_losses=not_a_number))(batch, 0.1)
    assert math.isnan(of_loss.by_name["box"])
    assert of_loss.by_name["classification"] == 2.5
    of_gradient = taker_of_steps(TinyDetector(change_losses=infinite_gradient))(batch, 0.1)
    assert of_gradient.by_name == {"classification": 2.5, "box": 0.0}
    assert not math.isfinite(of_gradient.gradient_norm)
    of_norm = taker_of_steps(TinyDetector(change_losses=enormous))(batch, 0.1)
    assert of_norm.by_name["classification"] == pytest.approx(2.5e30)
    assert of_norm.gradient_norm == math.inf


def test_nothing_to_train_is_refused() -> None:
    detector = TinyDetector()
    freeze(detector, ("classes", "boxes"))
    with pytest.raises(UserError, match="frozen: all parameters are; leave some to train"):
        taker_of_steps(detector)


# --- float16


def test_float16_lowers_its_scale_until_the_gradient_fits_and_then_takes_the_step() -> None:
    detector = TinyDetector()
    step = taker_of_steps(detector, dtype=torch.float16)
    batch = batch_of((1, 1), (1, 1))  # each weight's gradient is 1 / 2 + 1 / 2
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 131072.0})
    overflows = [step(batch, 0.1) for _ in range(2)]  # 131072 and 65536 are more than 65504
    assert [(losses.finite, losses.overflow) for losses in overflows] == [(False, True)] * 2
    assert weights(detector) == [1.0] * 5
    assert step.scaler.get_scale() == 32768.0
    taken = step(batch, 0.1)
    assert taken.finite
    assert taken.gradient_norm == pytest.approx(math.sqrt(5), rel=1e-3)  # unscaled
    assert weights(detector) == pytest.approx([0.9] * 5, rel=1e-3)
    assert step.scaler.get_scale() == 32768.0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_float16_clips_the_unscaled_gradient(accumulate: int) -> None:
    detector = TinyDetector()
    step = taker_of_steps(detector, replace(PLAIN, gradient_clip=1.0, accumulate=accumulate), torch.float16)
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 1024.0})
    assert step(batch_of((1, 1), (0, 1)), 0.1).gradient_norm == pytest.approx(2 * math.sqrt(5), rel=1e-3)
    assert weights(detector) == pytest.approx([1 - 0.1 / math.sqrt(5)] * 5, rel=1e-3)


def test_float16_keeps_its_scale_where_the_scale_is_not_at_fault() -> None:
    def too_large(losses: Losses, targets: Sequence[Targets]) -> Losses:
        """Too large for float32: the weight is used outside of the network."""
        return with_box(losses, detector.boxes.weight.sum() * 1e30)

    detector = TinyDetector()
    step = taker_of_steps(detector, dtype=torch.float16)
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 16.0})
    for bad in (not_a_number, too_large, not_a_number):
        detector.change_losses = bad
        losses = step(batch_of((1, 1), (1, 1)), 0.1)
        assert (losses.finite, losses.overflow) == (False, False)
    assert step.scaler.get_scale() == 16.0
    assert weights(detector) == [1.0] * 5


def test_float16_does_not_blame_a_scale_of_1() -> None:
    detector = TinyDetector(change_losses=infinite_gradient)
    step = taker_of_steps(detector, dtype=torch.float16)
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 4.0})
    batch = batch_of((1, 1), (1, 1))
    assert [step(batch, 0.1).overflow for _ in range(4)] == [True, True, False, False]
    assert step.scaler.get_scale() == 1.0


def test_the_state_of_float16_goes_through_a_file() -> None:
    step, batch = taker_of_steps(TinyDetector(), dtype=torch.float16), batch_of((1, 2), (1, 1))
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 8192.0, "_growth_tracker": 7})
    step(batch, 0.1)
    as_read = json.loads(json.dumps(step.scaler.state_dict()))
    other = taker_of_steps(TinyDetector(), dtype=torch.float16)
    other.scaler.load_state_dict(as_read)
    assert other.scaler.state_dict()["scale"] == 8192.0
    assert other.scaler.state_dict()["_growth_tracker"] == 8
    disabled = taker_of_steps(TinyDetector())
    disabled.scaler.load_state_dict(json.loads(json.dumps(disabled.scaler.state_dict())))


def test_bfloat16_takes_the_step_with_losses_in_float32() -> None:
    detector = TinyDetector()
    losses = taker_of_steps(detector, dtype=torch.bfloat16)(batch_of((1, 2, 3), (1, 0, 2)), 0.03)
    assert losses.by_name["classification"] == pytest.approx(7 / 3)
    assert weights(detector) == pytest.approx([1 - 0.03 * 14 / 3] * 5, rel=1e-2)
