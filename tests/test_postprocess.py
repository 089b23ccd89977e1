from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ssd300_case import DEVICES, golden, multibox_inputs, ssd300_anchors
from torch.testing import assert_close
from torchvision.ops import batched_nms

from onestage.boxes import decode_deltas
from onestage.errors import UserError
from onestage.postprocess import Selection, select, soft_nms

# Two boxes with IoU 0.8 and one far away.
BOXES = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]]])


def scores(*rows: list[float]) -> torch.Tensor:
    """One list an anchor, one score a class."""
    return torch.tensor([rows])


@pytest.mark.parametrize("device", DEVICES)
def test_detections_equal_the_reference(device: str) -> None:
    class_logits, box_deltas = (tensor[:2].to(device) for tensor in multibox_inputs())
    class_logits = class_logits * 0.8
    class_logits[..., 0] += 5.5
    boxes_xyxy = decode_deltas(box_deltas, ssd300_anchors().to(device) / 300)
    found = select(boxes_xyxy, class_logits.softmax(-1)[..., 1:], Selection(max_detections=None))
    expected = golden("ssd_decode_nms")["detections"]
    for image, detections in enumerate(found):
        columns = [detections.labels[:, None].float(), detections.scores[:, None], detections.boxes_xyxy]
        rows = torch.cat(columns, dim=1).cpu().numpy()
        rows = rows[np.lexsort((-rows[:, 1], rows[:, 0]))]  # the reference goes class by class
        np.testing.assert_allclose(rows, expected[expected[:, 0] == image, 1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("decay", ["linear", "gaussian"])
def test_soft_nms_equals_the_reference(decay, device: str) -> None:
    case = golden("soft_nms")
    boxes_xyxy, scores = (torch.from_numpy(case[name]).to(device) for name in ("boxes_xyxy", "scores"))
    one_group = torch.zeros(len(boxes_xyxy), dtype=torch.int64, device=device)
    decayed = soft_nms(boxes_xyxy, scores, one_group, decay, 0.3, 0.5, 0.01)
    keep = decayed >= 0.01
    rows = torch.cat([boxes_xyxy[keep], decayed[keep, None]], dim=1)
    rows = rows[rows[:, 4].argsort(descending=True)]
    np.testing.assert_allclose(rows.cpu(), case[decay], rtol=0, atol=1e-6)


def test_the_lower_of_two_overlapping_boxes_of_a_class_is_dropped() -> None:
    (found,) = select(BOXES, scores([0.5], [0.9], [0.3]), Selection())
    assert_close(found.boxes_xyxy, BOXES[0, [1, 2]])
    assert_close(found.scores, torch.tensor([0.9, 0.3]))
    assert found.labels.tolist() == [0, 0]


def test_classes_do_not_suppress_each_other_unless_agnostic() -> None:
    values = scores([0.5, 0.0], [0.0, 0.9], [0.3, 0.0])
    (aware,) = select(BOXES, values, Selection())
    (agnostic,) = select(BOXES, values, Selection(class_agnostic=True))
    assert aware.labels.tolist() == [1, 0, 0]
    assert_close(agnostic.scores, torch.tensor([0.9, 0.3]))


def test_one_anchor_may_be_found_as_several_classes_unless_agnostic() -> None:
    values = scores([0.5, 0.4], [0.0, 0.0], [0.0, 0.0])
    assert select(BOXES, values, Selection())[0].labels.tolist() == [0, 1]
    assert select(BOXES, values, Selection(class_agnostic=True))[0].labels.tolist() == [0]


def test_negative_coordinates_do_not_reach_into_another_class() -> None:
    boxes_xyxy = torch.tensor([[[-500.0, -500, 20, 20], [-5, -5, 20, 20], [-480, -480, 20, 20]]])
    values = scores([0.9, 0.0, 0.0], [0.0, 0.8, 0.0], [0.0, 0.0, 0.7])
    assert len(select(boxes_xyxy, values, Selection(iou_threshold=0.01))[0]) == 3


def test_scores_must_be_above_the_threshold() -> None:
    (found,) = select(BOXES, scores([0.25], [0.0], [0.26]), Selection(score_threshold=0.25))
    assert_close(found.scores, torch.tensor([0.26]))


def test_each_class_may_have_a_threshold_of_its_own() -> None:
    values = scores([0.6, 0.6], [0.0, 0.3], [0.4, 0.0])
    (found,) = select(BOXES, values, Selection(iou_threshold=0.99).with_class_thresholds([0.5, 0.2]))
    assert_close(found.scores, torch.tensor([0.6, 0.6, 0.3]))
    assert found.labels.tolist() == [0, 1, 1]
    both = Selection(iou_threshold=0.99).with_class_thresholds([0.5, 0.2])
    (found,) = select(BOXES, values, replace(both, score_threshold=0.35))  # a number takes the place of both
    assert_close(found.scores, torch.tensor([0.6, 0.6, 0.4]))
    with pytest.raises(UserError, match="1 score thresholds for more classes"):
        select(BOXES, values, Selection().with_class_thresholds([0.5]))


def test_the_best_candidates_of_each_class_are_taken_before_nms() -> None:
    values = scores([0.5, 0.1], [0.9, 0.2], [0.3, 0.3])
    (found,) = select(BOXES, values, Selection(candidates_per_class=1))
    assert_close(found.scores, torch.tensor([0.9, 0.3]))


def test_at_most_max_detections_are_kept_the_best_first() -> None:
    values = scores([0.5], [0.0], [0.7])
    assert_close(select(BOXES, values, Selection(max_detections=1))[0].scores, torch.tensor([0.7]))


def test_equal_scores_stay_in_the_order_of_anchor_then_class() -> None:
    boxes_xyxy = torch.arange(40.0).reshape(1, 40, 1).expand(1, 40, 4) * 10 + torch.tensor([0.0, 0, 5, 5])
    tied = torch.full((1, 40, 2), 0.5)
    (found,) = select(boxes_xyxy, tied, Selection(candidates_per_class=30, max_detections=None))
    assert_close(found.boxes_xyxy, boxes_xyxy[0, :30].repeat_interleave(2, dim=0))
    assert found.labels.tolist() == [0, 1] * 30


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 250), st.booleans())
def test_the_best_of_many_are_those_of_torchvisions_nms(seed: int, wanted: int, piled: int, agnostic: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, 300, 2, generator=random) * 100
    corner[:, :piled] /= 100  # these lie upon each other, and their scores are the best
    boxes_xyxy = torch.cat([corner, corner + 5 + 20 * torch.rand(1, 300, 2, generator=random)], dim=2)
    values = (torch.rand(1, 300, 3, generator=random) * 25).round() / 50  # many are equal
    values[:, :piled] += 0.5
    selection = Selection(candidates_per_class=90, max_detections=wanted, class_agnostic=agnostic)
    (found,) = select(boxes_xyxy, values, selection)
    rows: list[tuple[float, int, int]] = []  # score, falling and so negative; anchor; class
    for label, of_class in enumerate(values[0].T.tolist()):
        rows += sorted((-score, anchor, label) for anchor, score in enumerate(of_class) if score > 0.01)[:90]
    negative, anchors, labels = map(torch.tensor, zip(*sorted(rows), strict=True))
    groups = torch.zeros_like(labels) if agnostic else labels
    keep = batched_nms(boxes_xyxy[0, anchors].double(), -negative.double(), groups, 0.45).sort().values[:wanted]
    assert torch.equal(found.scores, -negative[keep])
    assert torch.equal(found.labels, labels[keep])
    assert torch.equal(found.boxes_xyxy, boxes_xyxy[0, anchors[keep]])


