"""COCO's matches, detection by detection, against pycocotools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coco_oracle import pycocotools_evaluator, random_data_set

from onestage.evaluation import coco_matching
from onestage.evaluation.coco_matching import coco_matches
from onestage.evaluation.resampling import IOUS
from onestage.structures import DetectionTable, GroundTruth


def verdicts_of_pycocotools(
    folder: Path, truth: GroundTruth, found: DetectionTable, num_classes: int
) -> list[tuple[int, int, list[bool], list[bool]]]:
    """(label, image, hit by IoU, ignored by IoU) in the order in which its `accumulate` goes through them."""
    evaluator = pycocotools_evaluator(folder, truth, found, num_classes)
    entries = [one for one in evaluator.evalImgs if one is not None and one["aRng"] == [0, 1e10]]
    rows = [
        (one["category_id"] - 1, one["image_id"] - 1, one["dtScores"][d], one["dtMatches"][:, d], one["dtIgnore"][:, d])
        for one in entries
        for d in range(len(one["dtScores"]))
    ]
    rows.sort(key=lambda row: (row[0], -row[2]))  # stable, images are in order
    return [
        (label, image, ((matched > 0) & ~ignored.astype(bool)).tolist(), ignored.astype(bool).tolist())
        for label, image, _, matched, ignored in rows
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_every_detection_has_pycocotools_verdict_with_crowds_ties_and_over_a_hundred_an_image(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, found = random_data_set(seed)
    monkeypatch.setattr(coco_matching, "PAIRS_AT_ONCE", 5_000)  # several blocks

    ours = coco_matches(truth, found, 4, IOUS)

    theirs = verdicts_of_pycocotools(tmp_path, truth, found, 4)
    assert len(theirs) < len(found.scores)  # some are beyond the best 100
    found_verdicts = zip(*(part.tolist() for part in vars(ours).values()), strict=True)
    assert [(label, image, hit, ignored) for image, label, hit, ignored in found_verdicts] == theirs
    assert ours.hit.any()
    assert ours.ignored.any()


def test_a_better_detection_takes_the_object_and_the_other_its_second_choice() -> None:
    zeros = np.zeros(2, dtype=np.int64)
    boxes = np.array([[0.0, 0.0, 10.0, 10.0], [0.0, 2.0, 10.0, 12.0]])
    truth = GroundTruth(1, zeros, zeros, boxes, np.zeros(2, dtype=bool), np.full(2, 100.0))
    # Both like the first object best (IoU 1 and 9/11); the second detection overlaps the other object by 9/11 too.
    wanted = np.array([[0.0, 1.0, 10.0, 11.0], [0.0, 0.0, 10.0, 10.0]])
    found = DetectionTable(zeros, zeros, np.array([0.8, 0.9]), wanted)

    assert coco_matches(truth, found, 1, [0.5, 0.85]).hit.tolist() == [[True, True], [True, False]]


def test_without_detections_or_objects_there_are_no_matches() -> None:
    none, no_boxes = np.zeros(0, dtype=np.int64), np.zeros((0, 4))
    one = np.zeros(1, dtype=np.int64)
    empty = GroundTruth(1, none, none, no_boxes, np.zeros(0, dtype=bool), np.zeros(0))
    nothing = DetectionTable(none, none, np.zeros(0), no_boxes)
    something = DetectionTable(one, one, np.array([0.5]), np.array([[0.0, 0.0, 1.0, 1.0]]))

    assert coco_matches(empty, nothing, 1, IOUS).hit.shape == (0, 10)
    assert coco_matches(empty, something, 1, IOUS).hit.tolist() == [[False] * 10]
