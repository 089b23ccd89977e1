from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given
from torchvision.ops import box_iou

from onestage.postprocess import Selection, select, soft_nms

corners = st.integers(-20, 60)
sides = st.integers(1, 40)
rows = st.tuples(corners, corners, sides, sides, st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))


def image(drawn: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (A, 4) and scores (A, 3) with many ties."""
    table = torch.tensor(drawn, dtype=torch.float32).reshape(-1, 7)
    return torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], dim=1), table[:, 4:] / 20


def greedy(boxes_xyxy, scores, threshold: float, iou_threshold: float, per_class: int) -> list[tuple[float, int, int]]:
    """NMS as its definition says, one candidate after another."""
    kept = []
    for label in range(scores.shape[1]):
        ranked = sorted(range(len(scores)), key=lambda a: (-float(scores[a, label]), a))
        ranked = [anchor for anchor in ranked if scores[anchor, label] > threshold][:per_class]
        mine: list[int] = []
        for anchor in ranked:
            if not mine or box_iou(boxes_xyxy[[anchor]].double(), boxes_xyxy[mine].double()).max() <= iou_threshold:
                mine.append(anchor)
        kept += [(-float(scores[anchor, label]), anchor, label) for anchor in mine]
    return sorted(kept)


@given(st.lists(rows, max_size=25), st.sampled_from([1, 5, 100]))
def test_hard_nms_agrees_with_brute_force(drawn, per_class) -> None:
    boxes_xyxy, scores = image(drawn)
    selection = Selection(candidates_per_class=per_class, score_threshold=0.1, max_detections=None)
    (found,) = select(boxes_xyxy[None], scores[None], selection)
    expected = greedy(boxes_xyxy, scores, 0.1, 0.45, per_class)
    assert found.labels.tolist() == [label for _, _, label in expected]
    assert torch.equal(found.boxes_xyxy, boxes_xyxy[[anchor for _, anchor, _ in expected]])


@given(st.lists(rows, max_size=25), st.booleans())
def test_no_two_detections_of_a_class_overlap_above_the_threshold(drawn, agnostic) -> None:
    boxes_xyxy, scores = image(drawn)
    (found,) = select(boxes_xyxy[None], scores[None], Selection(class_agnostic=agnostic))
    iou = box_iou(found.boxes_xyxy, found.boxes_xyxy).fill_diagonal_(0)
    same = torch.ones_like(iou, dtype=torch.bool) if agnostic else found.labels[:, None] == found.labels
    assert not ((iou > 0.4501) & same).any()


@given(st.lists(rows, max_size=25), st.sampled_from(["linear", "gaussian"]))
def test_soft_nms_raises_no_score_and_leaves_the_best_alone(drawn, decay) -> None:
    boxes_xyxy, scores = image(drawn)
    values, groups = scores[:, 0], torch.arange(len(scores)) % 2
    decayed = soft_nms(boxes_xyxy, values, groups, decay)
    assert (decayed <= values).all()
    assert (decayed >= 0).all()
    for group in range(2):
        mine = groups == group
        if mine.any():
            assert decayed[mine].max() == values[mine].max()
