"""What counts as the same detection."""

from __future__ import annotations

import pytest
import torch

from onestage.export.check import compare
from onestage.structures import Detections


def found(*rows: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


BOX = (0.0, 0.0, 100.0, 100.0)


def test_the_same_detections_agree_in_any_order() -> None:
    one, two = (BOX, 0.9, 0), ((50.0, 50.0, 80.0, 90.0), 0.9, 1)
    agreement = compare([found(one, two)], [found(two, one)])
    assert (agreement.same, agreement.of, agreement.share) == (2, 2, 1.0)
    assert agreement.largest_offset == 0


@pytest.mark.parametrize(
    "other",
    [(BOX, 0.903, 0), (BOX, 0.9, 1), ((0.0, 0.0, 100.0, 98.9), 0.9, 0)],  # score; class; IoU 0.989
)
def test_another_score_class_or_box_does_not(other: tuple[tuple[float, float, float, float], float, int]) -> None:
    assert compare([found((BOX, 0.9, 0))], [found(other)]).same == 0


def test_a_detection_is_in_one_pair_only() -> None:
    agreement = compare([found((BOX, 0.9, 0), (BOX, 0.9, 0))], [found((BOX, 0.9, 0))])
    assert (agreement.same, agreement.of, agreement.share) == (1, 2, 0.5)


def test_the_largest_difference_of_a_pair_is_told() -> None:
    agreement = compare([found((BOX, 0.9, 0))], [found(((0.0, 0.0, 100.0, 99.5), 0.901, 0))])  # IoU 0.995
    assert agreement.same == 1
    assert agreement.largest_offset == pytest.approx(0.5)
    assert agreement.largest_score_difference == pytest.approx(0.001, abs=1e-6)
    assert "1 of 1 detections in 1 images" in str(agreement)


def test_nothing_found_by_both_agrees() -> None:
    nothing = compare([found()], [found()])
    assert nothing.share == 1.0
    assert "so nothing was compared" in str(nothing)
    assert compare([found((BOX, 0.9, 0))], [found()]).share == 0.0
