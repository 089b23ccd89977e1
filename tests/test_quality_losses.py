from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gfl_case import CASES, LEVEL_SIZES, REFERENCE, STRIDES, anchors, by_position, predictions, targets
from ssd300_case import golden
from torch.testing import assert_close

from onestage.assignment import assign_atss
from onestage.boxes import distances_to_boxes
from onestage.quality_losses import distribution_focal_loss, expected_bin, gfl_loss, quality_focal_loss
from onestage.structures import Losses, Matches, Predictions

NONE = torch.zeros(1, 2, dtype=torch.bool)


def losses_of(found: Predictions, matches: Matches, quality: torch.Tensor | None = None, most: int = 5000) -> Losses:
    squares = anchors()
    return gfl_loss(found, matches, squares[:, :2], squares[:, 2] / 8, most_positives=most, quality=quality)


@pytest.mark.parametrize("case", CASES)
def test_the_losses_and_their_gradients_are_the_references(case: str) -> None:
    found, stored = predictions(case), golden("gfl_losses")
    losses = losses_of(found, assign_atss(anchors(), LEVEL_SIZES, targets(case)))
    # mmdetection counts an image without positives as one positive
    counted = sum(max(count, 1) for count in REFERENCE[case]["positives"])
    weights = losses.own_divisors["box"].clamp(min=1)
    assert losses.own_divisors["distribution"] == losses.own_divisors["box"]
    sums = losses.scaled(box=2.0, distribution=0.25).sums
    divided = {
        "loss_cls": sums["classification"] / counted,
        "loss_bbox": sums["box"] / weights,
        "loss_dfl": sums["distribution"] / weights,
    }
    for name, value in divided.items():
        assert value.item() == pytest.approx(REFERENCE[case]["losses"][name], rel=1e-5), name
    torch.stack([*divided.values()]).sum().backward()
    for values, name in zip(found, ("cls", "box"), strict=True):
        by_level = [level.double().abs().sum().item() for level in values.grad.split(LEVEL_SIZES, dim=1)]
        np.testing.assert_allclose(by_level, stored[f"{case}_grad_{name}_abs_sum"], rtol=1e-4, atol=1e-9)


def test_boxes_are_those_that_the_reference_decodes() -> None:
    drawn = (np.random.default_rng(13).standard_normal((1, 68, 40, 40)) * 2).astype("f")
    distributions = by_position([drawn]).unflatten(-1, (4, -1))
    boxes = distances_to_boxes(expected_bin(distributions) * STRIDES[0], anchors()[:1600, :2])
    assert_close(boxes[0], torch.from_numpy(golden("gfl_losses")["decode_boxes"]), rtol=1e-5, atol=1e-3)


def test_the_quality_focal_loss_is_that_of_the_definition() -> None:
    """At the logit 0 the score is 1/2, and the cross entropy log 2 whatever is wanted."""
    logits, labels = torch.zeros(1, 2, 3), torch.tensor([[2, 0]])
    quality = torch.tensor([[0.75, 0.0]])
    loss = quality_focal_loss(logits, labels, quality, NONE)
    assert loss.item() == pytest.approx(math.log(2) * (0.25**2 + 5 * 0.5**2))
    assert quality_focal_loss(logits, labels, quality, NONE, beta=1.0).item() == pytest.approx(math.log(2) * 2.75)
    ignored = torch.tensor([[True, False]])
    assert quality_focal_loss(logits, labels, quality, ignored).item() == pytest.approx(math.log(2) * 3 * 0.5**2)


def test_the_distribution_focal_loss_is_shared_by_the_two_bins_around_a_distance() -> None:
    uniform = torch.zeros(1, 4, 5)
    assert distribution_focal_loss(uniform, torch.tensor([[0.0, 1.3, 2.5, 3.9]])).item() == pytest.approx(math.log(5))
    right = torch.full((1, 4, 5), -50.0)
    right[..., 2:4] = torch.tensor([0.75, 0.25]).log()  # the best for 2.25
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert distribution_focal_loss(right, torch.full((1, 4), 2.25)).item() == pytest.approx(entropy, rel=1e-5)
    assert_close(expected_bin(right), torch.full((1, 4), 2.25))


def test_given_qualities_weigh_the_positives_in_all_losses() -> None:
    found = predictions("crowded")
    matches = assign_atss(anchors(), LEVEL_SIZES, targets("crowded"))
    half = matches.positive.float() / 2
    losses = losses_of(found, matches, half)
    assert set(losses.own_divisors) == {"classification", "box", "distribution"}
    assert losses.own_divisors["box"] == losses.divisor / 2
    once = losses_of(found, matches, matches.positive.float())
    assert_close(losses.sums["box"], once.sums["box"] / 2)
    assert_close(losses.sums["distribution"], once.sums["distribution"] / 2)


def test_positions_that_are_not_positive_have_no_box_loss_however_many_are_looked_at() -> None:
    found = predictions("crowded")
    matches = assign_atss(anchors(), LEVEL_SIZES, targets("crowded"))
    exactly, more = losses_of(found, matches, most=int(matches.positive.sum())), losses_of(found, matches, most=10**6)
    assert_close(exactly.sums, more.sums)
    torch.stack([*more.sums.values()]).sum().backward()
    assert found.box_deltas.grad[~matches.positive].eq(0).all()
    assert found.box_deltas.grad[matches.positive].abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("images", [0, 2])
def test_without_positives_there_are_zeros_and_no_nan(images: int) -> None:
    found = Predictions(torch.zeros(images, 2134, 2).requires_grad_(), torch.zeros(images, 2134, 36).requires_grad_())
    none = torch.zeros(images, 2134, dtype=torch.bool)
    matches = Matches(none.long(), torch.zeros(images, 2134, 4), none, ~none, none)
    for quality in (None, none.float()):
        losses = losses_of(found, matches, quality, most=0)
        torch.stack([*losses.sums.values()]).sum().backward()
        assert losses.sums["box"] == losses.sums["distribution"] == losses.divisor == 0
        assert losses.sums["classification"].item() == pytest.approx(images * 2134 * 2 * math.log(2) / 4)
        assert all(values.grad is None or values.grad.isfinite().all() for values in found)


def test_the_losses_of_bfloat16_are_computed_in_float32() -> None:
    found = Predictions(*(values.detach().bfloat16() for values in predictions("crowded")))
    matches = assign_atss(anchors(), LEVEL_SIZES, targets("crowded"))
    losses, of_float32 = losses_of(found, matches), losses_of(Predictions(*(x.float() for x in found)), matches)
    assert {value.dtype for value in losses.sums.values()} == {torch.float32}
    assert_close(losses.sums, of_float32.sums)
