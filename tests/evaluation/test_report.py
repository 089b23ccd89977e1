"""The report page: complete, self-contained, and safe with names from strangers' files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from html_pages import Page
from nasty_names import NASTY_NAMES, NO_UTF_8, is_seen

from onestage.evaluation import measure
from onestage.evaluation.explained import explain
from onestage.evaluation.report import write_report
from onestage.evaluation.report_images import ImageSource
from onestage.evaluation.words import TrainedOn
from onestage.runtime.calibration import ScoreCalibration
from onestage.structures import Categories, DetectionTable, GroundTruth

EVIL = "<img src=x onerror=alert(1)>"
LOG = [
    {"step": s, "epoch": s / 10, "images": 8 * s, "lr": 0.01, "loss": 3 / s,
     "classification_loss": 2 / s, "distribution_loss": 1 / s,
     "images_per_second": 9, "seconds": 60 * s, "map_area": 0.4 if s % 5 == 0 else None}
    for s in range(1, 21)
]  # fmt: skip


def images(size_hw: tuple[int, int], name: str) -> ImageSource:
    pixels = np.full((*size_hw, 3), 128, dtype=np.uint8)
    return ImageSource(lambda _: name, lambda _: pixels, lambda _: np.array([(0, 0, size_hw[1], size_hw[0])]))


def written(
    path: Path,
    *,
    names: tuple[str, ...] = ("scratch", "dent", "rust"),
    with_run: bool = True,
    shown: str = "a.jpg",
    size_hw: tuple[int, int] = (90, 120),
) -> str:
    """A report of two images: the object of the first is found, that of the second too, with a false alarm beside."""
    categories = Categories.from_names(names)
    boxes_xyxy = np.array([[0.0, 0.0, 40.0, 40.0], [5.0, 5.0, 25.0, 25.0]])
    two = np.array([0, 1])
    truth = GroundTruth(2, two, two, boxes_xyxy, np.zeros(2, dtype=bool), np.array([1600.0, 400.0]))
    found_boxes = np.concatenate([boxes_xyxy, [[60.0, 60.0, 80.0, 80.0]]])
    found = DetectionTable(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([0.9, 0.8, 0.7]), found_boxes)
    calibration = ScoreCalibration((1.0,) * len(names), (0.0,) * len(names)) if with_run else None
    file = path / "report.html"
    write_report(
        file,
        title=f"a detector of {names[0]}",
        measurement=measure(truth, found, categories),
        explained=explain(truth, found, categories, np.full(len(categories), 0.5), calibration=calibration),
        categories=categories,
        trained_on=TrainedOn(50, np.full(len(names), 77), "val", 9, False) if with_run else None,
        training_log=LOG if with_run else (),
        images=images(size_hw, shown) if with_run else None,
        settings={"detector": "ssd300", "optimizer": {"momentum": 0.9}} if with_run else None,
    )
    return file.read_text(encoding="utf-8")


def test_the_page_shows_summary_table_curves_images_and_settings(tmp_path: Path) -> None:
    page = Page(written(tmp_path))

    assert page.open == []
    for words in ("Losses", "classification", "distribution", "Learning rate",
                  "Best images", "The worst mistakes", "scratch", "rust", "mean", "in training", "77", "not found",
                  "optimizer.momentum", "0.9", "20.0 min", "1 found, 1 false alarm", "1 found",
                  "no objects or no detections"):  # fmt: skip
        assert words in page.words, words
    first = "On 2 images that it did not learn from, the model finds 2 of 2 objects (100 %) at scores above 0.5"
    assert any(words.startswith(first) for words in page.words)
    # Off by 0.1, 0.2 and 0.7; a slope of 1 and a shift of 0 leave the scores as they are.
    assert any(
        words.endswith("scores are off by 0.333 in the mean here, probabilities by 0.333.") for words in page.words
    )
    # Training, scores beside what is true, and a curve for each class that has one.
    assert page.tags.count("svg") == 3 + 1 + 2
    assert page.tags.count("img") == 2  # the worst one, and the best one


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    text = written(tmp_path)

    assert all(source.startswith("data:image/jpeg;base64,") for source in Page(text).sources)
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_images_are_readable_and_of_a_size_for_the_page(tmp_path: Path) -> None:
    shapes = [image.shape for image in Page(written(tmp_path)).images()]

    assert shapes == [(360, 480, 3)] * 2


def test_mistakes_are_chosen_by_kind_without_a_script(tmp_path: Path) -> None:
    text = written(tmp_path)

    assert re.search(r"default-src 'none'; img-src data:; style-src 'unsafe-inline'", text)
    for kind in ("class", "place", "both", "duplicate", "background", "missed"):
        assert f'id="show-{kind}"' in text
        assert f".worst:has(#show-{kind}:checked) figure:not(.{kind})" in text
    assert '<figure class="panel background">' in text


def test_of_many_classes_the_worst_are_shown(tmp_path: Path) -> None:
    text = written(tmp_path, names=tuple(f"class {label}" for label in range(1000)))

    assert len(text) < 400_000
    shown = "Shown are 20 of 1,000 classes, those"
    notes = [words for words in Page(text).words if shown in words]
    assert [note.partition(shown)[2] for note in notes] == [
        f" {which}; metrics.json has all." for which in
        ("with the lowest F1", "that are confused most", "with the lowest AP", "with the lowest AP")
    ]  # fmt: skip


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


@pytest.mark.parametrize("heading", ["Training", "Best images", "The worst mistakes", "Settings"])
def test_a_report_of_an_evaluation_alone_leaves_the_run_out(tmp_path: Path, heading: str) -> None:
    assert heading not in Page(written(tmp_path, with_run=False)).words
