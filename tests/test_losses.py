from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ssd300_case import DEVICES, golden, multibox_inputs, multibox_targets, objects, ssd300_anchors
from torch.testing import assert_close

from onestage.boxes import encode_deltas
from onestage.losses import centerness, focal_loss, hardest_negatives, multibox_loss
from onestage.matching import match_anchors
from onestage.structures import Losses, Matches, Predictions


def matches_of(kinds: list[str], label: int = 0) -> Matches:
    """One string an image, one letter an anchor: p(ositive), n(egative), i(gnored)."""
    masks = {kind: torch.tensor([[letter == kind for letter in row] for row in kinds]) for kind in "pni"}
    shape = masks["p"].shape
    boxes = torch.tensor([0.0, 0, 10, 10]).expand(*shape, 4)
    return Matches(masks["p"] * label, boxes, masks["p"], masks["n"], masks["i"])


def logits_of_background(rows: list[list[float]], classes: int = 2) -> torch.Tensor:
    """These background logits, and 0 for all classes: the lower, the harder a negative."""
    background = torch.tensor(rows)
    return torch.cat([background[..., None], torch.zeros(*background.shape, classes)], dim=-1)


def ten_pixel_anchors(count: int) -> torch.Tensor:
    return torch.tensor([5.0, 5.0, 10.0, 10.0]).repeat(count, 1)


def numbers(losses: Losses) -> list[float]:
    """Classification loss, box loss, divisor."""
    return [float(losses.sums[name].detach()) for name in ("classification", "box")] + [float(losses.divisor)]


@pytest.mark.parametrize("device", DEVICES)
def test_losses_and_gradients_equal_the_reference(device: str) -> None:
    case = golden("multibox_loss")
    class_logits, box_deltas = (tensor.to(device).requires_grad_() for tensor in multibox_inputs())
    anchors = ssd300_anchors().to(device)
    matches = match_anchors(anchors, [target.to(torch.device(device)) for target in multibox_targets()])
    losses = multibox_loss(Predictions(class_logits, box_deltas), matches, anchors)
    assert losses.divisor == 112
    for name, word in (("box", "localization"), ("classification", "classification")):
        assert float(losses.sums[name].detach() / 112) == pytest.approx(float(case[f"loss_{word}"]), rel=1e-5)
    (sum(losses.sums.values(), torch.zeros(())) / 112).backward()
    for tensor, name in ((box_deltas, "grad_box_deltas_abs_sum"), (class_logits, "grad_class_logits_abs_sum")):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.abs().sum(dim=(1, 2)).cpu(), case[name], rtol=1e-5)


def test_the_hardest_negatives_are_three_a_positive_of_each_image() -> None:
    losses = torch.tensor([[9.0, 4, 8, 5, 7, 6, 0]]).expand(2, -1)
    chosen = hardest_negatives(losses, matches_of(["pnnnnnn", "ppnnnnn"]))
    assert chosen.int().tolist() == [[0, 0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1]]


def test_ignored_anchors_are_never_hard_negatives() -> None:
    losses = torch.tensor([[0.0, 9, -1, -2, -3, -4]])
    assert hardest_negatives(losses, matches_of(["pinnnn"])).int().tolist() == [[0, 0, 1, 1, 1, 0]]
    assert hardest_negatives(losses, matches_of(["piiiin"])).int().tolist() == [[0, 0, 0, 0, 0, 1]]


def test_an_image_without_objects_trains_as_background() -> None:
    logits = logits_of_background([[3, 1, 2, 0, 4]]).requires_grad_()
    predictions = Predictions(logits, torch.zeros(1, 5, 4))
    losses = multibox_loss(predictions, matches_of(["nnnnn"]), ten_pixel_anchors(5))
    # the three anchors with background logits 0, 1, 2 among two classes at 0
    expected = sum(math.log(math.exp(b) + 2) - b for b in (0, 1, 2))
    assert float(losses.sums["classification"].detach()) == pytest.approx(expected, rel=1e-6)
    assert numbers(losses)[1:] == [0, 0]
    paper = multibox_loss(predictions, matches_of(["nnnnn"]), ten_pixel_anchors(5), minimum_negatives=0)
    assert numbers(paper) == [0, 0, 0]


def test_an_object_of_label_l_is_logit_l_plus_1() -> None:
    logits = torch.tensor([[[0.0, 0.0, 50.0]]])
    predictions = Predictions(logits, torch.zeros(1, 1, 4))
    right = multibox_loss(predictions, matches_of(["p"], label=1), ten_pixel_anchors(1))
    wrong = multibox_loss(predictions, matches_of(["p"], label=0), ten_pixel_anchors(1))
    assert float(right.sums["classification"]) == pytest.approx(0.0)
    assert float(wrong.sums["classification"]) == pytest.approx(50.0)


