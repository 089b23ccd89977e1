"""Geometry as numbers, one pass over the pixels, colours through tables; boxes go where the pixels go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onestage.augmentation import MILD, SSD_PAPER
from onestage.data.augment import (
    Augmentation,
    Colour,
    Geometry,
    augment,
    change_colour,
    move_objects,
    resize_only,
    sample_colour,
    sample_geometry,
    warp,
)
from onestage.input_size import KeepRatio, Stretch, resize_image
from onestage.structures import Sample

FLIPS_AND_TURNS = Augmentation(
    expand_probability=0.0,
    crop_probability=0.0,
    flip_probability=0.5,
    vertical_flip_probability=0.5,
    quarter_turn_probability=0.5,
    colour_probability=0.0,
)


def a_sample(
    size_hw: tuple[int, int] = (120, 160),
    boxes_xyxy: tuple[tuple[float, float, float, float], ...] = ((40, 30, 100, 90),),
    ignored: tuple[bool, ...] | None = None,
) -> Sample:
    """A gray image with its objects painted red."""
    image = np.full((*size_hw, 3), 90, dtype=np.uint8)
    for x0, y0, x1, y1 in boxes_xyxy:
        image[int(y0) : int(y1), int(x0) : int(x1)] = (250, 10, 10)
    return Sample(
        image,
        np.array(boxes_xyxy, dtype=np.float32).reshape(-1, 4),
        np.arange(len(boxes_xyxy), dtype=np.int64),
        np.array(ignored if ignored is not None else [False] * len(boxes_xyxy), dtype=np.bool_),
        7,
    )


def red_box(image: np.ndarray) -> list[int]:
    """The extent of the red pixels."""
    red = (image[:, :, 0] > 170) & (image[:, :, 1] < 50)
    xs, ys = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red.any(axis=1))
    return [int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1]


@pytest.mark.parametrize("seed", range(40))
def test_boxes_follow_their_pixels(seed: int) -> None:
    vivid = replace(SSD_PAPER, colour_probability=0.0, vertical_flip_probability=0.5, quarter_turn_probability=0.5)
    varied = augment(a_sample(), Stretch(150), np.random.default_rng(seed), vivid)
    assert varied.image.shape == (150, 150, 3)
    assert varied.labels.tolist() == [0]  # a crop always holds the centre of an object
    np.testing.assert_allclose(varied.boxes_xyxy[0], red_box(varied.image), atol=2.0)


def test_flips_and_quarter_turns_reach_all_eight_positions() -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[0:8, 8:16] = 255  # in one of the square's eight equivalent places
    sample = Sample(
        image, np.array([[8, 0, 16, 8]], np.float32), np.zeros(1, np.int64), np.zeros(1, np.bool_), image_index=0
    )
    places = set()
    for seed in range(80):
        varied = augment(sample, Stretch(32), np.random.default_rng(seed), FLIPS_AND_TURNS)
        x0, y0, x1, y1 = (int(side) for side in varied.boxes_xyxy[0])
        assert (x1 - x0, y1 - y0) == (8, 8)
        assert (varied.image[y0:y1, x0:x1] == 255).all()
        assert varied.image.sum() == 3 * 64 * 255
        places.add((x0 // 8, y0 // 8))
    assert places == {(1, 0), (2, 0), (0, 1), (3, 1), (0, 2), (3, 2), (1, 3), (2, 3)}


def test_a_transposed_and_mirrored_geometry_maps_corners_by_hand_arithmetic() -> None:
    geometry = Geometry((10, 20, 30, 60), (0, 0, 100, 100), (100, 100), transpose=True, mirror=True)
    # (x, y) of the image -> 5 (x - 10), 2.5 (y - 20) -> swapped -> x mirrored
    np.testing.assert_allclose(geometry.matrix @ [10, 20, 1], [100, 0])
    np.testing.assert_allclose(geometry.matrix @ [30, 20, 1], [100, 100])
    np.testing.assert_allclose(geometry.matrix @ [10, 60, 1], [0, 0])
    boxes_xyxy = geometry.move_boxes(np.array([[10, 20, 20, 40]], dtype=np.float32))
    np.testing.assert_allclose(boxes_xyxy, [[50, 0, 100, 50]])


def test_an_expanded_image_lies_on_the_fill_at_its_true_size() -> None:
    geometry = Geometry((0, 0, 160, 120), (30, 40, 110, 100), (150, 150))
    image = warp(a_sample().image, geometry, fill=(1, 2, 3))
    assert image[39, 30].tolist() == [1, 2, 3]
    assert image[40, 30].tolist() == [90, 90, 90]
    assert image[99, 109].tolist() == [90, 90, 90]
    assert image[100, 109].tolist() == [1, 2, 3]


def test_objects_whose_centre_is_cut_off_are_left_out_and_the_rest_clipped() -> None:
    sample = a_sample((100, 100), ((0, 0, 30, 30), (30, 30, 90, 90), (80, 80, 100, 100)))
    geometry = Geometry((20, 20, 80, 80), (0, 0, 60, 60), (60, 60))
    moved = move_objects(sample, warp(sample.image, geometry), geometry)
    assert moved.labels.tolist() == [1]
    np.testing.assert_array_equal(moved.boxes_xyxy, [[10, 10, 60, 60]])


def test_an_ignored_object_stays_as_long_as_a_part_of_it_is_visible() -> None:
    sample = a_sample((100, 100), ((0, 0, 30, 30), (90, 90, 100, 100)), ignored=(True, True))
    geometry = Geometry((20, 20, 80, 80), (0, 0, 60, 60), (60, 60))
    moved = move_objects(sample, warp(sample.image, geometry), geometry)
    assert moved.labels.tolist() == [0]
    assert moved.ignored.tolist() == [True]
    np.testing.assert_array_equal(moved.boxes_xyxy, [[0, 0, 10, 10]])


@pytest.mark.parametrize("augmentation", [SSD_PAPER, MILD])
def test_a_image_without_objects_is_augmented_too(augmentation: Augmentation) -> None:
    sample = a_sample(boxes_xyxy=())
    for seed in range(30):
        varied = augment(sample, Stretch(64), np.random.default_rng(seed), augmentation)
        assert varied.image.shape == (64, 64, 3)
        assert varied.boxes_xyxy.shape == (0, 4)
        assert varied.image_index == 7


def test_a_image_of_one_pixel_is_augmented_too() -> None:
    sample = Sample(
        np.full((1, 1, 3), 200, np.uint8),
        np.array([[0, 0, 1, 1]], np.float32),
        np.zeros(1, np.int64),
        np.zeros(1, bool),
        0,
    )
    for seed in range(30):
        varied = augment(sample, Stretch(32), np.random.default_rng(seed), replace(SSD_PAPER, colour_probability=0.0))
        assert (varied.image == 200).any()
        assert len(varied.boxes_xyxy) == 1


def test_the_same_seed_gives_the_same_sample_and_another_seed_another_one() -> None:
    first, again, other = (
        augment(a_sample(), Stretch(64), np.random.default_rng(seed), SSD_PAPER) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes_xyxy, again.boxes_xyxy)
    assert not np.array_equal(first.image, other.image)


def test_choices_come_as_often_as_the_paper_says() -> None:
    boxes_xyxy, ignored = a_sample().boxes_xyxy, a_sample().ignored
    geometries = [
        sample_geometry((120, 160), boxes_xyxy, ignored, Stretch(300), np.random.default_rng((5, n)), SSD_PAPER)
        for n in range(1000)
    ]
    mirrored = np.mean([g.mirror for g in geometries])
    whole = np.mean([g.source_xyxy == (0, 0, 160, 120) and g.target_xyxy == (0, 0, 300, 300) for g in geometries])
    assert 0.45 < mirrored < 0.55
    assert 0.05 < whole < 0.1  # half are not expanded, a seventh of these not cropped: 0.071
    assert not any(g.transpose or g.upside_down for g in geometries)


def test_crops_meet_the_drawn_overlap_with_an_object() -> None:
    only_crops = replace(SSD_PAPER, expand_probability=0.0, crop_probability=1.0, crop_ious=(0.5,))
    box_xyxy = np.array([[40, 30, 120, 100]], dtype=np.float32)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        geometry = sample_geometry((120, 160), box_xyxy, np.zeros(1, np.bool_), Stretch(300), rng, only_crops)
        x0, y0, x1, y1 = geometry.source_xyxy
        overlap = (min(x1, 120) - max(x0, 40)) * (min(y1, 100) - max(y0, 30))
        iou = overlap / ((x1 - x0) * (y1 - y0) + 80 * 70 - overlap)
        assert iou >= 0.47  # 0.5 before the crop was rounded to whole pixels; the whole image would be 0.29
        assert 0.48 <= (x1 - x0) / (y1 - y0) <= 2.1


def test_brightness_and_contrast_are_those_of_plain_arithmetic() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    changed = change_colour(image, Colour(brightness=20.0, contrast=1.5))
    expected = np.clip((image.astype(float) + 20) * 1.5, 0, 255)
    np.testing.assert_allclose(changed, expected, atol=0.51)


def test_saturation_zero_gives_gray_of_the_same_value() -> None:
    image = np.array([[[200, 100, 50]]], dtype=np.uint8)
    assert change_colour(image, Colour(saturation=0.0)).tolist() == [
        [[200, 200, 200]]
    ]  # HSV's V is the largest channel


def test_a_hue_of_120_degrees_turns_red_into_green() -> None:
    image = np.array([[[250, 10, 10]]], dtype=np.uint8)
    np.testing.assert_allclose(change_colour(image, Colour(hue=120.0)), [[[10, 250, 10]]], atol=4)


def test_contrast_first_and_last_agree_where_nothing_is_clipped() -> None:
    image = np.random.default_rng(0).integers(40, 200, (20, 20, 3), dtype=np.uint8)
    first, last = (
        change_colour(image, Colour(contrast=0.8, saturation=0.9, contrast_last=order)) for order in (False, True)
    )
    np.testing.assert_allclose(first.astype(int), last.astype(int), atol=4)


def test_no_change_of_colour_leaves_the_image_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert change_colour(image, Colour()) is image
    calm = sample_colour(np.random.default_rng(0), replace(SSD_PAPER, colour_probability=0.0))
    assert change_colour(image, calm) is image


def test_the_fill_keeps_its_colour_whatever_happens_to_the_image() -> None:
    geometry = Geometry((0, 0, 160, 120), (50, 50, 100, 100), (150, 150))
    image = warp(a_sample().image, geometry, SSD_PAPER.fill, Colour(brightness=30.0, saturation=1.5))
    assert image[0, 0].tolist() == list(SSD_PAPER.fill)


def test_resizing_stretches_the_image_and_keeps_every_object() -> None:
    sample = a_sample((100, 200), ((0, 0, 50, 50), (100, 50, 200, 100)), ignored=(True, False))
    resized = resize_only(sample, Stretch(300))
    assert resized.image.shape == (300, 300, 3)
    np.testing.assert_allclose(resized.boxes_xyxy, [[0, 0, 75, 150], [150, 150, 300, 300]])
    assert resized.ignored.tolist() == [True, False]


def test_a_strong_reduction_averages_and_does_not_skip_pixels() -> None:
    stripes = np.zeros((400, 400, 3), dtype=np.uint8)
    stripes[:, ::4] = 200
    small = resize_image(stripes, (100, 100))
    np.testing.assert_array_equal(small, 50)
    slight = resize_image(stripes, (300, 300))
    # the first three lie at 1/6, 3/2 and 17/6 of the original: the first has 5/6 of a stripe, in 256ths 213, so 166.4
    np.testing.assert_array_equal(slight, np.tile(np.array([166, 0, 0])[:, None], (300, 100, 3)))


def test_crops_are_not_guided_by_ignored_objects() -> None:
    boxes_xyxy = np.array([[100, 80, 130, 110], [0, 0, 60, 60]], dtype=np.float32)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        geometry = sample_geometry((120, 160), boxes_xyxy, np.array([False, True]), Stretch(300), rng, SSD_PAPER)
        x0, y0, x1, y1 = geometry.source_xyxy
        assert x0 <= 115 <= x1  # the centre of the first object, up to rounding
        assert y0 <= 95 <= y1


def test_a_image_keeps_its_proportions_where_the_detector_wants_it_and_boxes_follow() -> None:
    sample = a_sample((100, 200), ((0, 0, 50, 50), (100, 50, 200, 100)))
    resized = resize_only(sample, KeepRatio(shortest=50, longest=80))  # the longer side decides: a factor of 0.4
    assert resized.image.shape == (40, 80, 3)
    np.testing.assert_allclose(resized.boxes_xyxy, [[0, 0, 20, 20], [40, 20, 80, 40]])


@pytest.mark.parametrize("seed", range(20))
def test_boxes_follow_their_pixels_in_images_that_keep_their_proportions(seed: int) -> None:
    vivid = replace(SSD_PAPER, colour_probability=0.0, vertical_flip_probability=0.5, quarter_turn_probability=0.5)
    varied = augment(a_sample(), KeepRatio(100, 180), np.random.default_rng(seed), vivid)
    assert min(varied.image.shape[:2]) == 100 or max(varied.image.shape[:2]) == 180
    np.testing.assert_allclose(varied.boxes_xyxy[0], red_box(varied.image), atol=2.0)
