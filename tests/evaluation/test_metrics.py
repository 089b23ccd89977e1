"""The form of the results: metrics.json and the printed table."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from onestage.evaluation import measure, print_at_thresholds, print_table
from onestage.evaluation.explained import explain
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


def test_the_first_table_is_at_the_thresholds() -> None:
    screen = io.StringIO()
    at = explain(TRUTH, FOUND, CATEGORIES, np.array([0.5, 0.3, 0.5])).at

    print_at_thresholds(at, CATEGORIES, Console(file=screen, width=80))

    rows = [line.replace("│", " ").split() for line in screen.getvalue().splitlines() if "│" in line]
    assert rows[2:] == [
        ["scratch", "1", "0.50", "1.000", "1.000", "1.000"],
        ["dent", "1", "0.30", "1.000", "0.500", "0.667"],
        ["never", "seen", "0", "0.50", "-", "-", "-"],
        ["all", "2", "1.000", "0.667", "0.800"],
    ]


def test_the_tables_fit_in_80_columns_and_show_20_of_many_classes() -> None:
    categories = Categories.from_names([f"class number {label} of a very long name" for label in range(30)])
    screen = io.StringIO()
    console = Console(file=screen, width=80)

    print_at_thresholds(explain(TRUTH, FOUND, categories, np.full(len(categories), 0.5)).at, categories, console)
    print_table(measure(TRUTH, FOUND, categories).voc, categories, console)

    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("class number" in line for line in lines) == 40
    assert sum("Shown are 20 of 30 classes" in line for line in lines) == 2


def test_metrics_json_says_what_happens_at_the_thresholds_and_what_goes_wrong() -> None:
    explained = explain(TRUTH, FOUND, CATEGORIES, np.array([0.5, 0.3, 0.5]))
    added = json.loads(json.dumps(explained.as_json(CATEGORIES), allow_nan=False))

    assert added["at_thresholds"]["f1"] == pytest.approx(0.8)
    assert added["at_thresholds"]["per_class"]["dent"] == {
        "score_threshold": 0.3, "objects": 1, "hits": 1, "false_alarms": 1, "recall": 1.0, "precision": 0.5,
        "f1": pytest.approx(2 / 3), "recall_95": [pytest.approx(0.2065, abs=1e-4), 1.0],
        "precision_95": [pytest.approx(0.0945, abs=1e-4), pytest.approx(0.9055, abs=1e-4)],
        "mistakes": {"class": 0, "place": 0, "both": 0, "duplicate": 0, "background": 1, "missed": 0},
    }  # fmt: skip
    assert added["at_thresholds"]["per_class"]["never seen"]["recall"] is None
    assert added["mistakes"]["ap50"] == pytest.approx(0.75)
    assert added["mistakes"]["ap50_gain"]["background"] == pytest.approx(0.25)
    assert added["confusion"] == [
        {"object": "scratch", "detected_as": "scratch", "count": 1},
        {"object": "dent", "detected_as": "dent", "count": 1},
        {"object": None, "detected_as": "dent", "count": 1},
    ]
    assert set(added["by"]) == {"size", "aspect", "crowding"}
