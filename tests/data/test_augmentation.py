"""Geometry as numbers, one pass over the pixels, colours through tables; boxes go where the pixels go."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

from onestage.data.augmentation import Augmentation, Colour, Crop, Expand, Flip, augment, change_colours
from onestage.data.augmentation.canvas import Canvas, Layer, Placement
from onestage.data.augmentation.presets import FLIP_ONLY, MILD, SSD_PAPER
from onestage.data.loader import resize_only
from onestage.data.table import Objects
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Resize, Stretch, resize_image
from onestage.settings import setting
from onestage.structures import Sample

FLIPS_AND_TURNS = Augmentation((Flip(vertical_probability=0.5, quarter_turn_probability=0.5),))
VIVID = Augmentation((Expand(), Crop(), *FLIPS_AND_TURNS.transforms))


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


def layer_of(sample: Sample) -> Layer:
    height, width = sample.image.shape[:2]
    return Layer(sample.image_index, (height, width), Objects(sample.boxes_xyxy, sample.labels, sample.ignored))


def shown(sample: Sample, view_xyxy: tuple[float, float, float, float], side: int) -> tuple[np.ndarray, Objects]:
    """What lies in a view of the sample, resized to a square, on a fill of (1, 2, 3)."""
    return Canvas((layer_of(sample),), view_xyxy).paint(Stretch(side), (1, 2, 3), lambda _: sample.image)


def placement(canvas: Canvas, resize: Resize) -> Placement:
    (found,) = canvas.placements(resize)
    assert found is not None
    return found


def red_box(image: np.ndarray) -> list[int]:
    """The extent of the red pixels."""
    red = (image[:, :, 0] > 170) & (image[:, :, 1] < 50)
    xs, ys = np.flatnonzero(red.any(axis=0)), np.flatnonzero(red.any(axis=1))
    return [int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1]


@pytest.mark.parametrize("seed", range(40))
def test_boxes_follow_their_pixels(seed: int) -> None:
    varied = augment(a_sample(), Stretch(150), np.random.default_rng(seed), VIVID)
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


def test_a_transposed_and_mirrored_view_maps_corners_by_hand_arithmetic() -> None:
    canvas = Canvas((layer_of(a_sample()),), (10, 20, 30, 60), transpose=True, mirror=True)
    # (x, y) of the image -> 5 (x - 10), 2.5 (y - 20) -> swapped -> x mirrored
    matrix = canvas.turned(placement(canvas, Stretch(100)).matrix, Stretch(100))
    np.testing.assert_allclose(matrix @ [10, 20, 1], [100, 0])
    np.testing.assert_allclose(matrix @ [30, 20, 1], [100, 100])
    np.testing.assert_allclose(matrix @ [10, 60, 1], [0, 0])
    sample = a_sample(boxes_xyxy=((10, 20, 20, 40),))
    _, objects = replace(canvas, layers=(layer_of(sample),)).paint(Stretch(100), (0, 0, 0), lambda _: sample.image)
    np.testing.assert_allclose(objects.boxes_xyxy, [[50, 0, 100, 50]])


def test_an_expanded_image_lies_on_the_fill_at_its_true_size() -> None:
    image, _ = shown(a_sample(), (-60, -80, 240, 220), 150)  # 160x120 at half its size, at (30, 40)
    assert image[39, 30].tolist() == [1, 2, 3]
    assert image[40, 30].tolist() == [90, 90, 90]
    assert image[99, 109].tolist() == [90, 90, 90]
    assert image[100, 109].tolist() == [1, 2, 3]


def test_objects_whose_centre_is_cut_off_are_left_out_and_the_rest_clipped() -> None:
    sample = a_sample((100, 100), ((0, 0, 30, 30), (30, 30, 90, 90), (80, 80, 100, 100)))
    _, objects = shown(sample, (20, 20, 80, 80), 60)
    assert objects.labels.tolist() == [1]
    np.testing.assert_array_equal(objects.boxes_xyxy, [[10, 10, 60, 60]])


def test_an_ignored_object_stays_as_long_as_a_part_of_it_is_visible() -> None:
    sample = a_sample((100, 100), ((0, 0, 30, 30), (90, 90, 100, 100)), ignored=(True, True))
    _, objects = shown(sample, (20, 20, 80, 80), 60)
    assert objects.labels.tolist() == [0]
    assert objects.ignored.tolist() == [True]
    np.testing.assert_array_equal(objects.boxes_xyxy, [[0, 0, 10, 10]])


@pytest.mark.parametrize("augmentation", [SSD_PAPER, MILD])
def test_an_image_without_objects_is_augmented_too(augmentation: Augmentation) -> None:
    sample = a_sample(boxes_xyxy=())
    for seed in range(30):
        varied = augment(sample, Stretch(64), np.random.default_rng(seed), augmentation)
        assert varied.image.shape == (64, 64, 3)
        assert varied.boxes_xyxy.shape == (0, 4)
        assert varied.image_index == 7


def test_an_image_of_one_pixel_is_augmented_too() -> None:
    sample = Sample(
        np.full((1, 1, 3), 200, np.uint8),
        np.array([[0, 0, 1, 1]], np.float32),
        np.zeros(1, np.int64),
        np.zeros(1, bool),
        0,
    )
    for seed in range(30):
        varied = augment(sample, Stretch(32), np.random.default_rng(seed), VIVID)
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
    layer = layer_of(a_sample())
    canvases = [SSD_PAPER.draw(layer, np.random.default_rng((5, n)), None) for n in range(1000)]
    mirrored = np.mean([canvas.mirror for canvas in canvases])
    whole = np.mean([canvas.view_xyxy == (0, 0, 160, 120) for canvas in canvases])
    assert 0.45 < mirrored < 0.55
    assert 0.05 < whole < 0.1  # half are not expanded, a seventh of these not cropped: 0.071
    assert not any(canvas.transpose or canvas.upside_down for canvas in canvases)


@pytest.mark.parametrize(("redraw", "whole"), [("all", 1 / 2), ("crops", 1 / 7)])
def test_images_of_small_objects_stay_whole_as_often_as_the_releases_leave_them(redraw, whole: float) -> None:
    """An object of 10 of 300 pixels has an IoU below 0.1 with any crop. So of seven options one is met, one is the
    whole image, and five are drawn again: among all, which makes it one half, or among the IoUs."""
    corners = np.array([[20, 30], [100, 40], [250, 260], [40, 200], [180, 120]], dtype=np.float32)
    objects = Objects(np.hstack([corners, corners + 10]), np.zeros(5, dtype=np.int64), np.zeros(5, dtype=bool))
    canvas, crop, rng = Canvas.of(Layer(0, (300, 300), objects)), Crop(redraw=redraw), np.random.default_rng(0)
    shown = [crop(canvas, rng, lambda: pytest.fail("one image is enough")) for _ in range(4000)]
    share = sum(one.view_xyxy == canvas.view_xyxy for one in shown) / len(shown)
    assert share == pytest.approx(whole, abs=3 * math.sqrt(whole * (1 - whole) / len(shown)))


def test_crops_meet_the_drawn_overlap_with_an_object() -> None:
    only_crops = Augmentation((Crop(probability=1.0, ious=(0.5,)),))
    layer = layer_of(a_sample(boxes_xyxy=((40, 30, 120, 100),)))
    for seed in range(50):
        canvas = only_crops.draw(layer, np.random.default_rng(seed), None)
        x0, y0, x1, y1 = placement(canvas, Stretch(300)).source_xyxy
        overlap = (min(x1, 120) - max(x0, 40)) * (min(y1, 100) - max(y0, 30))
        iou = overlap / ((x1 - x0) * (y1 - y0) + 80 * 70 - overlap)
        assert iou >= 0.47  # 0.5 before the crop was rounded to whole pixels; the whole image would be 0.29
        assert 0.48 <= (x1 - x0) / (y1 - y0) <= 2.1


def colours_changed(**settings: float) -> Callable[[np.ndarray], np.ndarray]:
    nothing = {"brightness": 0.0, "contrast": 1.0, "contrast_last": False, "saturation": 1.0, "hue": 0.0}
    return partial(change_colours, **nothing | settings)


def test_brightness_and_contrast_are_those_of_plain_arithmetic() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    changed = colours_changed(brightness=20.0, contrast=1.5)(image)
    expected = np.clip((image.astype(float) + 20) * 1.5, 0, 255)
    np.testing.assert_allclose(changed, expected, atol=0.51)


def test_saturation_zero_gives_gray_of_the_same_value() -> None:
    image = np.array([[[200, 100, 50]]], dtype=np.uint8)
    assert colours_changed(saturation=0.0)(image).tolist() == [[[200, 200, 200]]]  # HSV's V is the largest channel


def test_a_hue_of_120_degrees_turns_red_into_green() -> None:
    image = np.array([[[250, 10, 10]]], dtype=np.uint8)
    np.testing.assert_allclose(colours_changed(hue=120.0)(image), [[[10, 250, 10]]], atol=4)


def test_contrast_first_and_last_agree_where_nothing_is_clipped() -> None:
    image = np.random.default_rng(0).integers(40, 200, (20, 20, 3), dtype=np.uint8)
    first, last = (colours_changed(contrast=0.8, saturation=0.9, contrast_last=order)(image) for order in (False, True))
    np.testing.assert_allclose(first.astype(int), last.astype(int), atol=4)


def test_no_change_of_colour_leaves_the_image_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert colours_changed()(image) is image
    calm = Colour(probability=0.0)(Canvas.of(layer_of(a_sample())), np.random.default_rng(0), no_other)
    (change,) = calm.layers[0].pixel_changes
    assert change(image) is image


def no_other() -> Layer:
    raise AssertionError("no transform here takes a second image")


def test_the_fill_keeps_its_colour_whatever_happens_to_the_image() -> None:
    layer = replace(layer_of(a_sample()), pixel_changes=(colours_changed(brightness=30.0, saturation=1.5),))
    image, _ = Canvas((layer,), (-160, -120, 320, 240)).paint(Stretch(150), (1, 2, 3), lambda _: a_sample().image)
    assert image[0, 0].tolist() == [1, 2, 3]
    assert image[75, 75].tolist() != a_sample().image[60, 80].tolist()


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
    layer = layer_of(a_sample(boxes_xyxy=((100, 80, 130, 110), (0, 0, 60, 60)), ignored=(False, True)))
    for seed in range(50):
        canvas = VIVID.draw(layer, np.random.default_rng(seed), None)
        x0, y0, x1, y1 = placement(canvas, Stretch(300)).source_xyxy
        assert x0 <= 115 <= x1  # the centre of the first object, up to rounding
        assert y0 <= 95 <= y1


def test_an_image_keeps_its_proportions_where_the_detector_wants_it_and_boxes_follow() -> None:
    sample = a_sample((100, 200), ((0, 0, 50, 50), (100, 50, 200, 100)))
    resized = resize_only(sample, KeepRatio(shortest=50, longest=80))  # the longer side decides: a factor of 0.4
    assert resized.image.shape == (40, 80, 3)
    np.testing.assert_allclose(resized.boxes_xyxy, [[0, 0, 20, 20], [40, 20, 80, 40]])


@pytest.mark.parametrize("seed", range(20))
def test_boxes_follow_their_pixels_in_images_that_keep_their_proportions(seed: int) -> None:
    varied = augment(a_sample(), KeepRatio(100, 180), np.random.default_rng(seed), VIVID)
    assert min(varied.image.shape[:2]) == 100 or max(varied.image.shape[:2]) == 180
    np.testing.assert_allclose(varied.boxes_xyxy[0], red_box(varied.image), atol=2.0)


# --- several layers, and maps of any kind


def test_layers_side_by_side_leave_no_seam() -> None:
    """As a mosaic lays them: four white images around a point, each stretched by its own factors."""
    white = np.full((37, 53, 3), 255, np.uint8)
    layer = Layer(0, (37, 53), layer_of(a_sample(boxes_xyxy=())).objects)
    for seed in range(50):
        x, y = np.random.default_rng(seed).uniform(20, 130, 2).tolist()
        corners = ((0, 0, x, y), (x, 0, 150, y), (0, y, x, 150), (x, y, 150, 150))
        canvas = Canvas(tuple(layer.stretched_to(corner) for corner in corners), (0, 0, 150, 150))
        image, _ = canvas.paint(Stretch(97), (0, 0, 0), lambda _: white)
        assert (image == 255).all()


def test_a_part_of_an_image_is_pasted_over_another_with_its_object() -> None:
    below, above = a_sample((100, 100), ()), a_sample((100, 100), ((50, 50, 70, 70),))
    pasted = replace(layer_of(above), index=1, part_xyxy=(50, 50, 70, 70)).stretched_to((10, 20, 50, 40))
    images = {below.image_index: below.image, 1: above.image}
    canvas = Canvas((layer_of(below), pasted), (0, 0, 100, 100))
    image, objects = canvas.paint(Stretch(100), (0, 0, 0), images.__getitem__)
    assert red_box(image) == [10, 20, 50, 40]
    assert (image[20:40, 10:50] == (250, 10, 10)).all()
    np.testing.assert_array_equal(objects.boxes_xyxy, [[10, 20, 50, 40]])


def test_a_layer_outside_of_the_view_is_left_out_with_its_objects() -> None:
    below, above = a_sample((100, 100), ((0, 0, 50, 50),)), a_sample((100, 100), ((0, 0, 50, 50),))
    beyond = layer_of(above).stretched_to((100, 0, 200, 100))
    canvas = Canvas((layer_of(below), beyond), (0, 0, 100, 100))
    _, objects = canvas.paint(Stretch(100), (0, 0, 0), lambda _: below.image)
    np.testing.assert_array_equal(objects.boxes_xyxy, [[0, 0, 50, 50]])


@dataclass(frozen=True)
class Rotate:
    """Turn what lies on the canvas about the middle of the view: a transform of one's own."""

    degrees: float = setting(30.0, "Largest turn, degrees")

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        angle = math.radians(self.degrees * rng.uniform(-1.0, 1.0))
        x0, y0, x1, y1 = canvas.view_xyxy
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turned = []
        for layer in canvas.layers:
            matrix = turn @ layer.matrix
            matrix[:, 2] += middle - turn @ middle
            turned.append(replace(layer, matrix=matrix))
        return replace(canvas, layers=tuple(turned))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("side", [64, 320])  # smaller and larger than the image
