"""The report page: complete, self-contained, and safe with names from strangers' files."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from html_pages import Page
from nasty_names import NASTY_NAMES, NO_UTF_8, is_seen

from onestage.evaluation import measure
from onestage.evaluation.report import ReportExample, _example, write_report
from onestage.runtime.decode import decode_image
from onestage.structures import Categories, Detections, DetectionTable, GroundTruth

EVIL = "<img src=x onerror=alert(1)>"
LOG = [
    {"step": s, "epoch": s / 10, "images": 8 * s, "lr": 0.01, "loss": 3 / s,
     "classification_loss": 2 / s, "distribution_loss": 1 / s,
     "images_per_second": 9, "seconds": 60 * s, "map_area": 0.4 if s % 5 == 0 else None}
    for s in range(1, 21)
]  # fmt: skip


def example(size_hw: tuple[int, int] = (90, 120), name: str = "000012.jpg") -> ReportExample:
    found = Detections(torch.tensor([[10.0, 10.0, 60.0, 60.0]]), torch.tensor([0.8]), torch.tensor([1]))
    return ReportExample(
        name=name,
        image=np.full((*size_hw, 3), 128, dtype=np.uint8),
        boxes_xyxy=np.array([[10, 10, 60, 60], [70, 5, 110, 40]], dtype=np.float32),
        labels=np.array([1, 0]),
        ignored=np.array([False, True]),
        found=found,
        f1=0.5,
        windows_xyxy=np.array([(0, 0, size_hw[1], size_hw[0])]),
    )


def written(
    path: Path, *, names: tuple[str, ...] = ("scratch", "dent", "rust"), with_run: bool = True, shown: str = "a.jpg"
) -> str:
    categories = Categories.from_names(names)
    boxes_xyxy = np.array([[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 25.0, 25.0]])
    two = np.array([0, 1])
    truth = GroundTruth(2, two, two, boxes_xyxy, np.zeros(2, dtype=bool), np.array([1600.0, 400.0]))
    measured = measure(truth, DetectionTable(two, two, np.array([0.9, 0.8]), boxes_xyxy), categories)
    file = path / "report.html"
    write_report(
        file,
        title=f"a detector of {names[0]}",
        measurement=measured,
        categories=categories,
        training_log=LOG if with_run else (),
        examples={"Best images": [example(name=shown)], "Worst images": [example((900, 1200))]} if with_run else None,
        settings={"detector": "ssd300", "optimizer": {"momentum": 0.9}} if with_run else None,
    )
    return file.read_text(encoding="utf-8")


def test_the_page_shows_summary_table_curves_images_and_settings(tmp_path: Path) -> None:
    page = Page(written(tmp_path))

    assert page.open == []
    for words in ("Losses", "classification", "distribution", "Learning rate",
                  "Best images", "Worst images", "scratch", "rust", "mean",
                  "optimizer.momentum", "0.9", "20.0 min", "annotated: 1 scratch, 1 dent", "detected: 1 dent",
                  "F1 0.50", "no objects or no detections"):  # fmt: skip
        assert words in page.words, words
    assert page.tags.count("svg") == 3 + 2  # training, and a curve for each class that has one
    assert page.tags.count("img") == 4


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    text = written(tmp_path)

    assert all(source.startswith("data:image/jpeg;base64,") for source in Page(text).sources)
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_example_images_are_readable_and_of_a_size_for_the_page(tmp_path: Path) -> None:
    shapes = []
    for source in Page(written(tmp_path)).sources:
        data = np.frombuffer(base64.b64decode(source.split(",")[1]), dtype=np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image is not None
        shapes.append(image.shape[:2])

    assert shapes == [(360, 480)] * 2 + [(420, 560)] * 2


def test_nasty_names_are_text_in_the_page(tmp_path: Path) -> None:
    text = written(tmp_path, names=NASTY_NAMES, shown=NO_UTF_8)
    page = Page(text)
    assert "script" not in page.tags
    assert all(map(is_seen, page.words))
    for word in (
        "bolt [m6]",
        "<script>alert(1)</script>",
        r"x\x1b[31mRED\x1b[0m",
        r"caf\xe9",
        "{{ 7 * 7 }} %s {0} \\n",
    ):
        assert word in page.words


def test_class_names_cannot_add_markup(tmp_path: Path) -> None:
    text = written(tmp_path, names=(EVIL, "dent", "rust"))

    assert EVIL not in text
    assert EVIL in Page(text).words


@pytest.mark.parametrize("heading", ["Training", "Best images", "Settings"])
def test_a_report_of_an_evaluation_alone_leaves_the_run_out(tmp_path: Path, heading: str) -> None:
    assert heading not in Page(written(tmp_path, with_run=False)).words


def test_an_image_of_tiles_is_drawn_larger_with_their_grid(tmp_path: Path) -> None:
    one = example((2000, 3200))
    tiles = np.array([(0, 0, 1700, 2000), (1500, 0, 3200, 2000)])
    shown = _example(replace(one, windows_xyxy=tiles), Categories.from_names(("scratch", "dent")))
    truth, found = (
        decode_image(base64.b64decode(shown[name].partition(",")[2])).astype(int) for name in ("truth", "found")
    )
    assert truth.shape == found.shape == (1000, 1600, 3)
    lines = found[500].mean(axis=1) - truth[500].mean(axis=1)  # where the second tile begins and the first one ends
    assert set(np.flatnonzero(lines[100:-100] > 30) + 100) == {750, 849}
