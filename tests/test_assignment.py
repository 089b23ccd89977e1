from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from gfl_case import CASES, LEVEL_SIZES, REFERENCE, anchors, targets
from ssd300_case import golden, objects
from torch import Tensor
from torch.testing import assert_close

from onestage import assignment
from onestage.assignment import assign_atss, assign_task_aligned
from onestage.structures import Targets

# One level of four positions in a row, 10 pixels apart, whose squares have sides of 20.
ROW = torch.tensor([[5.0, 5, 20, 20], [15, 5, 20, 20], [25, 5, 20, 20], [35, 5, 20, 20]])
POINTS = ROW[:, :2]


@pytest.mark.parametrize("case", CASES)
def test_atss_gives_each_anchor_the_object_that_the_reference_gives_it(case: str) -> None:
    given, expected = targets(case), torch.from_numpy(golden("gfl_losses")[f"{case}_assigned"])
    matches = assign_atss(anchors(), LEVEL_SIZES, given)
    assert torch.equal(matches.positive, expected >= 0)
    assert torch.equal(matches.negative, expected < 0)
    assert matches.positive.sum(dim=1).tolist() == REFERENCE[case]["positives"]
    for image, target in enumerate(given):
        positive = matches.positive[image]
        of_object = expected[image][positive].long()
        assert torch.equal(matches.boxes_xyxy[image][positive], target.boxes_xyxy[of_object])
        assert torch.equal(matches.labels[image][positive], target.labels[of_object])


def test_atss_takes_the_candidates_above_mean_and_deviation_of_their_iou() -> None:
    """IoU with the squares, which reach from 5 to 25 around the second centre: 1, two of 1 / 3, and one of 0."""
    box = [[5, -5, 25, 15]]
    matches = assign_atss(ROW, [4], [objects(box, [3])], top_k=4)
    assert matches.positive[0].tolist() == [False, True, False, False]
    assert matches.labels[0].tolist() == [0, 3, 0, 0]
    wide = [[0, 0, 40, 10]]  # all four squares lie over it alike, but for the outer ones
    matches = assign_atss(ROW, [4], [objects(wide)], top_k=2)
    assert matches.positive[0].tolist() == [False, True, True, False]


def test_atss_takes_top_k_of_each_level() -> None:
    two_levels = torch.cat([ROW, ROW * torch.tensor([1, 1, 2, 2])])
    of_small = assign_atss(two_levels, [4, 4], [objects([[15, -5, 35, 15]])], top_k=1)
    assert of_small.positive[0].nonzero()[:, 0].tolist() in ([1], [2])  # the centre lies between them
    assert assign_atss(two_levels, [4, 4], [objects([[5, -15, 45, 25]])], top_k=1).positive[0, 4:].any()


def test_an_anchor_of_two_objects_goes_to_the_one_that_it_overlaps_more() -> None:
    both = objects([[5, -5, 25, 9], [5, -5, 25, 15]], [1, 2])
    assert assign_atss(ROW, [4], [both], top_k=1).labels[0].tolist() == [0, 2, 0, 0]
    alike = objects([[5, -5, 25, 15], [5, -5, 25, 15]], [1, 2])
    assert assign_atss(ROW, [4], [alike], top_k=1).labels[0].tolist() == [0, 1, 0, 0]


def a_guess(iou_box: list[float], scores: list[float]) -> tuple[Tensor, Tensor]:
    """The same box at every position of `ROW`, and its scores for class 1 of 2."""
    boxes = torch.tensor([[iou_box] * 4]).float()
    return torch.stack([torch.full((4,), 0.9), torch.tensor(scores)], dim=1)[None], boxes


def test_task_aligned_takes_the_best_scored_positions_among_equal_boxes() -> None:
    scores, boxes = a_guess([0, 0, 20, 10], [0.1, 0.4, 0.2, 0.3])
    found = assign_task_aligned(POINTS, scores, boxes, [objects([[0, 0, 40, 10]], [1])], top_k=2)
    assert found.matches.positive[0].tolist() == [False, True, False, True]
    assert found.matches.labels[0].tolist() == [0, 1, 0, 1]
    # the IoU is 1/2 everywhere; the best position's quality is that, the other's is in proportion to its score
    assert_close(found.quality, torch.tensor([[0, 0.5, 0, 0.5 * 0.3 / 0.4]]))


