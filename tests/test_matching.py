from __future__ import annotations

import numpy as np
import pytest
import torch
from ssd300_case import DEVICES, golden, multibox_targets, objects, ssd300_anchors
from torch.testing import assert_close
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from onestage.anchors import pyramid_anchors
from onestage.boxes import cxcywh_to_xyxy, encode_deltas, xyxy_to_cxcywh
from onestage.matching import match_anchors

# Four anchors of 10 x 10 in a row, 10 pixels apart, and a large one over all.
ANCHORS_XYXY = torch.tensor([[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [30, 0, 40, 10], [0, 0, 40, 40]]).float()
ANCHORS = xyxy_to_cxcywh(ANCHORS_XYXY)


@pytest.mark.parametrize("device", DEVICES)
def test_positives_labels_and_deltas_equal_the_reference(device: str) -> None:
    case = golden("multibox_loss")
    anchors = ssd300_anchors().to(device)
    matches = match_anchors(anchors, [target.to(torch.device(device)) for target in multibox_targets()])
    image, anchor = matches.positive.nonzero(as_tuple=True)
    np.testing.assert_array_equal(image.cpu(), case["positive_image"])
    np.testing.assert_array_equal(anchor.cpu(), case["positive_anchor"])
    np.testing.assert_array_equal(matches.labels[matches.positive].cpu(), case["positive_label"])
    deltas = encode_deltas(matches.boxes_xyxy, anchors)[matches.positive]
    np.testing.assert_allclose(deltas.cpu(), case["positive_delta"], rtol=0, atol=1e-5)


def test_an_empty_batch_and_an_image_without_objects_have_no_positives() -> None:
    assert match_anchors(ANCHORS, []).positive.shape == (0, 5)
    matches = match_anchors(ANCHORS, [objects([]), objects([[0, 0, 10, 10]])])
    assert matches.negative[0].all()
    assert matches.positive.sum(dim=1).tolist() == [0, 1]


def test_an_anchor_is_positive_from_the_iou_threshold_on() -> None:
    half = [[0, 0, 10, 20]]  # IoU with the first anchor: 100 / 200
    matches = match_anchors(ANCHORS, [objects(half, [7])], keep_best=False)
    assert matches.positive[0].tolist() == [True, False, False, False, False]
    assert matches.labels[0].tolist() == [7, 0, 0, 0, 0]
    assert not match_anchors(ANCHORS, [objects(half)], positive_iou=0.51, keep_best=False).positive.any()


def test_every_object_keeps_its_best_anchor_below_the_iou_threshold() -> None:
    small = [[12, 2, 14, 4]]  # IoU with the second anchor: 4 / 100
    matches = match_anchors(ANCHORS, [objects(small, [3])])
    assert matches.positive[0].tolist() == [False, True, False, False, False]
    assert_close(matches.boxes_xyxy[0, 1], torch.tensor([12.0, 2, 14, 4]))
    assert not match_anchors(ANCHORS, [objects(small)], keep_best=False).positive.any()


def test_an_anchor_takes_the_object_that_it_overlaps_most() -> None:
    matches = match_anchors(ANCHORS, [objects([[0, 0, 10, 9], [0, 0, 10, 10]], [4, 5])], keep_best=False)
    assert matches.labels[0, 0] == 5


def test_the_later_of_two_objects_with_one_best_anchor_has_it() -> None:
    matches = match_anchors(ANCHORS, [objects([[0, 0, 10, 10], [1, 1, 6, 6]], [4, 5])])
    assert matches.labels[0, 0] == 5


def test_an_object_without_area_matches_nothing_and_gives_no_nan() -> None:
    matches = match_anchors(ANCHORS, [objects([[5, 5, 5, 5], [12, 0, 12, 9]])], positive_iou=0.0)
    assert matches.negative.all()
    assert matches.boxes_xyxy.isfinite().all()


def test_an_ignored_object_is_neither_positive_nor_negative() -> None:
    matches = match_anchors(ANCHORS, [objects([[10, 0, 20, 10]], [6], [True])])
    assert not matches.positive.any()
    assert matches.ignored[0].tolist() == [False, True, False, False, False]
    assert matches.labels.eq(0).all()


def test_small_anchors_inside_a_crowd_are_ignored() -> None:
    crowd = [[0, 0, 26, 30]]  # IoU with the first anchor 100 / 780; it covers 60 % of the third
    matches = match_anchors(ANCHORS, [objects(crowd, ignored=[True])])
    assert matches.ignored[0].tolist() == [True, True, True, False, False]


def test_an_object_inside_a_crowd_stays_positive() -> None:
    matches = match_anchors(ANCHORS, [objects([[0, 0, 40, 10], [20, 0, 30, 10]], [1, 2], [True, False])])
    assert matches.positive[0].tolist() == [False, False, True, False, False]
    assert matches.ignored[0].tolist() == [True, True, False, True, False]
    assert matches.labels[0, 2] == 2


def test_anchors_between_the_two_thresholds_are_ignored() -> None:
    matches = match_anchors(
        ANCHORS, [objects([[0, 0, 16, 10]])], positive_iou=0.7, negative_iou=0.3, keep_best=False
    )  # IoU 100 / 160 = 0.62 with the first anchor, 60 / 200 = 0.3 with the second
    assert not matches.positive.any()
    assert matches.ignored[0].tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("alone", [0, 1, 2])
def test_an_image_matches_alike_alone_and_in_a_batch(alone: int) -> None:
    targets = [objects([[0, 0, 10, 9]]), objects([]), objects([[1, 1, 39, 39], [31, 1, 39, 9]], [1, 2])]
    batch, one = match_anchors(ANCHORS, targets), match_anchors(ANCHORS, [targets[alone]])
    for together, by_itself in zip(batch, one, strict=True):
        assert_close(together[alone], by_itself[0])


# --- all anchors that tie for an object's best

SCENE = [[30, 30, 36, 34], [31, 30, 39, 40], [100, 20, 180, 120], [60, 60, 62, 62], [90, 30, 200, 110]]


def retinanet_anchors() -> torch.Tensor:
    """torchvision's for an input of 256 x 256: shapes rounded to whole pixels, so that ties are exact."""
    sizes_hw = tuple((256 // stride, 256 // stride) for stride in (8, 16, 32, 64, 128))
    scales = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    return pyramid_anchors((256, 256), sizes_hw, (32, 64, 128, 256, 512), scales, (2.0, 1.0, 0.5), "torchvision")


def small_objects(count: int, seed: int = 0) -> list[list[float]]:
    """Objects of 2 to 14 pixels in an input of 256 x 256."""
    corner, side = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed))
    corner, side = (220 * corner).round(), (2 + 12 * side).round()
    return torch.cat([corner, corner + side], dim=1).tolist()


@pytest.mark.parametrize("boxes", [SCENE, small_objects(40)])
def test_anchors_that_tie_are_those_of_torchvisions_matcher(boxes: list[list[float]]) -> None:
    anchors = retinanet_anchors()
    iou = box_iou(torch.tensor(boxes, dtype=torch.float32), cxcywh_to_xyxy(anchors))
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)(iou)

    target = objects(boxes, list(range(len(boxes))))
    ours = match_anchors(anchors, [target], negative_iou=0.4, best_ties="all_nearest")

    assert torch.equal(ours.positive[0], theirs >= 0)
    assert torch.equal(ours.labels[0][ours.positive[0]], theirs[theirs >= 0])
    assert torch.equal(ours.negative[0], theirs == Matcher.BELOW_LOW_THRESHOLD)


