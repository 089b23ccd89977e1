"""COCO's 12 numbers against pycocotools, the protocol's own program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coco_oracle import by_pycocotools, random_data_set

from onestage.errors import UserError
from onestage.evaluation.coco import COCO_METRICS, coco_metrics
from onestage.structures import DetectionTable, GroundTruth


@pytest.mark.parametrize("seed", [0, 1])
def test_all_twelve_numbers_equal_pycocotools_with_crowds_and_over_a_hundred_detections(
    tmp_path: Path, seed: int
) -> None:
    truth, found = random_data_set(seed)
    assert np.bincount(found.image_index * 4 + found.labels).max() > 100

    numbers = coco_metrics(truth, found, 4)

    assert list(numbers) == list(COCO_METRICS)
    assert numbers == pytest.approx(by_pycocotools(tmp_path, truth, found, 4), abs=1e-8)
    assert 0.05 < numbers["AP"] < 0.95


def test_a_single_object_found_is_one_whatever_its_row() -> None:
    """The case coco-odd of an annotation with id 0, which the protocol's program never matches."""
    box = np.array([[10.0, 10.0, 30.0, 30.0]])
    zero = np.zeros(1, dtype=np.int64)
    truth = GroundTruth(1, zero, zero, box, np.zeros(1, dtype=bool), np.array([400.0]))

    numbers = coco_metrics(truth, DetectionTable(zero, zero, np.array([0.9]), box), 1)

    assert numbers["AP"] == pytest.approx(1.0)
    assert (numbers["APm"], numbers["ARl"]) == (-1.0, -1.0)  # COCO's sign for: no such object


def test_without_detections_it_is_zero_and_without_objects_it_has_no_value() -> None:
    truth, found = random_data_set(0)
    no_rows = np.zeros(0, dtype=np.int64)
    nothing = DetectionTable(no_rows, no_rows, np.zeros(0), np.zeros((0, 4)))
    no_objects = GroundTruth(12, no_rows, no_rows, np.zeros((0, 4)), np.zeros(0, dtype=bool), np.zeros(0))

    assert coco_metrics(truth, nothing, 4)["AP"] == 0.0
    assert coco_metrics(no_objects, found, 4)["AP"] == -1.0


def test_it_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    coco_metrics(*random_data_set(0), 4)

    assert capfd.readouterr() == ("", "")


def test_a_nan_score_is_refused_by_row() -> None:
    truth, found = random_data_set(0)
    scores = found.scores.copy()
    scores[5] = np.nan

    with pytest.raises(UserError, match="detections, row 5: score is nan"):
        coco_metrics(truth, DetectionTable(found.image_index, found.labels, scores, found.boxes_xyxy), 4)
