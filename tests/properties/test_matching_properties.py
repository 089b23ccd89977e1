from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from ssd300_case import objects, ssd300_anchors
from torchvision.ops import box_iou

from onestage.boxes import cxcywh_to_xyxy
from onestage.matching import match_anchors

ANCHORS = ssd300_anchors()
ANCHORS_XYXY = cxcywh_to_xyxy(ANCHORS)


@st.composite
def images(draw):
    """Boxes inside an image of 300 pixels, ignored or not; some without area."""
    rows, ignored = [], []
    for _ in range(draw(st.integers(0, 6))):
        x0, y0 = draw(st.integers(0, 299)), draw(st.integers(0, 299))
        rows.append((x0, y0, draw(st.integers(x0, 300)), draw(st.integers(y0, 300))))
        ignored.append(draw(st.booleans()))
    return objects(rows, range(len(rows)), ignored)


@given(st.lists(images(), max_size=3), st.sampled_from([0.2, 0.4, 0.5]), st.booleans())
def test_positive_negative_and_ignored_are_disjoint_and_cover_all_anchors(targets, negative_iou, keep_best) -> None:
    matches = match_anchors(ANCHORS, targets, negative_iou=negative_iou, keep_best=keep_best)
    kinds = matches.positive.int() + matches.negative.int() + matches.ignored.int()
    assert kinds.shape == (len(targets), 8732)
    assert kinds.eq(1).all()


@given(images())
def test_positives_are_those_that_the_definition_names(target) -> None:
    matches = match_anchors(ANCHORS, [target])
    iou = box_iou(target.boxes_xyxy, ANCHORS_XYXY)
    claims = {}  # anchor -> object; a later object has it
    for number in range(len(iou)):
        if not target.ignored[number] and iou[number].max() > 0:
            claims[int(iou[number].argmax())] = number
            above = matches.positive[0][iou[number] >= 0.5]
            assert above.all()
    for anchor, number in claims.items():
        assert matches.positive[0, anchor]
        assert matches.labels[0, anchor] == number
    own = iou[~target.ignored]
    expected = set(claims) | set((own >= 0.5).any(dim=0).nonzero()[:, 0].tolist())
    assert set(matches.positive[0].nonzero()[:, 0].tolist()) == expected


@given(images())
def test_ignored_objects_give_no_positive_and_hide_no_anchor_outside_them(target) -> None:
    matches = match_anchors(ANCHORS, [target])
    assert not target.ignored[matches.labels[matches.positive]].any()
    if matches.ignored.any():
        outside = box_iou(target.boxes_xyxy[target.ignored], ANCHORS_XYXY).amax(dim=0) == 0
        assert not (matches.ignored[0] & outside).any()
