"""What a model card takes from a report."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from onestage.errors import UserError
from onestage.evaluation import measure
from onestage.evaluation.explained import explain
from onestage.evaluation.report import write_report
from onestage.evaluation.report_images import ImageSource
from onestage.jobs.report_parts import read_report, without_folders
from onestage.structures import Categories, DetectionTable, GroundTruth


def test_a_report_gives_its_sentences_its_images_and_its_page_without_folders(tmp_path: Path) -> None:
    categories, two = Categories.from_names(["dent", "rust"]), np.array([0, 1])
    boxes_xyxy = np.array([[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 25.0, 25.0]])
    truth = GroundTruth(2, two, two, boxes_xyxy, np.zeros(2, dtype=bool), np.array([1600.0, 400.0]))
    found_boxes = np.concatenate([boxes_xyxy, [[60.0, 60.0, 80.0, 80.0]]])
    found = DetectionTable(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0.9, 0.8, 0.7]), found_boxes)
    pixels = np.full((90, 120, 3), 128, dtype=np.uint8)
    data = "/home/o'neill & co/2007+c:\\me\\<2012>"
    write_report(
        tmp_path / "report.html",
        title=f"{data} and {data}",
        measurement=measure(truth, found, categories),
        explained=explain(truth, found, categories, np.full(2, 0.5)),
        categories=categories,
        images=ImageSource(lambda _: "a.jpg", lambda _: pixels, lambda _: np.array([(0, 0, 120, 90)])),
        settings={"data": data, "split": "val/a", "weights": {"from": "~/me/a.pth"}},
    )
    parts = read_report(tmp_path / "report.html")
    assert parts.settings == {"data": "2007+<2012>", "split": "val/a", "weights.from": "a.pth"}
    assert "<h1>2007+&lt;2012&gt; and 2007+&lt;2012&gt;</h1>" in parts.page
    assert not [word for word in ("neill", "home", "me\\", "~") if word in parts.page]
    assert parts.sentences[0].startswith("On 2 images, the model finds 2 of 2 objects (100 %) at scores above 0.5")
    assert [one.text for one in parts.wrong] == ["1 found, 1 false alarm"]
    assert [one.text for one in parts.right] == ["1 found"]
    jpeg = np.frombuffer(parts.right[0].jpeg, dtype=np.uint8)
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (360, 480, 3)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("data", "a/b/SHAPES", "SHAPES"),
        ("data", ".", "."),
        ("model", "runs/first/", "first"),
        ("anything", "\\\\server\\share\\secret", "secret"),
        ("learning_rate_factors", "(('backbone/', 0.1),)", "(('backbone/', 0.1),)"),
    ],
)
def test_paths_lose_their_folders(name: str, value: str, expected: str) -> None:
    assert without_folders(name, value) == expected


def test_a_page_that_is_no_report_has_no_parts_and_a_huge_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text("<h1>other</h1>")
    parts = read_report(tmp_path / "other.html")
    assert (parts.settings, parts.sentences, parts.wrong, parts.right) == ({}, (), (), ())
    with (tmp_path / "huge.html").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match="expected a report of onestage"):
        read_report(tmp_path / "huge.html")
