"""The VOC protocol: golden values of the original evaluator, and hand arithmetic."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from golden_neu_det import GOLDEN, golden_tables

from onestage.errors import UserError
from onestage.evaluation.voc import assign_detections, voc_average_precision
from onestage.structures import DetectionTable, GroundTruth

Box = tuple[float, float, float, float]


def objects(
    boxes: Sequence[Box],
    *,
    labels: Sequence[int] | None = None,
    ignored: Sequence[bool] | None = None,
    images: Sequence[int] | None = None,
    num_images: int = 1,
) -> GroundTruth:
    boxes_xyxy = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return GroundTruth(
        num_images=num_images,
        image_index=np.array(images or [0] * len(boxes), dtype=np.int64),
        labels=np.array(labels or [0] * len(boxes), dtype=np.int64),
        boxes_xyxy=boxes_xyxy,
        ignored=np.array(ignored or [False] * len(boxes), dtype=bool),
        areas=(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1),
    )


def detections(
    boxes: Sequence[Box],
    scores: Sequence[float],
    *,
    labels: Sequence[int] | None = None,
    images: Sequence[int] | None = None,
) -> DetectionTable:
    return DetectionTable(
        image_index=np.array(images or [0] * len(boxes), dtype=np.int64),
        labels=np.array(labels or [0] * len(boxes), dtype=np.int64),
        scores=np.array(scores, dtype=np.float64),
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
    )


@pytest.mark.parametrize("iou_threshold", [0.5, 0.75])
def test_every_number_of_the_original_evaluator_on_neu_det_is_met(iou_threshold: float) -> None:
    reference = json.loads((GOLDEN / "reference.json").read_text())
    truth, found = golden_tables()

    result = voc_average_precision(truth, found, len(reference["classes"]), iou_threshold)

    for name, one in zip(reference["classes"], result.per_class, strict=True):
        expected = reference["expected"][name]
        for key in ("ap_11point", "ap_area", "recall", "precision"):
            assert getattr(one, key) == pytest.approx(expected[f"{key}@{iou_threshold}"], abs=1e-9), (name, key)
        counts = (one.ground_truths, one.ignored, one.detections)
        assert counts == (expected["ground_truths"], expected["difficult"], expected["detections"])
    mean = reference["mean"]
    assert result.map_11point == pytest.approx(mean[f"ap_11point@{iou_threshold}"], abs=1e-9)
    assert result.map_area == pytest.approx(mean[f"ap_area@{iou_threshold}"], abs=1e-9)


def test_difficult_objects_are_neither_hit_nor_miss() -> None:
    truth = objects([(0, 0, 10, 10), (50, 50, 60, 60)], ignored=[True, False])
    found = detections([(0, 0, 10, 10), (50, 50, 60, 60)], [0.9, 0.8])

    one = voc_average_precision(truth, found, 1).per_class[0]

    assert (one.ground_truths, one.ignored, one.detections) == (1, 1, 2)
    assert (one.recall, one.precision, one.ap_area) == (1.0, 1.0, 1.0)


def test_an_iou_equal_to_the_threshold_is_a_hit() -> None:
    """VOCevaldet.m of the development kit: `if ovmax>=VOCopts.minoverlap`, with 0.5."""
    truth = objects([(0, 0, 10, 10)])
    half = detections([(0, 0, 10, 5)], [0.9])
    less = detections([(0, 0, 10, 4.9)], [0.9])

    assert voc_average_precision(truth, half, 1).map_area == 1.0
    assert voc_average_precision(truth, less, 1).map_area == 0.0


def test_the_second_detection_of_an_object_is_a_false_positive_however_well_it_fits() -> None:
    truth = objects([(0, 0, 10, 10)])
    found = detections([(0, 0, 10, 10), (0, 0, 10, 8)], [0.3, 0.9])

    assigned = assign_detections(truth, found)

    assert assigned.hit.tolist() == [False, True]
    assert assigned.false_positive.tolist() == [True, False]
    assert assigned.iou.tolist() == pytest.approx([1.0, 0.8])


def test_a_detection_is_judged_against_its_best_object_though_that_is_taken_and_another_is_free() -> None:
    truth = objects([(0, 0, 10, 10), (0, 0, 10, 8)])
    found = detections([(0, 0, 10, 10), (0, 0, 10, 9.5)], [0.9, 0.8])

    assigned = assign_detections(truth, found)

    assert assigned.object_row.tolist() == [0, 0]
    assert assigned.hit.tolist() == [True, False]


def test_average_precision_of_three_ranks_is_what_the_hand_computes() -> None:
    # Ranks: hit, false positive, hit, of 4 objects: precision 1, 1/2, 2/3 at recall 1/4, 1/4, 1/2.
    truth = objects([(0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)])
    found = detections([(0, 0, 10, 10), (80, 0, 90, 10), (20, 0, 30, 10)], [0.9, 0.8, 0.7])

    one = voc_average_precision(truth, found, 1).per_class[0]

    assert one.ap_area == pytest.approx(1 / 4 + 2 / 3 * 1 / 4)
    # 0, 0.1, 0.2 see precision 1; 0.3, 0.4, 0.5 see 2/3; the other five see nothing.
    assert one.ap_11point == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert one.curve_precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3])
    assert one.curve_recall.tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 2])


def test_objects_of_another_class_or_image_do_not_count() -> None:
    truth = objects([(0, 0, 10, 10), (0, 0, 10, 10)], labels=[0, 1], images=[0, 1], num_images=2)
    found = detections([(0, 0, 10, 10), (0, 0, 10, 10)], [0.9, 0.8], labels=[1, 0], images=[0, 1])

    assert assign_detections(truth, found).hit.tolist() == [False, False]
    assert voc_average_precision(truth, found, 2).map_area == 0.0


def test_equal_scores_keep_the_order_given() -> None:
    truth = objects([(0, 0, 10, 10)])
    found = detections([(0, 0, 10, 9), (0, 0, 10, 10)], [0.5, 0.5])

    assert assign_detections(truth, found).hit.tolist() == [True, False]


def test_a_class_without_objects_is_left_out_of_the_mean() -> None:
    truth = objects([(0, 0, 10, 10)])
    found = detections([(0, 0, 10, 10), (0, 0, 10, 10)], [0.9, 0.8], labels=[0, 1])

    result = voc_average_precision(truth, found, 3)

    assert result.map_area == 1.0
    assert np.isnan(result.per_class[1].ap_area)
    assert (result.per_class[1].precision, result.per_class[2].detections) == (0.0, 0)


def test_nothing_found_is_zero_and_nothing_at_all_has_no_value() -> None:
    nothing = detections([], [])

    found_nothing = voc_average_precision(objects([(0, 0, 10, 10)]), nothing, 1)
    assert (found_nothing.map_area, found_nothing.map_11point, found_nothing.per_class[0].recall) == (0.0, 0.0, 0.0)
    assert np.isnan(voc_average_precision(objects([], num_images=0), nothing, 1).map_area)


def test_empty_boxes_have_no_overlap() -> None:
    truth = objects([(5, 5, 5, 5)])
    assert assign_detections(truth, detections([(5, 5, 5, 5)], [0.9])).iou.tolist() == [0.0]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (detections([(0, 0, 1, 1)], [float("nan")]), "detections, row 0: score is nan, expected a finite number"),
        (detections([(0, 0, 1, float("inf"))], [0.5]), "detections, row 0: box is .*inf.*, expected four finite"),
        (detections([(0, 0, 1, 1)] * 2, [0.5, 0.5], labels=[0, 1]), "detections, row 1: label is 1, expected 0..0"),
        (detections([(0, 0, 1, 1)], [0.5], images=[7]), "detections, row 0: image is 7, expected 0..0"),
    ],
)
def test_what_the_protocol_has_no_answer_for_is_refused_by_row(found: DetectionTable, message: str) -> None:
    with pytest.raises(UserError, match=message):
        voc_average_precision(objects([(0, 0, 10, 10)]), found, 1)
