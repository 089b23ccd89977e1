from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given
from ssd300_case import ssd300_anchors
from torch.testing import assert_close

from onestage.boxes import cxcywh_to_xyxy, decode_deltas, encode_deltas, rescale_boxes, xyxy_to_cxcywh

ANCHORS = ssd300_anchors()

coordinates = st.floats(0, 300, width=32)
sides = st.floats(2, 300, width=32)
boxes_cxcywh = st.lists(st.tuples(coordinates, coordinates, sides, sides), min_size=1, max_size=20)


@given(boxes_cxcywh, st.randoms(use_true_random=False))
def test_decoding_undoes_encoding(rows, random) -> None:
    boxes_xyxy = cxcywh_to_xyxy(torch.tensor(rows))
    anchors = ANCHORS[[random.randrange(len(ANCHORS)) for _ in rows]]
    assert_close(decode_deltas(encode_deltas(boxes_xyxy, anchors), anchors), boxes_xyxy, rtol=1e-4, atol=1e-2)


@given(boxes_cxcywh)
def test_formats_and_frames_go_there_and_back(rows) -> None:
    boxes = torch.tensor(rows)
    assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes, rtol=1e-4, atol=1e-3)
    there = rescale_boxes(boxes, (300, 300), (123, 457))
    assert_close(rescale_boxes(there, (123, 457), (300, 300)), boxes, rtol=1e-4, atol=1e-3)