def test_boxes_follow_their_pixels_through_a_rotation_from_outside_of_the_package(seed: int, side: int) -> None:
    rotating = Augmentation((Expand(max=2.0), Rotate(), Flip()))
    sample = a_sample(boxes_xyxy=((70, 50, 100, 80),))
    varied = augment(sample, Stretch(side), np.random.default_rng(seed), rotating)
    np.testing.assert_allclose(varied.boxes_xyxy[0], red_box(varied.image), atol=2.0)


def test_a_quarter_turn_moves_each_pixel_by_hand_arithmetic() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    layer = replace(layer_of(a_sample((40, 40), ())), matrix=np.array([[0.0, -1.0, 40.0], [1.0, 0.0, 0.0]]))
    turned, _ = Canvas((layer,), (0, 0, 40, 40)).paint(Stretch(40), (0, 0, 0), lambda _: image)
    np.testing.assert_array_equal(turned, np.rot90(image, -1))  # (x, y) -> (40 - y, x): clockwise


# --- settings


@pytest.mark.parametrize("augmentation", [SSD_PAPER, FLIP_ONLY, MILD, VIVID, FLIPS_AND_TURNS])
def test_settings_survive_json(augmentation: Augmentation) -> None:
    assert Augmentation.from_dict(json.loads(json.dumps(augmentation.as_dict())), "recipe") == augmentation


