"""Drawn images, judged by their pixels."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from nasty_names import NASTY_NAMES, NO_UTF_8

from onestage.drawing import class_color, draw_objects
from onestage.structures import Detections

GRAY = 90


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GRAY, dtype=np.uint8)


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Detections:
    boxes_xyxy = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes_xyxy, torch.tensor(scores), torch.tensor(labels, dtype=torch.int64), ("cat", "dog"))


def draw(image: np.ndarray, detections: Detections, score_threshold: float = 0.0, min_side: int = 0) -> np.ndarray:
    return detections.filter(score=score_threshold).draw(image, min_side=min_side)


def extent(image: np.ndarray, color: tuple[int, int, int]) -> list[int]:
    """x0, y0, x1, y1 (half-open) of the pixels of one colour."""
    rows, columns = np.nonzero((image == color).all(axis=2))
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def test_a_box_lies_on_its_pixels_in_the_colour_of_its_class() -> None:
    image = draw(gray(200, 300), found([[20, 50, 220, 150]], [0.9], [1]))

    sides = image[60:140]  # below the tag
    assert extent(sides, class_color(1)) == [20, 0, 220, 80]
    assert extent(image, class_color(1))[3] == 150
    assert (image[100, 120] == GRAY).all()


def test_the_image_given_stays_as_it_is() -> None:
    image = gray(100, 100)

    drawn = draw(image, found([[10, 30, 60, 80]], [0.9], [0]))

    assert (image == GRAY).all()
    assert drawn.shape == image.shape


def test_detections_below_the_threshold_are_not_drawn() -> None:
    image = draw(gray(100, 100), found([[10, 30, 60, 80]], [0.49], [0]), score_threshold=0.5)

    assert (image == GRAY).all()


def test_nothing_found_gives_the_same_image() -> None:
    assert (draw(gray(50, 60), found([], [], [])) == GRAY).all()


@pytest.mark.parametrize(
    "box", [[0, 0, 100, 100], [90, 90, 100, 100], [-50, -50, 500, 500], [99, 0, 100, 1], [150, 150, 160, 160]]
)
def test_a_tag_stays_inside_the_image_wherever_the_box_is(box: list[float]) -> None:
    """The tag is filled with the class's colour: its area shows whether any of it was cut off."""
    tag_alone = (draw(gray(400, 400), found([[150, 200, 151, 201]], [0.9], [0])) == class_color(0)).all(axis=2).sum()

    image = draw(gray(100, 100), found([box], [0.9], [0]))

    assert image.shape == (100, 100, 3)
    assert (image == class_color(0)).all(axis=2).sum() >= 0.75 * tag_alone


def test_tags_of_boxes_in_one_place_do_not_cover_each_other() -> None:
    box = [40.0, 60.0, 260.0, 160.0]

    image = draw(gray(200, 300), found([box, box, box], [0.9, 0.8, 0.7], [0, 1, 2]))

    for label, score in enumerate([0.9, 0.8, 0.7]):
        alone = draw(gray(200, 300), found([[150, 100, 152, 102]], [score], [label]))
        assert (image == class_color(label)).all(axis=2).sum() >= 0.95 * (alone == class_color(label)).all(axis=2).sum()


def test_the_best_detection_is_on_top() -> None:
    box = [40.0, 60.0, 260.0, 160.0]

    image = draw(gray(200, 300), found([box, box], [0.3, 0.8], [0, 1]))

    assert (image[110, 40] == class_color(1)).all()


def test_names_outside_ascii_are_written_and_endless_names_are_cut() -> None:
    names = ("größe", "缺陷", "x" * 500)
    boxes = np.array([[10, 40, 90, 90], [10, 110, 90, 160], [100, 40, 180, 90]], dtype=np.float32)

    image = draw_objects(gray(200, 200), boxes, np.arange(3), np.zeros(3, dtype=bool), names)
    ascii_only = draw_objects(gray(200, 200), boxes, np.arange(3), np.zeros(3, dtype=bool), ("??", "??", "??"))

    assert image.shape == (200, 200, 3)
    assert (image != ascii_only).any()


def test_ignored_objects_have_broken_lines() -> None:
    boxes = np.array([[20, 40, 180, 180]], dtype=np.float32)
    labels = np.zeros(1, dtype=np.int64)

    solid = draw_objects(gray(200, 200), boxes, labels, np.array([False]), ["cat"])
    broken = draw_objects(gray(200, 200), boxes, labels, np.array([True]), ["cat"])

    def on_left_side(image: np.ndarray) -> float:
        return float((image[60:170, 20] == class_color(0)).all(axis=1).mean())

    assert on_left_side(solid) == 1.0
    assert 0.3 < on_left_side(broken) < 0.8


def test_a_small_image_is_enlarged_by_a_whole_factor_with_its_boxes() -> None:
    image = draw(gray(60, 80), found([[20, 20, 60, 50]], [0.9], [0]), min_side=150)

    assert image.shape == (180, 240, 3)
    assert extent(image[80:], class_color(0)) == [60, 0, 180, 70]


def test_a_label_without_a_name_is_written_as_its_number() -> None:
    image = draw(gray(100, 100), found([[10, 30, 60, 80]], [0.9], [7]))

    assert (image == class_color(7)).all(axis=2).any()


def test_eighty_classes_have_eighty_colours() -> None:
    colors = np.array([class_color(label) for label in range(80)])

    assert len(np.unique(colors, axis=0)) == 80
    apart = np.abs(colors[:12, None] - colors[None, :12]).sum(axis=2) + 1000 * np.eye(12, dtype=int)
    assert apart.min() > 90
    assert class_color(42) == class_color(42)


def test_nasty_names_are_drawn_as_text() -> None:
    names = (*NASTY_NAMES, NO_UTF_8, "half \ud83d")  # OpenCV ends the process where a text can't be encoded
    boxes_xyxy, labels = np.array([[20.0, 50, 220, 150]] * len(names)), np.arange(len(names))
    image = draw_objects(gray(200, 300), boxes_xyxy, labels, np.zeros(len(names), dtype=bool), names)
    assert image.shape == (200, 300, 3)
    one, same = (draw_objects(gray(99, 300), boxes_xyxy[:1], labels[:1], labels[:1] > 0, (n,)) for n in ("a\n", r"a\n"))
    assert (one == same).all()


@pytest.mark.parametrize(
    ("size_hw", "drawn_hw"),
    [((100, 150), (400, 600)), ((4, 700), (20, 3500)), ((700, 4), (3500, 20)), ((1, 9000), (1, 9000))],
)
def test_thin_images_are_enlarged_within_bounds(size_hw: tuple[int, int], drawn_hw: tuple[int, int]) -> None:
    """By a whole factor that gives the shorter side 400 pixels, or the longer one at most 4,000."""
    assert draw(gray(*size_hw), found([[0, 0, 1, 1]], [0.9], [0]), min_side=400).shape == (*drawn_hw, 3)


@pytest.mark.parametrize("name", ["m" * 20_000, "i" * 1_000_000])
def test_class_name_long_is_cut_to_what_fits_in_a_moment(name: str) -> None:
    box = torch.tensor([[10.0, 60.0, 290.0, 290.0]])
    began = time.process_time()

    image = Detections(box, torch.tensor([0.9]), torch.tensor([0]), (name,)).draw(gray(300, 300))

    assert time.process_time() - began < 1
    x0, _, x1, _ = extent(image[:55], class_color(0))  # the tag, above the box
    assert 0.9 * 300 < x1 - x0 <= 300  # as many letters as fit
