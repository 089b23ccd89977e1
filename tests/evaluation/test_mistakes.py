"""Kinds of mistakes: equal to tidecv, and each kind by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from golden_neu_det import golden_tables

from onestage.evaluation.mistakes import KINDS, greedy_matches, kinds_of_mistakes, tide
from onestage.structures import DetectionTable, GroundTruth

Box = tuple[float, float, float, float]

# What tidecv 1.0.1 says of `golden_tables`, in percent (its ignore regions are the difficult objects):
# run = TIDE().evaluate(gt, detections, mode=TIDE.BOX); run.ap; run.fix_main_errors()
TIDECV_AP = 27.962255643834354
TIDECV_GAINS = {
    "class": 4.131453592317477,
    "place": 22.822925317902126,
    "both": 1.2431390052767206,
    "duplicate": 2.727681691194732,
    "background": 1.1085732626250007,
    "missed": 9.029947762317015,
}


def case(
    objects: Sequence[tuple[Box, int]], found: Sequence[tuple[Box, int, float]], ignored: Sequence[int] = ()
) -> tuple[GroundTruth, DetectionTable]:
    """Boxes with labels, and boxes with labels and scores, in one image."""
    boxes = np.array([box for box, _ in objects], dtype=np.float64).reshape(-1, 4)
    labels = np.array([label for _, label in objects], dtype=np.int64)
    images = np.zeros(len(objects), dtype=np.int64)
    ignored_rows = np.isin(np.arange(len(objects)), ignored)
    truth = GroundTruth(1, images, labels, boxes, ignored_rows, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    columns = (np.array([one[part] for one in found]) for part in (1, 2, 0))
    label, score, box = columns
    return truth, DetectionTable(np.zeros(len(found), dtype=np.int64), label, score, box.astype(np.float64))


def test_what_each_kind_costs_is_what_tidecv_says_with_ignored_objects_too() -> None:
    truth, found = golden_tables()
    assert truth.ignored.sum() == 17

    result = tide(truth, found, 6)

    assert 100 * result.ap50 == pytest.approx(TIDECV_AP, abs=1e-6)
    gains = dict(zip(KINDS, 100 * result.gain, strict=True))
    assert gains == pytest.approx(TIDECV_GAINS, abs=1e-6)


OBJECT: Box = (0, 0, 100, 100)


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        ((0, 0, 100, 90), 1, "class"),  # IoU 0.9 with an object of class 0
        ((0, 0, 100, 30), 0, "place"),  # IoU 0.3
        ((0, 0, 100, 30), 1, "both"),
        ((0, 0, 100, 90), 0, "duplicate"),  # the hit has a higher score
        ((0, 0, 100, 9), 0, "background"),  # IoU 0.09
        ((200, 200, 250, 250), 1, "background"),
    ],
)
def test_a_false_positive_is_of_the_kind_that_the_paper_says(box: Box, label: int, kind: str) -> None:
    truth, found = case([(OBJECT, 0)], [(OBJECT, 0, 0.9), (box, label, 0.8)])

    mistakes = kinds_of_mistakes(truth, found, greedy_matches(truth, found))

    assert mistakes.kind[0] == -1  # the hit
    assert KINDS[mistakes.kind[1]] == kind
    assert mistakes.missed.tolist() == [False]


def test_an_object_is_missed_if_no_mistake_means_it() -> None:
    far: Box = (300, 300, 400, 400)
    truth, found = case([(OBJECT, 0), (far, 0), (far, 1)], [((0, 0, 100, 30), 0, 0.8)], ignored=[2])

    mistakes = kinds_of_mistakes(truth, found, greedy_matches(truth, found))

    assert mistakes.object_row.tolist() == [0]
    assert mistakes.missed.tolist() == [False, True, False]  # the first is badly placed, the last is ignored


def test_without_objects_every_detection_is_background() -> None:
    truth, found = case([], [(OBJECT, 0, 0.9)])

    assert KINDS[kinds_of_mistakes(truth, found, np.array([-1])).kind[0]] == "background"
    assert np.isnan(tide(truth, found, 1).ap50)


def test_matching_in_rounds_ends_where_taking_turns_would() -> None:
    random = np.random.default_rng(3)
    corners = random.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corners, corners + random.uniform(20, 60, (40, 2))], axis=1)
    objects = [(tuple(box), 0) for box in boxes[:15].tolist()]
    truth, found = case(objects, [(tuple(box), 0, random.random()) for box in boxes[15:].tolist()])

    expected = np.full(25, -1)
    free = set(range(15))
    for row in np.argsort(-found.scores):  # one at a time
        overlaps = {one: iou(found.boxes_xyxy[row], truth.boxes_xyxy[one]) for one in free}
        best = max(overlaps, key=lambda one: overlaps[one], default=-1)
        if best >= 0 and overlaps[best] >= 0.5:
            expected[row] = best
            free.remove(best)

    assert (expected >= 0).sum() > 5
    assert greedy_matches(truth, found).tolist() == expected.tolist()


def iou(one: np.ndarray, other: np.ndarray) -> float:
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    overlap = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return overlap / (sum(areas) - overlap)