def test_the_iou_counts_by_its_sixth_power() -> None:
    scores, boxes = a_guess([0, 0, 40, 10], [0.5, 0.5, 0.5, 0.5])
    boxes[0, 1, 2] = 20  # IoU 1 / 2
    found = assign_task_aligned(POINTS, scores, boxes, [objects([[0, 0, 40, 10]], [1])], top_k=4)
    assert_close(found.quality, torch.tensor([[1, 0.5**6, 1, 1]]))
    linear = assign_task_aligned(POINTS, scores, boxes, [objects([[0, 0, 40, 10]], [1])], top_k=4, beta=1.0)
    assert_close(linear.quality, torch.tensor([[1, 0.5, 1, 1]]))


def test_a_position_outside_of_an_object_never_learns_it() -> None:
    scores, boxes = a_guess([0, 0, 20, 10], [0.1, 0.1, 0.9, 0.9])
    found = assign_task_aligned(POINTS, scores, boxes, [objects([[0, 0, 20, 10]], [1])])
    assert found.matches.positive[0].tolist() == [True, True, False, False]
    assert (found.quality[0] > 0).tolist() == [True, True, False, False]


def test_a_position_of_two_objects_goes_to_the_one_that_its_box_overlaps_more() -> None:
    scores, boxes = a_guess([0, 0, 20, 10], [0.5, 0.5, 0.5, 0.5])
    found = assign_task_aligned(POINTS, scores, boxes, [objects([[0, 0, 40, 10], [0, 0, 22, 10]], [1, 1])])
    assert found.matches.boxes_xyxy[0, :, 2].tolist() == [22, 22, 40, 40]


def task_aligned(given: list[Targets], **options) -> assignment.Assigned:
    torch.manual_seed(0)
    scores, sides = torch.rand(3, 2134, 80), torch.rand(3, 2134, 4) * 100
    points = anchors()[:, :2]
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=2)
    return assign_task_aligned(points, scores[: len(given)], boxes[: len(given)], given, **options)


def atss(given: list[Targets]) -> assignment.Assigned:
    matches = assign_atss(anchors(), LEVEL_SIZES, given)
    return assignment.Assigned(matches, matches.positive.float())


@pytest.mark.parametrize("assign", [atss, task_aligned])
def test_without_images_or_objects_there_are_no_positives(assign) -> None:
    assert assign([]).matches.positive.shape == (0, 2134)
    found = assign([objects([]), objects([[10, 10, 90, 90]])])
    assert found.matches.negative[0].all()
    assert (found.matches.positive.sum(dim=1) > 0).tolist() == [False, True]
    assert found.quality[0].eq(0).all()


@pytest.mark.parametrize("assign", [atss, task_aligned])
def test_an_object_without_area_has_no_positive_and_gives_no_nan(assign) -> None:
    found = assign([objects([[50, 50, 50, 50], [16, 20, 16, 90], [0, 0, 0, 0]])])
    assert found.matches.negative.all()
    assert found.matches.boxes_xyxy.isfinite().all()
    assert found.quality.eq(0).all()


@pytest.mark.parametrize("assign", [atss, task_aligned])
def test_positions_inside_an_ignored_object_are_neither_positive_nor_negative(assign) -> None:
    crowd = [99.0, 99.0, 201.0, 201.0]
    points = anchors()[:, :2]
    inside = ((points > 99) & (points < 201)).all(dim=1)
    matches = assign([objects([crowd], [4], [True])]).matches
    assert torch.equal(matches.ignored[0], inside)
    assert torch.equal(matches.negative[0], ~inside)
    matches = assign([objects([crowd, [120, 120, 180, 180]], [4, 7], [True, False])]).matches
    assert matches.positive.any()
    assert matches.labels[matches.positive].eq(7).all()
    assert torch.equal(matches.ignored[0], inside & ~matches.positive[0])


@pytest.mark.parametrize("assign", [atss, task_aligned])
def test_more_pairs_than_fit_into_memory_are_done_in_parts(assign) -> None:
    given = targets("crowded")
    whole = assign(given)
    with mock.patch.object(assignment, "MOST_PAIRS", 1000):
        parts = assign(given)
    assert_close(parts, whole, rtol=0, atol=0)


def test_the_best_position_learns_its_iou_and_the_others_less() -> None:
    given = targets("crowded")
    found = task_aligned(given, top_k=5)
    matches = found.matches
    assert found.quality[~matches.positive].eq(0).all()
    assert found.quality[matches.positive].min() > 0
    for image, target in enumerate(given):
        boxes = matches.boxes_xyxy[image]
        counts = [int((matches.positive[image] & (boxes == box).all(dim=1)).sum()) for box in target.boxes_xyxy]
        assert max(counts) <= 5
        assert np.mean(counts) > 1
