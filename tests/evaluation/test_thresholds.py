"""Score thresholds of classes: hand arithmetic, and scikit-learn's precision-recall curve."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from onestage.errors import UserError
from onestage.evaluation.thresholds import find_thresholds
from onestage.structures import DetectionTable, GroundTruth
from onestage.thresholds import Aim, Thresholds

BOX = (0.0, 0.0, 10.0, 10.0)
ELSEWHERE = (50.0, 50.0, 60.0, 60.0)


def truth_of(images: list[int], labels: list[int], num_images: int, ignored: list[bool] | None = None) -> GroundTruth:
    """An object at BOX in each of the images named."""
    count = len(images)
    return GroundTruth(
        num_images,
        np.array(images, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.tile(np.array(BOX), (count, 1)).reshape(count, 4),
        np.array(ignored or [False] * count, dtype=bool),
        np.full(count, 100.0),
    )


def found_of(images: list[int], labels: list[int], scores: list[float], hits: list[bool]) -> DetectionTable:
    """A detection at BOX where it is to hit, else elsewhere."""
    boxes = np.array([BOX if hit else ELSEWHERE for hit in hits], dtype=np.float64).reshape(-1, 4)
    return DetectionTable(
        np.array(images, dtype=np.int64), np.array(labels, dtype=np.int64), np.array(scores, dtype=np.float64), boxes
    )


# Two objects; best first a hit, a miss, a hit, a miss. F1 of the best 1, 2, 3, 4: 2/3, 1/2, 4/5, 2/3.
TWO_OBJECTS = truth_of([0, 1], [0, 0], 2)
FOUR = found_of([0, 0, 1, 1], [0] * 4, [0.9, 0.8, 0.6, 0.3], [True, False, True, False])


def test_the_threshold_of_the_best_f1_lies_between_what_is_kept_and_what_is_not() -> None:
    (one,) = find_thresholds(TWO_OBJECTS, FOUR, 1, split="val").classes

    assert one.score == pytest.approx((0.6 + 0.3) / 2)
    assert (one.precision, one.recall, one.f1) == pytest.approx((2 / 3, 1.0, 0.8))
    assert one.objects == 2
    assert one.lowest <= one.score <= one.highest


@pytest.mark.parametrize(
    ("aim", "score", "reached"),
    [
        (Aim(precision=0.9), 0.85, True),  # the best one alone
        (Aim(precision=0.6), 0.45, True),  # three, of which two hit
        (Aim(recall=0.5), 0.85, True),  # of those that find half, the most precise
        (Aim(recall=1.0), 0.45, True),
    ],
)
def test_a_wanted_precision_or_recall_is_reached_with_as_much_of_the_other_as_can_be(
    aim: Aim, score: float, reached: bool
) -> None:
    (one,) = find_thresholds(TWO_OBJECTS, FOUR, 1, aim=aim, split="val").classes

    assert one.score == pytest.approx(score)
    assert one.reached == reached


def test_where_a_wanted_precision_is_never_reached_the_nearest_is_taken_and_told() -> None:
    misses_first = found_of([0, 0, 1], [0] * 3, [0.9, 0.8, 0.6], [False, True, True])

    (one,) = find_thresholds(TWO_OBJECTS, misses_first, 1, aim=Aim(precision=0.95), split="val").classes

    assert not one.reached
    assert one.precision == pytest.approx(2 / 3)


def test_equal_scores_are_kept_or_dropped_together() -> None:
    equal = found_of([0, 0, 1], [0] * 3, [0.7, 0.7, 0.7], [True, False, False])

    (one,) = find_thresholds(TWO_OBJECTS, equal, 1, split="val").classes

    assert one.score < 0.7
    assert one.precision == pytest.approx(1 / 3)


def test_a_class_without_objects_or_detections_takes_the_threshold_of_all_together() -> None:
    thresholds = find_thresholds(TWO_OBJECTS, FOUR, 2, split="val")

    assert thresholds.scores == pytest.approx((0.45, 0.45))
    assert thresholds.classes[1].objects == 0
    assert thresholds.classes[1].f1 is None


def test_ignored_objects_and_detections_of_them_do_not_count() -> None:
    truth = truth_of([0, 1, 2], [0, 0, 0], 3, ignored=[False, False, True])
    found = found_of([0, 0, 1, 1, 2], [0] * 5, [0.9, 0.8, 0.6, 0.3, 0.95], [True, False, True, False, True])

    (one,) = find_thresholds(truth, found, 1, split="val").classes

    assert one.score == pytest.approx(0.45)
    assert one.precision == pytest.approx(2 / 3)


def test_without_any_detection_the_threshold_is_the_usual_one() -> None:
    assert find_thresholds(TWO_OBJECTS, found_of([], [], [], []), 1, split="val").scores == (0.5,)
    nothing = truth_of([], [], 0)
    assert find_thresholds(nothing, found_of([], [], [], []), 1, split="val").scores == (0.5,)


@pytest.mark.parametrize("seed", range(5))
def test_f1_precision_and_recall_at_the_threshold_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    images, classes = 40, 3
    pairs = [(image, label) for image in range(images) for label in range(classes) if generator.random() < 0.7]
    truth = truth_of([image for image, _ in pairs], [label for _, label in pairs], images)
    # One detection at each object of some, and many elsewhere, whose scores overlap.
    hitting = [pair for pair in pairs if generator.random() < 0.8]
    missing = [(int(generator.integers(images)), int(generator.integers(classes))) for _ in range(150)]
    scores = np.concatenate([generator.beta(4, 3, len(hitting)), generator.beta(2, 5, len(missing))]).round(2)
    both, hits = hitting + missing, [True] * len(hitting) + [False] * len(missing)
    found = found_of([image for image, _ in both], [label for _, label in both], scores.tolist(), hits)

    thresholds = find_thresholds(truth, found, classes, split="val")

    for label, one in enumerate(thresholds.classes):
        of_class = found.labels == label
        never_found = one.objects - int(np.array(hits)[of_class].sum())
        # scikit-learn counts objects among what has a score: those that were never found get the lowest.
        y_true = np.append(np.array(hits)[of_class], np.ones(never_found, dtype=bool))
        y_score = np.append(found.scores[of_class], np.full(never_found, -1.0))
        precision, recall, cut = precision_recall_curve(y_true, y_score)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best = int(f1[:-1][cut >= 0].argmax()) + int((cut < 0).sum())
        assert one.f1 == pytest.approx(f1[best], abs=1e-6)
        kept = y_score > one.score
        assert one.precision == pytest.approx(y_true[kept].mean(), abs=1e-6)
        assert one.recall == pytest.approx(y_true[kept].sum() / y_true.sum(), abs=1e-6)


def test_more_images_make_the_interval_narrower() -> None:
    def width(images: int) -> float:
        generator = np.random.default_rng(0)
        truth = truth_of(list(range(images)), [0] * images, images)
        numbers = [*range(images), *range(images)]
        hits = [True] * images + [False] * images
        scores = np.concatenate([generator.beta(4, 3, images), generator.beta(3, 4, images)])
        (one,) = find_thresholds(truth, found_of(numbers, [0] * 2 * images, scores.tolist(), hits), 1, split="").classes
        return one.highest - one.lowest

    assert width(2000) < width(30)


def test_thresholds_survive_a_file_header_and_damaged_ones_are_refused() -> None:
    thresholds = find_thresholds(TWO_OBJECTS, FOUR, 1, aim=Aim(precision=0.9), split="val")
    header = asdict(thresholds)

    assert Thresholds.from_header(header, 1, "model.safetensors") == thresholds
    assert Thresholds.from_header(None, 1, "model.safetensors") is None
    for damaged in ({**header, "classes": []}, {**header, "images": "many"}, [], {**header, "aim": None}):
        with pytest.raises(UserError, match=r"model\.safetensors"):
            Thresholds.from_header(damaged, 1, "model.safetensors")
    header["classes"][0]["score"] = 7.0
    with pytest.raises(UserError, match="score is 7"):
        Thresholds.from_header(header, 1, "model.safetensors")


def test_a_precision_and_a_recall_at_once_are_refused() -> None:
    with pytest.raises(UserError, match="give one of them"):
        Aim(precision=0.9, recall=0.9)