@pytest.mark.parametrize("nms", ["hard", "soft-linear", "soft-gaussian"])
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (2, 3, 2)])
def test_nothing_found_is_an_empty_list_of_detections(nms, shape) -> None:
    found = select(torch.zeros(*shape[:2], 4), torch.zeros(shape), Selection(nms=nms))
    assert [len(detections) for detections in found] == [0] * shape[0]
    assert all(detections.boxes_xyxy.shape == (0, 4) for detections in found)


def test_linear_soft_nms_multiplies_by_1_minus_iou_above_the_threshold() -> None:
    (found,) = select(BOXES, scores([0.5], [0.9], [0.3]), Selection(nms="soft-linear"))
    assert_close(found.scores, torch.tensor([0.9, 0.3, 0.5 * 0.2]))
    (found,) = select(BOXES, scores([0.5], [0.9], [0.3]), Selection(nms="soft-linear", iou_threshold=0.85))
    assert_close(found.scores, torch.tensor([0.9, 0.5, 0.3]))


def test_gaussian_soft_nms_decays_by_the_square_of_iou() -> None:
    (found,) = select(BOXES, scores([0.5], [0.9], [0.3]), Selection(nms="soft-gaussian", sigma=0.25))
    expected = 0.5 * float(torch.exp(torch.tensor(-0.64 / 0.25)))
    assert_close(found.scores, torch.tensor([0.9, 0.3, expected]))


def test_soft_nms_drops_what_decays_to_the_score_threshold() -> None:
    (found,) = select(BOXES, scores([0.5], [0.9], [0.3]), Selection(nms="soft-linear", score_threshold=0.15))
    assert_close(found.scores, torch.tensor([0.9, 0.3]))


def test_identical_boxes_leave_one_without_a_nan() -> None:
    boxes_xyxy = torch.tensor([[5.0, 5, 20, 20]]).repeat(4, 1)
    decayed = soft_nms(boxes_xyxy, torch.tensor([0.5, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 0, 1]), "linear")
    assert_close(decayed, torch.tensor([0.0, 0.8, 0.0, 0.6]))


def test_soft_nms_of_many_groups_equals_each_group_alone() -> None:
    case = golden("soft_nms")
    boxes_xyxy, values = torch.from_numpy(case["boxes_xyxy"]), torch.from_numpy(case["scores"])
    groups = torch.arange(len(values)) % 7 * 3
    together = soft_nms(boxes_xyxy, values, groups, "gaussian")
    for group in groups.unique():
        mine = groups == group
        alone = soft_nms(boxes_xyxy[mine], values[mine], torch.zeros_like(groups[mine]), "gaussian")
        assert_close(together[mine], alone)
