from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_iou, generalized_box_iou_loss

from onestage.boxes import (
    boxes_to_distances,
    clip_boxes,
    cxcywh_to_xyxy,
    decode_deltas,
    distances_to_boxes,
    encode_deltas,
    paired_generalized_iou,
    paired_iou,
    pairwise_iou,
    rescale_boxes,
    xyxy_to_cxcywh,
)

ANCHOR = torch.tensor([[100.0, 50.0, 40.0, 20.0]])


def test_corners_become_centre_and_size_and_back() -> None:
    boxes_xyxy = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    boxes_cxcywh = torch.tensor([[20.0, 40.0, 20.0, 40.0]])
    assert_close(xyxy_to_cxcywh(boxes_xyxy), boxes_cxcywh)
    assert_close(cxcywh_to_xyxy(boxes_cxcywh), boxes_xyxy)


def test_a_box_on_its_anchor_has_no_deltas() -> None:
    assert_close(encode_deltas(cxcywh_to_xyxy(ANCHOR), ANCHOR), torch.zeros(1, 4))


def test_deltas_are_shift_by_anchor_size_and_log_scale_over_the_variances() -> None:
    box_cxcywh = torch.tensor([[104.0, 49.0, 80.0, 10.0]])  # 0.1 anchor right, 0.05 up, twice as wide, half as tall
    expected = torch.tensor([[1.0, -0.5, math.log(2) / 0.2, -math.log(2) / 0.2]])
    assert_close(encode_deltas(cxcywh_to_xyxy(box_cxcywh), ANCHOR), expected)
    assert_close(decode_deltas(expected, ANCHOR), cxcywh_to_xyxy(box_cxcywh))


def test_decoding_broadcasts_one_set_of_anchors_over_a_batch() -> None:
    anchors = torch.tensor([[10.0, 10.0, 4.0, 4.0], [20.0, 20.0, 8.0, 8.0]])
    boxes_xyxy = decode_deltas(torch.zeros(3, 2, 4), anchors)
    assert_close(boxes_xyxy, cxcywh_to_xyxy(anchors).expand(3, 2, 4))


def test_a_huge_delta_gives_a_finite_box_at_most_62_anchors_wide() -> None:
    boxes_xyxy = decode_deltas(torch.full((1, 4), 1e4), ANCHOR)
    assert boxes_xyxy.isfinite().all()
    assert_close(boxes_xyxy[0, 2] - boxes_xyxy[0, 0], torch.tensor(62.5 * 40), rtol=1e-5, atol=0.0)


def test_a_box_without_width_has_finite_deltas() -> None:
    assert encode_deltas(torch.tensor([[5.0, 5.0, 5.0, 9.0]]), ANCHOR).isfinite().all()


def test_bfloat16_deltas_are_decoded_in_the_anchors_precision() -> None:
    assert decode_deltas(torch.zeros(1, 4, dtype=torch.bfloat16), ANCHOR).dtype == torch.float32


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((-5, -6, 20, 30), (0, 0, 20, 30)),
        ((90, 40, 130, 70), (90, 40, 100, 50)),
        ((120, 60, 130, 70), (100, 50, 100, 50)),
    ],
)
def test_boxes_are_cut_at_the_borders_of_an_image_50_high_and_100_wide(box, clipped) -> None:
    assert_close(clip_boxes(torch.tensor([box], dtype=torch.float32), (50, 100)), torch.tensor([clipped]).float())


def test_boxes_follow_an_image_that_is_stretched() -> None:
    boxes_xyxy = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    assert_close(rescale_boxes(boxes_xyxy, (300, 300), (150, 600)), torch.tensor([[20.0, 10.0, 60.0, 20.0]]))


@pytest.mark.parametrize("count", [0, 1, 70])
def test_pairwise_iou_equals_torchvision(count: int) -> None:
    corners = torch.rand(count + 30, 2, generator=torch.Generator().manual_seed(0)) * 100
    sizes = torch.rand(count + 30, 2, generator=torch.Generator().manual_seed(1)) * 60 + 1
    boxes_xyxy = torch.cat([corners, corners + sizes], dim=1)
    one, other = boxes_xyxy[:count], boxes_xyxy[count:]
    assert_close(pairwise_iou(one, other), box_iou(one, other))


def test_the_share_of_a_box_inside_a_crowd_is_of_its_own_area() -> None:
    crowd = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    others = torch.tensor([[10.0, 10.0, 20.0, 20.0], [90.0, 0.0, 110.0, 10.0], [200.0, 200.0, 210.0, 210.0]])
    boxes = torch.cat([crowd, crowd])
    share = pairwise_iou(boxes, others, crowd=torch.tensor([True, False]))
    assert_close(share[0], torch.tensor([1.0, 0.5, 0.0]))
    assert_close(share[1], pairwise_iou(crowd, others)[0])


def test_pairs_of_boxes_overlap_as_torchvision_says() -> None:
    corners = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) * 60
    sizes = torch.rand(400, 2, generator=torch.Generator().manual_seed(1)) * 60 + 1
    boxes_xyxy = torch.cat([corners, corners + sizes], dim=1)
    one, other = boxes_xyxy[:200], boxes_xyxy[200:]
    assert_close(paired_iou(one, other), box_iou(one, other).diagonal())
    assert_close(1 - paired_generalized_iou(one, other), generalized_box_iou_loss(one, other), rtol=1e-5, atol=1e-6)
    assert paired_iou(one, other[:1]).shape == (200,)
    nothing = torch.zeros(1, 4, requires_grad=True)
    paired_generalized_iou(nothing, nothing.detach()).sum().backward()
    assert nothing.grad.isfinite().all()


def test_distances_to_four_sides_give_the_box_again() -> None:
    boxes_xyxy, point = torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([[15.0, 70.0]])
    assert_close(boxes_to_distances(boxes_xyxy, point), torch.tensor([[5.0, 50, 15, -10]]))
    assert_close(distances_to_boxes(torch.tensor([[5.0, 50, 15, -10]]), point), boxes_xyxy)
