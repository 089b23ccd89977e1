"""What scores mean: scikit-learn's logistic regression and calibration curve, hand arithmetic, and what must stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from onestage.errors import UserError
from onestage.evaluation.calibration import BINS, fit_calibration, reliability, what_scores_mean
from onestage.evaluation.voc import voc_average_precision
from onestage.runtime.calibration import ScoreCalibration
from onestage.structures import DetectionTable, GroundTruth


def drawn(seed: int, count: int, slope: float = 2.0, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and hits as likely as this slope and shift have it."""
    generator = np.random.default_rng(seed)
    scores = generator.beta(0.5, 2.0, count).clip(1e-4, 1 - 1e-4)
    likely = 1 / (1 + np.exp(-(slope * np.log(scores / (1 - scores)) + shift)))
    return scores, generator.random(count) < likely


def of_scikit_learn(scores: np.ndarray, hit: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Probabilities by unregularised logistic regression on the logit, with Platt's targets as weights."""
    x = np.log(scores / (1 - scores))[:, None]
    hits, misses = hit.sum(), (~hit).sum()
    target = np.where(hit, (hits + 1) / (hits + 2), 1 / (misses + 2))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12, max_iter=500)
    labels = np.repeat([1, 0], len(hit))
    model.fit(np.concatenate([x, x]), labels, sample_weight=np.concatenate([target, 1 - target]))
    return model.predict_proba(np.log(asked / (1 - asked))[:, None])[:, 1]


@pytest.mark.parametrize(("seed", "slope", "shift"), [(0, 2.0, 1.0), (1, 0.5, -1.0), (2, 6.0, 5.0)])
def test_probabilities_are_those_of_scikit_learn(seed: int, slope: float, shift: float) -> None:
    scores, hit = drawn(seed, 3000, slope, shift)
    asked = np.linspace(0.01, 0.99, 99)

    found = fit_calibration(scores, np.zeros(3000, dtype=np.int64), hit, 1)

    assert found is not None
    ours = found.probabilities(asked, np.zeros(99, dtype=np.int64))
    np.testing.assert_allclose(ours, of_scikit_learn(scores, hit, asked), atol=1e-6)


def test_scores_that_part_hits_from_misses_have_an_end() -> None:
    scores = np.concatenate([np.linspace(0.6, 0.9, 100), np.linspace(0.1, 0.4, 1000)])
    hit = scores > 0.5
    asked = np.array([0.2, 0.5, 0.8])

    found = fit_calibration(scores, np.zeros(1100, dtype=np.int64), hit, 1)

    assert found is not None
    ours = found.probabilities(asked, np.zeros(3, dtype=np.int64))
    np.testing.assert_allclose(ours, of_scikit_learn(scores, hit, asked), atol=1e-6)


def test_a_class_of_few_hits_takes_what_all_together_have() -> None:
    scores, hit = drawn(3, 2000)
    labels = np.where(np.arange(2000) < 1980, 0, 1)
    alone = fit_calibration(scores, np.zeros(2000, dtype=np.int64), hit, 1)

    found = fit_calibration(scores, labels, hit, 3)

    assert found is not None
    assert alone is not None
    assert (found.slopes[1], found.shifts[1]) == (found.slopes[2], found.shifts[2])
    assert found.slopes[1] == pytest.approx(alone.slopes[0])
    assert found.slopes[0] != found.slopes[1]


@pytest.mark.parametrize("hits", [0, 49])
def test_there_is_none_with_too_few_hits(hits: int) -> None:
    hit = np.arange(500) < hits
    assert fit_calibration(np.linspace(0.99, 0.01, 500), np.zeros(500, dtype=np.int64), hit, 1) is None


def test_there_is_none_where_high_scores_are_not_likelier_right() -> None:
    hit = np.arange(500) > 300  # the worst scores hit
    assert fit_calibration(np.linspace(0.99, 0.01, 500), np.zeros(500, dtype=np.int64), hit, 1) is None


