"""Which images are most worth labelling, held against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onestage.inference.ranking import Doubt, choose, doubt_of, lowest_score
from onestage.structures import Detections

FLAT = np.full((80, 100, 3), 90, dtype=np.uint8)
APART = [[0.0, 0.0, 20.0, 20.0], [40.0, 0.0, 60.0, 20.0], [0.0, 40.0, 20.0, 60.0]]


def doubt(
    scores: list[float], labels: list[int] | None = None, boxes: list | None = None, threshold: float = 0.5
) -> Doubt:
    boxes_xyxy = torch.tensor((boxes or APART)[: len(scores)]).reshape(-1, 4)
    found = Detections(boxes_xyxy, torch.tensor(scores), torch.tensor(labels or [0] * len(scores), dtype=torch.int64))
    return doubt_of(found, FLAT, threshold)


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([], 0.5, 0.0),
        ([0.9], 0.5, 0.1),  # kept, and wrong once in ten
        ([0.3], 0.5, 0.3),  # dropped, and there three times in ten
        ([0.9, 0.5, 0.3], 0.5, 0.9),
        ([0.2], 0.2, 0.5),  # at the threshold it is as likely right as wrong
        ([0.5], 0.2, 0.2),  # odds of 1 to 1, times 4 to 1: a chance of 4 / 5
        ([0.09, 0.05, 0.01], 0.5, 0.0),  # faint ones are in any image
    ],
)
def test_the_mistakes_to_expect_are_the_chances_that_decisions_are_wrong(
    scores: list[float], threshold: float, expected: float
) -> None:
    assert doubt(scores, threshold=threshold).mistakes == pytest.approx(expected, abs=1e-6)


def test_a_second_class_at_one_place_makes_the_class_doubtful() -> None:
    same = [APART[0], [1.0, 0.0, 20.0, 20.0]]
    two_classes = doubt([0.8, 0.4], [0, 1], same)
    assert two_classes.mistakes == pytest.approx(0.2 + 0.8 * (0.4 / 1.2), abs=1e-6)  # one place, not two
    assert two_classes.why == "1 place with two classes"
    assert doubt([0.8, 0.4], [0, 0], same).mistakes == pytest.approx(0.2, abs=1e-6)  # the same class twice


def test_the_reason_is_in_words() -> None:
    assert doubt([0.9]).why == "unlike the others"
    assert doubt([0.6]).why == "1 detection near the threshold"
    assert doubt([0.4, 0.3, 0.3]).why == "3 detections near the threshold, nothing above the threshold"
    assert doubt([]).why == "nothing above the threshold"


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8])
def test_no_score_that_counts_is_below_the_lowest(threshold: float) -> None:
    lowest = lowest_score(threshold)
    assert doubt([lowest + 1e-4], threshold=threshold).mistakes > 0
    assert doubt([lowest - 1e-4], threshold=threshold).mistakes == 0


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)


def seen(image: np.ndarray, boxes: list[list[float]], scores: list[float]) -> Doubt:
    labels = torch.zeros(len(scores), dtype=torch.int64)
    return doubt_of(Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), labels), image, 0.5)


def chosen(doubts: list[Doubt], count: int) -> list[int]:
    return list(choose(np.array([one.mistakes for one in doubts]), np.stack([one.vector for one in doubts]), count))


def test_the_image_with_most_mistakes_to_expect_comes_first_and_its_copy_never() -> None:
    places = [[0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 70.0, 70.0]]
    least = seen(noise(1), places[:1], [0.9])
    most = seen(noise(2), places, [0.5, 0.5])
    brighter = np.clip(noise(2) * 0.9 + 20, 0, 255).astype(np.uint8)  # as a copy, or the next frame of a video
    copy = seen(brighter, [[1.0, 0.0, 21.0, 20.0], [41.0, 40.0, 71.0, 70.0]], [0.5, 0.49])
    assert chosen([least, most, copy], 3) == [1, 0]
    assert chosen([least, most, copy], 1) == [1]


def test_frames_of_a_fixed_camera_are_unlike_where_the_objects_moved() -> None:
    before, next_frame, later = ([[x, 10.0, x + 20, 40.0]] for x in (0.0, 1.0, 50.0))
    doubts = [seen(noise(3), boxes, [score]) for boxes, score in ((before, 0.5), (next_frame, 0.49), (later, 0.4))]
    assert chosen(doubts, 3) == [0, 2]


def test_images_without_doubts_come_last() -> None:
    doubts = [seen(noise(4), [], []), seen(noise(5), [[0.0, 0.0, 20.0, 20.0]], [0.5]), seen(noise(6), [], [])]
    assert chosen(doubts, 3)[0] == 1
    assert sorted(chosen(doubts, 3)) == [0, 1, 2]


def test_a_blank_image_has_no_pattern() -> None:
    almost = FLAT.copy()
    almost[0, 0] += 1
    assert np.abs(doubt([]).vector - seen(almost, [], []).vector).max() < 0.01