def test_the_settings_of_a_file_name_their_transforms() -> None:
    assert FLIPS_AND_TURNS.as_dict() == {
        "fill": [124, 117, 104],
        "order": [],
        "flip": {"probability": 0.5, "vertical_probability": 0.5, "quarter_turn_probability": 0.5},
    }
    assert Augmentation.from_dict({"crop": {"ious": [0.5]}}, "recipe") == Augmentation((Crop(ious=(0.5,)),))


def test_single_settings_are_replaced_and_a_missing_transform_is_added_in_its_place() -> None:
    changed = FLIPS_AND_TURNS.changed({"expand": {"max": 2}, "flip": {"probability": 0.0}, "fill": [0, 0, 0]}, "recipe")
    flip = Flip(probability=0.0, vertical_probability=0.5, quarter_turn_probability=0.5)
    assert changed == Augmentation((Expand(max=2.0), flip), fill=(0, 0, 0))
    assert SSD_PAPER.changed({}, "recipe") == SSD_PAPER


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mixup": {}},
            "unknown transform 'mixup'; expected fill, order, expand, crop, flip, colour, interpolate",
        ),
        (
            {"expand": {"maximum": 2.0}},
            "expand: unknown setting 'maximum'; expected probability, max, max_ratio",
        ),
        ({"expand": {"max": "2"}}, "r.toml: expand: max is '2'; expected a number"),
        ({"fill": [1, 2]}, "r.toml: fill is [1, 2]; expected a list of 3, each a whole number"),
        ({"expand": {"max": 0.5}}, "expand: max is 0.5; expected 1 or more"),
        ({"crop": {"ious": [0.5, 1.5]}}, "crop: ious is (0.5, 1.5); expected 0 to 1"),
        ({"fill": [1, 2, 300]}, "augmentation: fill is (1, 2, 300); expected three levels from 0 to 255"),
    ],
)
def test_a_setting_that_does_not_fit_is_named_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        SSD_PAPER.changed(changes, "r.toml")
    assert str(caught.value).endswith(message)


def test_a_transform_that_no_file_can_name_says_so() -> None:
    with pytest.raises(UserError, match="Rotate has no name; add it to TRANSFORMS"):
        Augmentation((Rotate(),)).as_dict()
    with pytest.raises(UserError, match="Flip, Flip; expected one of each class"):
        Augmentation((Flip(), Flip(probability=0.1)))
