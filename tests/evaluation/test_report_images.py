"""Which images the report shows, and how they are drawn."""

from __future__ import annotations

import base64

import numpy as np

from onestage.evaluation.at_thresholds import AtThresholds, count_at_thresholds
from onestage.evaluation.mistakes import BACKGROUND, MISSED
from onestage.evaluation.report_images import (
    FALSE_ALARM_COLOR,
    FOUND_COLOR,
    NOT_FOUND_COLOR,
    ImageSource,
    best_images,
    draw_image,
    worst_images,
)
from onestage.runtime.decode import decode_image
from onestage.structures import Categories, DetectionTable, GroundTruth

BOX = (10.0, 10.0, 50.0, 50.0)
CATEGORIES = Categories.from_names(("scratch", "dent"))


def counted(
    objects: list[tuple[int, int, tuple[float, ...]]],
    found: list[tuple[int, int, float, tuple[float, ...]]],
    images: int,
) -> AtThresholds:
    """(image, label, box) of the objects; (image, label, score, box) of the detections."""
    boxes = np.array([one[2] for one in objects], dtype=np.float64).reshape(-1, 4)
    image, label = (np.array([one[part] for one in objects], dtype=np.int64) for part in (0, 1))
    truth = GroundTruth(images, image, label, boxes, np.zeros(len(objects), dtype=bool), np.ones(len(objects)))
    image, label = (np.array([one[part] for one in found], dtype=np.int64) for part in (0, 1))
    scores = np.array([one[2] for one in found], dtype=np.float64)
    boxes = np.array([one[3] for one in found], dtype=np.float64).reshape(-1, 4)
    return count_at_thresholds(truth, DetectionTable(image, label, scores, boxes), np.full(2, 0.5))


# Images: 0 found (class 0); 1 missed; 2 found (class 0); 3 found (class 1); 4 empty, a false alarm; 5 empty, quiet;
# 6 empty, a false alarm of a higher score.
AT = counted(
    [(0, 0, BOX), (1, 0, BOX), (2, 0, BOX), (3, 1, BOX)],
    [(0, 0, 0.9, BOX), (1, 0, 0.5, BOX), (2, 0, 0.9, BOX), (3, 1, 0.9, BOX), (4, 0, 0.8, BOX), (6, 0, 0.9, BOX)],
    images=7,
)


def source(size_hw: tuple[int, int], tiles: list[tuple[int, int, int, int]] | None = None) -> ImageSource:
    windows = np.array(tiles or [(0, 0, size_hw[1], size_hw[0])])
    return ImageSource(lambda index: f"{index}.jpg", lambda _: np.full((*size_hw, 3), 90, np.uint8), lambda _: windows)


def pixels(url: str) -> np.ndarray:
    return decode_image(base64.b64decode(url.partition(",")[2])).astype(int)


def near(image: np.ndarray, color: tuple[int, int, int]) -> int:
    """How many pixels have about this colour."""
    return int((np.abs(image - color).max(axis=2) < 30).sum())


def test_the_worst_take_turns_by_kind_and_the_highest_scores_come_first() -> None:
    assert worst_images(AT) == [(6, BACKGROUND), (1, MISSED), (4, BACKGROUND)]
    assert worst_images(AT, limit=2) == [(6, BACKGROUND), (1, MISSED)]


def test_the_best_take_turns_by_class_and_have_no_mistakes() -> None:
    assert best_images(AT, limit=2) == [0, 3]
    assert best_images(AT) == [0, 3, 2, 5]
    assert best_images(AT, without=[3, 6]) == [0, 2, 5]


def test_no_images_give_none() -> None:
    nothing = counted([], [], images=0)
    assert (worst_images(nothing), best_images(nothing)) == ([], [])


def test_hits_misses_and_false_alarms_have_their_colours_and_are_counted() -> None:
    at = counted([(0, 0, BOX), (0, 1, (60, 10, 90, 40))], [(0, 0, 0.9, BOX), (0, 1, 0.7, (10, 60, 50, 95))], images=1)

    drawn = draw_image(at, 0, BACKGROUND, source((100, 100)), CATEGORIES)

    image = pixels(drawn.url)
    assert image.shape == (480, 480, 3)
    assert all(near(image, color) > 200 for color in (FOUND_COLOR, NOT_FOUND_COLOR, FALSE_ALARM_COLOR))
    assert drawn.text == "1 found, 1 not found, 1 false alarm"
    assert set(drawn.kinds) == {"background", "missed"}
    assert (drawn.name, drawn.part) == ("0.jpg", "")


def test_of_a_large_image_the_part_around_a_small_mistake_is_shown() -> None:
    tiny = (3000.0, 2000.0, 3012.0, 2012.0)
    at = counted([(0, 0, tiny), (0, 0, (0, 0, 12, 12))], [], images=1)

    drawn = draw_image(at, 0, MISSED, source((3000, 4000)), CATEGORIES)

    assert drawn.part == "84 x 84 of 4000 x 3000 pixels"  # 7 times the side of the object
    assert drawn.text == "1 not found"  # the other one is elsewhere
    columns = np.flatnonzero((np.abs(pixels(drawn.url) - NOT_FOUND_COLOR).max(axis=2) < 30).sum(axis=0) > 20)
    assert columns.max() - columns.min() > 60  # of 480: large enough to be seen


def test_the_borders_of_tiles_are_drawn() -> None:
    at = counted([(0, 0, (400, 400, 900, 900))], [], images=1)
    tiles = [(0, 0, 600, 1000), (400, 0, 1000, 1000)]

    plain, tiled = (
        pixels(draw_image(at, 0, MISSED, source((1000, 1000), some), CATEGORIES).url) for some in (None, tiles)
    )

    lighter = (tiled - plain)[100].mean(axis=1)
    assert set(np.flatnonzero(lighter[5:-5] > 30) + 5) == {192, 287}  # 400 and 599 of 1000, at 480


def test_a_noisy_image_is_written_more_coarsely() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (480, 480, 3)).astype(np.uint8)
    images = ImageSource(str, lambda _: noise, lambda _: np.array([(0, 0, 480, 480)]))

    assert len(draw_image(AT, 1, MISSED, images, CATEGORIES).url) < 160_000


def test_an_image_without_objects_and_detections_is_shown_as_it_is() -> None:
    drawn = draw_image(AT, 5, None, source((100, 100)), CATEGORIES)

    assert (drawn.kinds, drawn.text) == ((), "nothing to find, nothing found")
    assert np.abs(pixels(drawn.url) - 90).max() <= 2