def test_the_box_loss_is_smooth_l1_of_the_deltas_of_positives_alone() -> None:
    deltas = torch.tensor([[[0.5, -2.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    losses = multibox_loss(Predictions(torch.zeros(1, 2, 3), deltas), matches_of(["pn"]), ten_pixel_anchors(2))
    assert float(losses.sums["box"]) == pytest.approx(0.5 * 0.5**2 + (2 - 0.5))


@pytest.mark.parametrize(("images", "anchors"), [(0, 5), (0, 0), (2, 0)])
def test_a_batch_with_nothing_in_it_has_zero_loss(images: int, anchors: int) -> None:
    predictions = Predictions(torch.zeros(images, anchors, 3), torch.zeros(images, anchors, 4))
    matches = match_anchors(ten_pixel_anchors(anchors), [objects([])] * images)
    assert numbers(multibox_loss(predictions, matches, ten_pixel_anchors(anchors))) == [0, 0, 0]


def test_bfloat16_predictions_are_summed_in_float32() -> None:
    class_logits, box_deltas = multibox_inputs()
    anchors = ssd300_anchors()
    matches = match_anchors(anchors, multibox_targets())
    half = multibox_loss(Predictions(class_logits.bfloat16(), box_deltas.bfloat16()), matches, anchors)
    full = multibox_loss(Predictions(class_logits, box_deltas), matches, anchors)
    assert {value.dtype for value in half.sums.values()} == {torch.float32}
    assert_close(half.sums["classification"], full.sums["classification"], rtol=5e-3, atol=0.0)


def test_focal_loss_by_hand() -> None:
    """Lin 2017, equation 5: -alpha (1 - p)^gamma log p of what is there; of the rest the same of 1 - alpha, 1 - p."""
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 0.0], [3.0, 3.0]]])  # a positive of class 1, a negative, an ignored one
    matches = matches_of(["pni"], label=1)
    anchors = ten_pixel_anchors(3)
    losses = focal_loss(Predictions(logits, torch.zeros(1, 3, 4)), matches, anchors, (1.0, 1.0), alpha=0.25, gamma=2.0)

    def p(logit: float) -> float:
        return 1 / (1 + math.exp(-logit))

    there = -0.25 * (1 - p(2)) ** 2 * math.log(p(2))
    absent = [-0.75 * p(x) ** 2 * math.log(1 - p(x)) for x in (0.0, -1.0, 0.0)]
    assert float(losses.sums["classification"]) == pytest.approx(there + sum(absent), rel=1e-5)
    assert numbers(losses)[1:] == [0, 1]  # the box is the anchor itself


@pytest.mark.parametrize(
    ("box_loss", "expected"),
    [
        ("l1", 0.05 + 0.5),
        # below beta 1/9 quadratic: 0.5 * 0.05^2 * 9; above |x| - beta / 2
        ("smooth_l1", 0.5 * 0.05**2 * 9 + 0.5 - 1 / 18),
        # the box is 10 x 10, moved by 0.5 and 5 pixels of 10: 9.5 * 5 = 47.5 overlap, union 152.5, hull 10.5 * 15
        ("giou", 1 - 47.5 / 152.5 + (157.5 - 152.5) / 157.5),
    ],
)
def test_the_box_loss_is_the_one_that_is_asked_for(box_loss, expected: float) -> None:
    deltas = torch.tensor([[[0.05, 0.5, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0]]])
    predictions = Predictions(torch.zeros(1, 2, 3), deltas)
    losses = focal_loss(predictions, matches_of(["pn"]), ten_pixel_anchors(2), (1.0, 1.0), box_loss=box_loss)
    assert float(losses.sums["box"]) == pytest.approx(expected, rel=1e-4)


def test_focal_loss_without_any_image_or_positive_is_zero_or_finite_with_gradients() -> None:
    empty = focal_loss(
        Predictions(torch.zeros(0, 2, 3), torch.zeros(0, 2, 4)),
        Matches(
            *(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2, 4)), *([torch.zeros(0, 2, dtype=torch.bool)] * 3)
        ),
        ten_pixel_anchors(2),
        (1.0, 1.0),
    )
    assert numbers(empty) == [0, 0, 0]
    logits, deltas = torch.zeros(1, 2, 3, requires_grad=True), torch.zeros(1, 2, 4, requires_grad=True)
    losses = focal_loss(Predictions(logits, deltas), matches_of(["nn"]), ten_pixel_anchors(2), (1.0, 1.0))
    sum(losses.sums.values(), torch.zeros(())).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()  # all scores must fall
    assert numbers(losses)[1:] == [0, 0]


def test_focal_loss_is_computed_in_float32() -> None:
    logits, deltas = torch.randn(1, 4, 3), torch.randn(1, 4, 4)
    matches, anchors = matches_of(["ppnn"]), ten_pixel_anchors(4)
    low = Predictions(logits.bfloat16(), deltas.bfloat16())
    same = Predictions(low.class_logits.float(), low.box_deltas.float())
    one, other = (focal_loss(x, matches, anchors, (1.0, 1.0)) for x in (low, same))
    assert {value.dtype for value in one.sums.values()} == {torch.float32}
    assert_close(one.sums, other.sums)


def test_what_giou_wants_is_the_box() -> None:
    boxes_xyxy = torch.tensor([[1.0, 2.0, 14.0, 9.0]])
    anchors = ten_pixel_anchors(1)
    deltas = encode_deltas(boxes_xyxy, anchors, (1.0, 1.0))[None]
    matches = matches_of(["p"])._replace(boxes_xyxy=boxes_xyxy[None])
    predictions = Predictions(torch.zeros(1, 1, 2), deltas)
    losses = focal_loss(predictions, matches, anchors, (1.0, 1.0), box_loss="giou")
    assert float(losses.sums["box"]) == pytest.approx(0, abs=1e-5)


def test_centerness_is_one_in_the_middle_of_an_object_and_falls_to_its_sides() -> None:
    boxes = torch.tensor([[[0.0, 0, 20, 40], [0, 0, 20, 40], [0, 0, 20, 40], [0, 0, 0, 0]]])
    positive = torch.tensor([[True, True, True, False]])
    matches = Matches(torch.zeros(1, 4, dtype=torch.int64), boxes, positive, ~positive, torch.zeros_like(positive))
    points = torch.tensor([[10.0, 20], [5, 20], [4, 10], [5, 5]])
    expected = [1, (5 / 15) ** 0.5, (4 / 16 * 10 / 30) ** 0.5, 0]
    assert_close(centerness(points, matches), torch.tensor([expected]))