@given(
    slopes=st.lists(st.floats(1e-3, 50), min_size=1, max_size=3),
    shift=st.floats(-50, 50),
    scores=st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_probabilities_are_0_to_1_and_keep_the_order_of_a_class(
    slopes: list[float], shift: float, scores: list[float]
) -> None:
    found = ScoreCalibration(tuple(slopes), (shift,) * len(slopes))
    for label in range(len(slopes)):
        likely = found.probabilities(np.sort(scores), np.full(len(scores), label))
        assert ((likely >= 0) & (likely <= 1)).all()
        assert (np.diff(likely) >= 0).all()


@pytest.mark.parametrize(
    "value",
    [
        {"slopes": [1.0], "shifts": [0.0]},  # for two classes
        {"slopes": [1.0, 0.0], "shifts": [0.0, 0.0]},
        {"slopes": [1.0, float("nan")], "shifts": [0.0, 0.0]},
        {"slopes": [1.0, "x"], "shifts": [0.0, 0.0]},
        {"slopes": [1.0, [2]], "shifts": [0.0, 0.0]},
        {"slopes": [1.0, 10**400], "shifts": [0.0, 0.0]},
        {"slopes": 3, "shifts": 3},
        [1.0, 2.0],
        "none",
    ],
)
def test_a_damaged_header_is_told(value: object) -> None:
    with pytest.raises(UserError, match=r"file\.onnx: the calibration .* damaged"):
        ScoreCalibration.from_header(value, 2, "file.onnx")


def test_a_header_is_read_back() -> None:
    value = {"slopes": [1.5, 2], "shifts": [0.25, -1]}
    assert ScoreCalibration.from_header(value, 2, "x") == ScoreCalibration((1.5, 2.0), (0.25, -1.0))
    assert ScoreCalibration.from_header(None, 2, "x") is None


def test_the_diagram_is_that_of_scikit_learn() -> None:
    scores, hit = drawn(4, 5000)

    found = reliability(scores, hit)

    right, claimed = calibration_curve(hit, scores, n_bins=BINS, strategy="uniform")
    seen = found.count > 0
    np.testing.assert_allclose(found.right[seen], right, atol=1e-12)
    np.testing.assert_allclose(found.claimed[seen], claimed, atol=1e-12)


def test_the_error_is_the_mean_distance_over_the_detections() -> None:
    # Three of 0.85, two right: off by 0.85 - 2/3. One of 0.15, not right: off by 0.15.
    found = reliability(np.array([0.85, 0.85, 0.85, 0.15]), np.array([True, True, False, False]))

    assert found.error == pytest.approx((3 * (0.85 - 2 / 3) + 0.15) / 4)
    assert found.off(first=2) == pytest.approx(0.85 - 2 / 3)
    assert [(one["from"], one["detections"]) for one in found.as_json()["ranges"]] == [(0.1, 1), (0.8, 3)]
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, dtype=bool)).error)


def tables() -> tuple[GroundTruth, DetectionTable]:
    """400 images of an object each; a detection of every image hits by chance, as often as `drawn` has it."""
    scores, hit = drawn(5, 400, 1.0, 1.5)
    boxes = np.where(hit[:, None], [[0.0, 0.0, 10.0, 10.0]], [[50.0, 50.0, 60.0, 60.0]])
    images, labels = np.arange(400), np.zeros(400, dtype=np.int64)
    truth = GroundTruth(
        400, images, labels, np.tile([[0.0, 0.0, 10.0, 10.0]], (400, 1)), np.zeros(400, dtype=bool), np.full(400, 100.0)
    )
    return truth, DetectionTable(images, labels, scores, boxes)


def test_probabilities_are_nearer_the_truth_than_scores_and_leave_average_precision() -> None:
    truth, found = tables()
    hit = found.boxes_xyxy[:, 0] == 0
    calibration = fit_calibration(found.scores, found.labels, hit, 1)
    assert calibration is not None

    mean = what_scores_mean(truth, found, calibration)

    assert mean.probabilities is not None
    assert mean.probabilities.error < mean.scores.error / 2
    likely = DetectionTable(
        found.image_index, found.labels, calibration.probabilities(found.scores, found.labels), found.boxes_xyxy
    )
    before, after = (voc_average_precision(truth, one, 1).map_area for one in (found, likely))
    assert after == pytest.approx(before, abs=1e-12)


def test_detections_of_ignored_objects_do_not_count() -> None:
    truth, found = tables()
    ignored = GroundTruth(400, truth.image_index, truth.labels, truth.boxes_xyxy, np.arange(400) % 2 == 0, truth.areas)

    mean = what_scores_mean(ignored, found, None)

    hit = found.boxes_xyxy[:, 0] == 0
    assert mean.scores.count.sum() == 400 - (hit & (np.arange(400) % 2 == 0)).sum()
    assert mean.probabilities is None
