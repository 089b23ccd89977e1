"""What a program does with detections: choose, convert, hand over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from supervision import Detections as SupervisionDetections

from onestage.structures import Categories, Detections

NAMES = ("cat", "dog", "bird")


def three() -> Detections:
    boxes_xyxy = torch.tensor([[10.0, 20.0, 50.0, 80.0], [0.0, 0.0, 8.004, 4.0], [5.0, 5.0, 6.0, 7.0]])
    return Detections(boxes_xyxy, torch.tensor([0.9, 0.66666, 0.25]), torch.tensor([2, 0, 0]), NAMES)


def nothing() -> Detections:
    return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), NAMES)


@pytest.mark.parametrize(
    ("rows", "scores"),
    [
        (0, [0.9]),
        (-1, [0.25]),
        (slice(1, None), [0.66666, 0.25]),
        ([2, 0], [0.25, 0.9]),
        ([], []),
        (np.array([True, False, True]), [0.9, 0.25]),
        (torch.tensor([1]), [0.66666]),
        (np.int64(1), [0.66666]),
        (np.uint8(2), [0.25]),
        (np.array(-1), [0.25]),
        (torch.tensor(0), [0.9]),
        (torch.tensor([0.1, 0.3, 0.2]).argmax(), [0.66666]),
    ],
)
def test_rows_are_chosen_as_an_arrays_are(rows: object, scores: list[float]) -> None:
    chosen = three()[rows]
    assert chosen.scores.tolist() == pytest.approx(scores)
    assert chosen.names == NAMES
    assert len(chosen) == len(chosen.boxes_xyxy) == len(chosen.labels) == len(scores)


@pytest.mark.parametrize(
    "rows", [torch.tensor(1.5), np.array([0.0, 1.0]), np.array([[0, 1]]), torch.tensor(True), np.ones(4, bool)]
)
def test_what_is_neither_row_numbers_nor_a_mask_is_an_index_error(rows: Any) -> None:
    with pytest.raises(IndexError):
        three()[rows]


@pytest.mark.parametrize("row", [3, -4, np.int64(3), torch.tensor(-4)])
def test_a_row_that_is_not_there_is_an_index_error(row: Any) -> None:
    with pytest.raises(IndexError, match="of 3 detections"):
        three()[row]


def test_a_mask_of_another_length_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        three()[torch.tensor([True, False])]


def test_a_loop_sees_each_detection_once() -> None:
    assert [one.labels.item() for one in three()] == [2, 0, 0]
    assert list(nothing()) == []


def test_filter_keeps_scores_above_the_threshold_and_the_classes_asked_for() -> None:
    assert three().filter(score=0.2).labels.tolist() == [2, 0, 0]
    assert three().filter(score=0.25).labels.tolist() == [2, 0]
    assert three().filter(score=0.5, names=["cat"]).scores.tolist() == pytest.approx([0.66666])
    assert len(three().filter(names=["dog"])) == 0
    assert len(nothing().filter(names=["dog"])) == 0


def test_filter_by_a_name_of_no_class_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="cow: no class has this name; the classes are cat, dog, bird"):
        three().filter(names=["cow"])


def test_a_dictionary_has_the_fields_of_detections_json() -> None:
    assert three()[:2].to_dict() == [
        {"name": "bird", "label": 2, "score": 0.9, "box_xyxy": [10.0, 20.0, 50.0, 80.0]},
        {"name": "cat", "label": 0, "score": 0.6667, "box_xyxy": [0.0, 0.0, 8.0, 4.0]},
    ]
    assert nothing().to_dict() == []


def test_coco_results_have_the_files_own_ids_and_a_width_and_height() -> None:
    categories = Categories(NAMES, (17, 18, 90))
    assert three()[:1].to_coco(42, categories) == [
        {"image_id": 42, "category_id": 90, "bbox": [10.0, 20.0, 40.0, 60.0], "score": 0.9}
    ]


def test_tracks_travel_with_the_rows() -> None:
    found = three()
    tracked = Detections(found.boxes_xyxy, found.scores, found.labels, NAMES, torch.tensor([7, 8, 9]))
    assert tracked[1:].track_ids.tolist() == [8, 9]
    assert [row["track_id"] for row in tracked.to_dict()] == [7, 8, 9]


def test_supervision_gets_the_same_rows() -> None:
    converted = three().to_supervision()
    assert isinstance(converted, SupervisionDetections)
    assert converted.xyxy.tolist() == three().boxes_xyxy.tolist()
    assert converted.class_id.tolist() == [2, 0, 0]
    assert list(converted.data["class_name"]) == ["bird", "cat", "cat"]
