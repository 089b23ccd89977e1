"""Which images the report shows."""

from __future__ import annotations

import numpy as np

from onestage.evaluation.report import choose_examples, count_by_image
from onestage.structures import DetectionTable, GroundTruth

BOX = [0.0, 0.0, 10.0, 10.0]
# Images: 0 found (class 0); 1 missed; 2 found (class 0); 3 found (class 1); 4 empty, a false alarm; 5 empty, quiet.
TRUTH = GroundTruth(
    num_images=6,
    image_index=np.array([0, 1, 2, 3, 3]),
    labels=np.array([0, 0, 0, 1, 0]),
    boxes_xyxy=np.array([BOX] * 5),
    ignored=np.array([False, False, False, False, True]),
    areas=np.full(5, 100.0),
)
FOUND = DetectionTable(
    image_index=np.array([0, 1, 2, 3, 4]),
    labels=np.array([0, 0, 0, 1, 0]),
    scores=np.array([0.9, 0.5, 0.9, 0.9, 0.9]),  # image 1's is not above the threshold
    boxes_xyxy=np.array([BOX] * 5),
)


def test_each_image_counts_its_own_hits_and_mistakes() -> None:
    counts = count_by_image(TRUTH, FOUND)

    assert counts.hits.tolist() == [1, 0, 1, 1, 0, 0]
    assert counts.mistakes.tolist() == [0, 1, 0, 0, 1, 0]
    assert counts.f1.tolist() == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def test_the_best_take_turns_by_class_and_the_worst_are_those_with_mistakes() -> None:
    best, worst = choose_examples(TRUTH, count_by_image(TRUTH, FOUND), limit=2)

    assert best == [0, 3]
    assert worst == [1, 4]


def test_no_image_is_both_best_and_worst() -> None:
    best, worst = choose_examples(TRUTH, count_by_image(TRUTH, FOUND), limit=10)

    assert sorted(best + worst) == [0, 1, 2, 3, 4, 5]
    assert len(worst) == 3


def test_no_images_give_no_examples() -> None:
    none = np.zeros(0, dtype=np.int64)
    no_boxes = np.zeros((0, 4))
    truth = GroundTruth(0, none, none, no_boxes, np.zeros(0, dtype=bool), np.zeros(0))

    counts = count_by_image(truth, DetectionTable(none, none, np.zeros(0), no_boxes))

    assert choose_examples(truth, counts) == ([], [])
