"""Recall and AP of parts of the objects: by size, shape, crowding and the anchors' fit."""

from __future__ import annotations

import numpy as np
import pytest

from onestage.anchors import best_anchor_iou
from onestage.evaluation.at_thresholds import count_at_thresholds
from onestage.evaluation.by_attribute import Part, by_attribute
from onestage.structures import DetectionTable, GroundTruth

# Image 0 holds three objects side by side, the last of which is ignored; image 1 a wide one, alone; image 2 a tall one.
BOXES = np.array([(0, 0, 10, 10), (11, 0, 21, 10), (22, 0, 32, 10), (0, 0, 80, 20), (0, 0, 20, 90)], dtype=np.float64)
IMAGES = np.array([0, 0, 0, 1, 2])
TRUTH = GroundTruth(
    3, IMAGES, np.zeros(5, dtype=np.int64), BOXES, np.array([False, False, True, False, False]), np.ones(5)
)
# The first is found; the wide one is found below the threshold; a false alarm of the size of the small ones, alone.
FOUND = DetectionTable(
    np.array([0, 1, 1]),
    np.zeros(3, dtype=np.int64),
    np.array([0.9, 0.4, 0.95]),
    np.array([BOXES[0], BOXES[3], (200, 200, 210, 210)], dtype=np.float64),
)


def parts(anchor_iou: np.ndarray | None = None) -> dict[str, dict[str, Part]]:
    at = count_at_thresholds(TRUTH, FOUND, np.array([0.5]))
    return {name: {one.name: one for one in some} for name, some in by_attribute(TRUTH, FOUND, at, anchor_iou).items()}


def counts(some: dict[str, Part]) -> dict[str, tuple[int, int]]:
    return {name: (one.objects, one.hits) for name, one in some.items()}


def test_sizes_are_cut_into_thirds_of_the_objects() -> None:
    # Sides 10, 10, 40 and 42.4; the thirds lie at 10 and 40.
    assert counts(parts()["size"]) == {"up to 10 px": (2, 1), "10 to 40 px": (1, 0), "above 40 px": (1, 0)}


def test_shapes_are_told_by_width_and_height() -> None:
    assert counts(parts()["aspect"]) == {
        "very tall (w/h to 1/3)": (1, 0), "about square": (2, 1), "very wide (w/h above 3)": (1, 0),
    }  # fmt: skip


def test_crowding_counts_the_objects_near_ignored_ones_too() -> None:
    # 10 pixels wide, each reaches 2.5 pixels beyond its sides: the first has one neighbour, the second two.
    assert counts(parts()["crowding"]) == {"alone": (2, 0), "1 or 2 near": (2, 1)}


def test_ap_of_a_part_leaves_out_other_objects_and_the_false_alarms_of_other_parts() -> None:
    sizes = parts()["size"]
    # Up to 10 px: the false alarm (0.95), then a hit (0.9), of two objects: precision 1/2 at recall 1/2.
    assert sizes["up to 10 px"].ap50 == pytest.approx(0.25)
    assert sizes["10 to 40 px"].ap50 == 1.0  # found, if only with a low score, and no false alarm is as large
    assert sizes["above 40 px"].ap50 == 0.0


def test_recall_is_told_by_the_fit_of_the_anchors() -> None:
    # One anchor of 10 x 10: IoU 1 with the squares, 100 / 1600 and 100 / 1800 with the others.
    sizes_hw = np.stack([BOXES[:, 3] - BOXES[:, 1], BOXES[:, 2] - BOXES[:, 0]], axis=1)
    fit = best_anchor_iou(sizes_hw, [(10.0, 10.0)])
    assert fit == pytest.approx([1, 1, 1, 100 / 1600, 100 / 1800])
    anchors = parts(fit)["anchors"]
    assert counts(anchors) == {"IoU below 0.5": (2, 0), "above 0.8": (2, 1)}
    assert np.isnan(anchors["above 0.8"].ap50)  # a false alarm has no such fit
    assert "anchors" not in parts()


def test_without_objects_there_are_no_parts() -> None:
    ignored = GroundTruth(**{**vars(TRUTH), "ignored": np.ones(5, dtype=bool)})
    assert by_attribute(ignored, FOUND, count_at_thresholds(ignored, FOUND, np.array([0.5]))) == {}
