"""Recall, precision, F1 and the confusion matrix at score thresholds, held against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from golden_neu_det import golden_tables
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from onestage.evaluation.at_thresholds import count_at_thresholds, wilson_interval
from onestage.evaluation.mistakes import KINDS
from onestage.structures import DetectionTable, GroundTruth

THRESHOLDS = np.array([0.2, 0.5, 0.4, 0.3, 0.25, 0.6])


def test_recall_precision_and_f1_are_those_of_scikit_learn() -> None:
    at = count_at_thresholds(*golden_tables(), THRESHOLDS)

    # Each object and each detection that hits none is one answer: what is there, and what was said; 6 is nothing.
    lost = ~at.is_found & ~at.truth.ignored
    hits, alarms = at.found.labels[at.assigned.hit], at.found.labels[at.assigned.false_positive]
    there = np.concatenate([hits, at.truth.labels[lost], np.full(len(alarms), 6)])
    said = np.concatenate([hits, np.full(int(lost.sum()), 6), alarms])
    precision, recall, f1, support = precision_recall_fscore_support(there, said, labels=range(6))

    assert at.recall == pytest.approx(recall, abs=1e-6)
    assert at.precision == pytest.approx(precision, abs=1e-6)
    assert at.f1 == pytest.approx(f1, abs=1e-6)
    assert at.objects.tolist() == np.asarray(support).tolist() == [122, 200, 165, 85, 114, 107]


def test_only_detections_above_the_threshold_of_their_class_count() -> None:
    truth, found = golden_tables()
    at = count_at_thresholds(truth, found, THRESHOLDS)

    kept = found.scores > THRESHOLDS[found.labels]
    assert at.found.scores.tolist() == found.scores[kept].tolist()
    assert (
        at.hits + at.false_alarms + np.bincount(at.found.labels[at.assigned.ignored], minlength=6)
    ).sum() == kept.sum()


def table(rows: list[tuple[int, tuple[float, float, float, float]]]) -> tuple[np.ndarray, ...]:
    labels, boxes = zip(*rows, strict=True)
    return np.zeros(len(rows), dtype=np.int64), np.array(labels), np.array(boxes, dtype=np.float64)


def test_the_confusion_matrix_counts_each_object_and_each_detection_once() -> None:
    near, far, away = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (90.0, 90.0, 99.0, 99.0)
    image, labels, boxes = table([(0, near), (0, far), (1, away), (1, (50.0, 0.0, 60.0, 10.0))])
    truth = GroundTruth(1, image, labels, boxes, np.array([False, False, False, True]), np.full(4, 100.0))
    image, labels, boxes = table([(0, near), (1, near), (1, far), (1, (50.0, 0.0, 60.0, 10.0)), (0, (70, 0, 80, 10))])
    at = count_at_thresholds(truth, DetectionTable(image, labels, np.full(5, 0.9), boxes), np.full(2, 0.5))

    # Object 0 is found and named a second time, wrongly; object 1 is taken for class 1; object 2 is not found; the
    # ignored object and its detection count nowhere; one detection is where nothing is.
    expected = confusion_matrix([0, 0, 1, 2, 2], [0, 1, 2, 1, 0], labels=range(3))
    assert at.confusion.tolist() == expected.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert dict(zip(KINDS, at.kinds.sum(axis=0).tolist(), strict=True)) == {
        "class": 2, "place": 0, "both": 0, "duplicate": 0, "background": 1, "missed": 1,
    }  # fmt: skip


def test_the_sums_of_the_matrix_are_the_objects_and_the_detections() -> None:
    at = count_at_thresholds(*golden_tables(), THRESHOLDS)

    assert at.confusion[:6].sum(axis=1).tolist() == at.objects.tolist()
    assert at.confusion[:, :6].sum(axis=0).tolist() == (at.hits + at.false_alarms).tolist()
    assert at.confusion.diagonal()[:6].tolist() == at.hits.tolist()
    assert at.kinds[:, :5].sum(axis=1).tolist() == at.false_alarms.tolist()


@pytest.mark.parametrize(("hits", "of"), [(30, 40), (0, 3), (3, 3), (500, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, of: int) -> None:
    expected = binomtest(hits, of).proportion_ci(0.95, method="wilson")

    low, high = wilson_interval(np.array([hits]), np.array([of]))[0]

    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_class_without_objects_or_detections_has_no_share_of_them() -> None:
    none, boxes = np.zeros(0, dtype=np.int64), np.zeros((0, 4))
    truth = GroundTruth(1, none, none, boxes, np.zeros(0, dtype=bool), np.zeros(0))

    at = count_at_thresholds(truth, DetectionTable(none, none, np.zeros(0), boxes), np.full(2, 0.5))

    assert np.isnan([*at.recall, *at.precision, *at.f1]).all()
    assert wilson_interval(at.hits, at.objects).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    assert at.confusion.sum() == 0
