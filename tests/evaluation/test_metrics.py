"""The form of the results: metrics.json and the printed table."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from onestage.evaluation import measure, print_table
from onestage.structures import Categories, DetectionTable, GroundTruth

CATEGORIES = Categories.from_names(["scratch", "dent", "never seen"])
TRUTH = GroundTruth(
    num_images=3,
    image_index=np.array([0, 1]),
    labels=np.array([0, 1]),
    boxes_xyxy=np.array([[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 25.0, 25.0]]),
    ignored=np.array([False, False]),
    areas=np.array([1600.0, 400.0]),
)
FOUND = DetectionTable(
    image_index=np.array([0, 1, 2]),
    labels=np.array([0, 1, 1]),
    scores=np.array([0.9, 0.4, 0.8]),
    boxes_xyxy=np.array([[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 25.0, 25.0], [0.0, 0.0, 9.0, 9.0]]),
)


def test_metrics_json_has_its_fixed_keys_and_writes_null_for_a_class_without_objects() -> None:
    metrics = json.loads(json.dumps(measure(TRUTH, FOUND, CATEGORIES).metrics, allow_nan=False))

    assert metrics["images"] == 3
    assert metrics["voc"]["map_area"] == pytest.approx(0.75)
    assert metrics["voc"]["map_11point"] == pytest.approx(0.75)
    assert metrics["voc"]["per_class"]["dent"] == {
        "ground_truths": 1,
        "detections": 2,
        "recall": 1.0,
        "precision": 0.5,
        "ap_11point": pytest.approx(0.5),
        "ap_area": 0.5,
    }
    assert metrics["voc"]["per_class"]["never seen"]["ap_area"] is None
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"} < set(metrics["coco"])
    assert metrics["coco"]["AP50"] == pytest.approx(0.75)


def test_the_table_has_a_row_a_class_and_the_mean_last() -> None:
    screen = io.StringIO()

    print_table(measure(TRUTH, FOUND, CATEGORIES).voc, CATEGORIES, Console(file=screen, width=120))

    rows = [line.replace("│", " ").split() for line in screen.getvalue().splitlines() if "│" in line]
    assert rows[2:] == [  # below two lines of headers
        ["scratch", "1", "1", "1.000", "1.000", "1.000", "1.000"],
        ["dent", "1", "2", "1.000", "0.500", "0.500", "0.500"],
        ["never", "seen", "0", "0", "-", "0.000", "-", "-"],
        ["mean", "2", "3", "0.750", "0.750"],
    ]
