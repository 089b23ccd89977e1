"""Metrics of resamples of the images against those of data sets in which images really stand several times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coco_oracle import by_pycocotools, pycocotools_evaluator, random_data_set

from onestage.evaluation import resampling
from onestage.evaluation.resampling import average_precision, count_objects, draw_resamples
from onestage.structures import DetectionTable, GroundTruth


def with_copies(truth: GroundTruth, found: DetectionTable, weights: np.ndarray) -> tuple[GroundTruth, DetectionTable]:
    """The data set in which image i stands `weights[i]` times."""
    tables = []
    for rows in (truth, found):
        copied = [np.flatnonzero(rows.image_index == image) for image in np.repeat(np.arange(len(weights)), weights)]
        chosen = np.concatenate(copied)
        image_index = np.repeat(np.arange(len(copied)), [len(one) for one in copied])
        columns = {name: values[chosen] for name, values in vars(rows).items() if isinstance(values, np.ndarray)}
        tables.append(replace(rows, **columns | {"image_index": image_index}))
    return replace(tables[0], num_images=int(weights.sum())), tables[1]


def test_ap_of_a_resample_is_that_of_a_data_set_with_copies_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, found = random_data_set(3, num_images=8)  # with crowds; class 3 has no objects
    scores = np.random.default_rng(0).permutation(len(found.scores)) / len(found.scores)  # no ties: copies are some
    found = replace(found, scores=scores)
    weights = draw_resamples(truth.num_images, 2, seed=1)
    monkeypatch.setattr(resampling, "VALUES_AT_ONCE", 1_000)  # a resample at a time

    ap = average_precision(truth, found, 4, weights)

    for resample, weight in enumerate(weights):
        copies = with_copies(truth, found, weight)
        theirs = by_pycocotools(tmp_path, *copies, 4)
        assert np.nanmean(ap[..., resample]) == pytest.approx(theirs["AP"], abs=1e-9)
        assert np.nanmean(ap[:, 0, resample]) == pytest.approx(theirs["AP50"], abs=1e-9)
    precision = pycocotools_evaluator(tmp_path, *with_copies(truth, found, weights[2]), 4).eval["precision"]
    by_class = precision[..., 0, -1].mean(axis=1).T  # (K, T), all sizes, 100 detections
    assert ap[:3, :, 2] == pytest.approx(by_class[:3], abs=1e-9)
    assert np.isnan(ap[3]).all()


def test_f1_counts_each_class_above_its_own_threshold() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    truth = GroundTruth(
        2, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([box] * 4),
        np.array([False, False, False, True]), np.full(4, 100.0),
    )  # fmt: skip
    found = DetectionTable(
        np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 1]), np.array([0.6, 0.6, 0.4, 0.9, 0.9]),
        np.array([box, box, box, box, [50.0, 50.0, 60.0, 60.0]]),
    )  # fmt: skip

    counts = count_objects(truth, found, np.array([0.5, 0.5]))
    f1 = counts.f1(np.array([[1, 1], [0, 2]], dtype=np.int32))

    # Image 0: both found. Image 1: class 0 missed (0.4), class 1 is ignored there, and one false alarm.
    assert counts.hits.tolist() == [[1, 1], [0, 0]]
    assert counts.wrong.tolist() == [[0, 0], [0, 1]]
    assert counts.f1_by_image.tolist() == [1.0, 0.0]
    assert counts.mistakes_by_image.tolist() == [0.0, 2.0]
    assert f1[:, 0].tolist() == pytest.approx([2 * 2 / 6, 2 / 3, 2 / 3])
    assert f1[:, 1].tolist() == [0.0, 0.0, 0.0]
    assert count_objects(truth, found, np.array([0.3, 0.5])).hits.tolist() == [[1, 1], [1, 0]]


def test_an_image_without_objects_and_detections_is_perfect_and_a_class_without_either_has_no_f1() -> None:
    one, box = np.zeros(1, dtype=np.int64), np.array([[0.0, 0.0, 1.0, 1.0]])
    truth = GroundTruth(2, one, one, box, np.zeros(1, dtype=bool), np.ones(1))
    found = DetectionTable(one, one, np.ones(1), box)

    counts = count_objects(truth, found, np.array([0.5, 0.5]))

    assert counts.f1_by_image.tolist() == [1.0, 1.0]
    assert np.isnan(counts.f1(np.ones((1, 2), dtype=np.int32))[2, 0])


def test_resamples_draw_as_many_images_as_there_are_and_the_first_is_the_data_set() -> None:
    weights = draw_resamples(50, 200)

    assert weights.shape == (201, 50)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 50).all()
    # An image is left out by (1 - 1/50)^50 of the resamples.
    assert (weights[1:] == 0).mean() == pytest.approx(0.364, abs=0.01)
