from __future__ import annotations

import hypothesis.strategies as st
import torch
from gfl_case import LEVEL_SIZES, anchors
from hypothesis import given, settings
from ssd300_case import objects
from torch.testing import assert_close

from onestage.assignment import assign_atss, assign_task_aligned
from onestage.structures import Matches, Targets

ANCHORS = anchors()
POINTS = ANCHORS[:, :2]


@st.composite
def images(draw, some_ignored=True):
    """Boxes inside an image of 320 pixels, ignored or not; some without area."""
    rows, flags = [], []
    for _ in range(draw(st.integers(0, 6))):
        x0, y0 = draw(st.integers(0, 319)), draw(st.integers(0, 319))
        rows.append((x0, y0, draw(st.integers(x0, 320)), draw(st.integers(y0, 320))))
        flags.append(some_ignored and draw(st.booleans()))
    return objects(rows, range(len(rows)), flags)


def assigned(targets: list[Targets], numbers: list[int], assignment: str) -> Matches:
    """Matches of images whose predictions are drawn by their numbers."""
    if assignment == "atss":
        return assign_atss(ANCHORS, LEVEL_SIZES, targets)
    random = [torch.Generator().manual_seed(number) for number in numbers]
    scores = torch.stack([torch.rand(2134, 6, generator=one) for one in random])
    sides = torch.stack([torch.rand(2134, 4, generator=one) * 90 for one in random])
    boxes = torch.cat([POINTS - sides[..., :2], POINTS + sides[..., 2:]], dim=2)
    return assign_task_aligned(POINTS, scores, boxes, targets).matches


@settings(max_examples=40)
@given(st.lists(images(), min_size=1, max_size=3), st.sampled_from(["atss", "task-aligned"]))
def test_a_batch_is_image_by_image_and_each_position_has_one_kind(targets, assignment) -> None:
    numbers = list(range(len(targets)))
    batch = assigned(targets, numbers, assignment)
    assert (batch.positive.int() + batch.negative.int() + batch.ignored.int()).eq(1).all()
    for number, target in enumerate(targets):
        alone = assigned([target], [number], assignment)
        for together, by_itself in zip(batch, alone, strict=True):
            assert_close(together[number : number + 1], by_itself, rtol=0, atol=0)
        assert not target.ignored[batch.labels[number][batch.positive[number]]].any()
    reverse = assigned(targets[::-1], numbers[::-1], assignment)
    for forward, backward in zip(batch, reverse, strict=True):
        assert_close(forward, backward.flip(0), rtol=0, atol=0)


@settings(max_examples=40)
@given(images(some_ignored=False))
def test_atss_leaves_no_object_without_a_positive_that_has_a_candidate_inside_and_no_rival(target) -> None:
    matches = assign_atss(ANCHORS, LEVEL_SIZES, [target])
    taken = {int(label) for label in matches.labels[matches.positive]}
    for number, (x0, y0, x1, y1) in enumerate(target.boxes_xyxy.tolist()):
        distance = (POINTS - torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2])).square().sum(dim=1)
        levels = distance.split(LEVEL_SIZES)
        nearest = torch.cat([level.topk(9, largest=False).values[-1:].expand_as(level) for level in levels])
        inside = (POINTS[:, 0] > x0) & (POINTS[:, 0] < x1) & (POINTS[:, 1] > y0) & (POINTS[:, 1] < y1)
        candidates = inside & (distance < nearest)  # those at the same distance as the last may be left out
        if candidates.any():
            assert number in taken or matches.positive[0][candidates].any()