@pytest.mark.parametrize("boxes", [SCENE, small_objects(40, seed=1)])
@pytest.mark.parametrize("least_iou", [0.0, 0.05])
def test_all_anchors_that_tie_go_to_their_object_as_in_mmdetection(boxes: list[list[float]], least_iou: float) -> None:
    """Its MaxIoUAssigner: for one object after another, all anchors with the object's highest IoU become the object's,
    if that IoU is at least `min_pos_iou`."""
    anchors = retinanet_anchors()
    iou = box_iou(torch.tensor(boxes, dtype=torch.float32), cxcywh_to_xyxy(anchors))
    highest, assigned = iou.max(dim=0)
    assigned[highest < 0.5] = -2
    assigned[highest < 0.4] = -1
    for label, row in enumerate(iou):
        if row.max() >= least_iou:
            assigned[row == row.max()] = label

    target = objects(boxes, list(range(len(boxes))))
    ours = match_anchors(anchors, [target], negative_iou=0.4, best_iou=least_iou, best_ties="all")

    assert torch.equal(ours.positive[0], assigned >= 0)
    assert torch.equal(ours.labels[0][ours.positive[0]], assigned[assigned >= 0])


def test_an_object_does_not_keep_its_best_anchor_below_the_least_iou() -> None:
    small = [objects([[12, 2, 14, 4], [0, 0, 10, 4]])]  # IoU with their best anchors: 4 / 100 and 40 / 100
    for ties in ("one", "all", "all_nearest"):
        matches = match_anchors(ANCHORS, small, best_iou=0.1, best_ties=ties)
        assert matches.positive[0].tolist() == [True, False, False, False, False]


def test_ties_match_alike_alone_and_in_a_batch_and_with_ignored_objects() -> None:
    wide = objects([[5, 2, 15, 8], [12, 2, 14, 4]], [1, 2], [False, True])  # the first two anchors have 30 / 130 each
    batch = match_anchors(ANCHORS, [objects([]), wide], negative_iou=0.0, best_ties="all")
    assert batch.positive.tolist() == [[False] * 5, [True, True, False, False, False]]
    assert match_anchors(ANCHORS, [], best_ties="all").positive.shape == (0, 5)
