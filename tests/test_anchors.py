from __future__ import annotations

import numpy as np
import pytest
import torch
from ssd300_case import ASPECT_RATIOS, GOLDEN, MAP_SIZES, SIZES, STRIDES, ssd300_anchors
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from onestage.anchors import (
    anchor_coverage,
    anchor_sizes_from_boxes,
    inclusive_pixels,
    level_shapes,
    pyramid_anchors,
    pyramid_shapes,
    pyramid_sizes_from_boxes,
    ssd_anchor_sizes,
    ssd_anchors,
)
from onestage.boxes import cxcywh_to_xyxy

SSD512 = {
    "map_sizes": [(side, side) for side in (64, 32, 16, 8, 4, 2, 1)],
    "strides": [8, 16, 32, 64, 128, 256, 512],
    "aspect_ratios": [(2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)],
}
SIZES_512 = [35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8]

# RetinaNet's (Lin 2017, 4)
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (2.0, 1.0, 0.5)
PYRAMID_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)


def sampled(case: str, output: str) -> tuple[np.ndarray, np.ndarray]:
    with np.load(GOLDEN / case / "outputs.npz") as arrays:
        return arrays[f"{output}_index"], arrays[f"{output}_value"]


@pytest.mark.parametrize("case", ["ssd_pytorch_ssd300_vgg16", "lufficc_ssd300_vgg16"])
def test_ssd300_anchors_equal_the_reference(case: str) -> None:
    index, value = sampled(case, "anchors_cxcywh_normalised")
    anchors = ssd300_anchors()
    assert anchors.shape == (8732, 4)
    np.testing.assert_allclose((anchors / 300).numpy().ravel()[index], value, rtol=0, atol=1e-6)


def test_ssd512_anchors_equal_the_reference() -> None:
    index, value = sampled("lufficc_ssd512_vgg16", "anchors_cxcywh_normalised")
    anchors = ssd_anchors(512, sizes=[*SIZES_512, 537.65], clip="all", **SSD512)
    assert anchors.shape == (24564, 4)
    np.testing.assert_allclose((anchors / 512).numpy().ravel()[index], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [300, 512])
def test_mmdetection_1_orders_its_anchors_alike_and_rounds_them_by_less_than_a_pixel(side: int) -> None:
    index, value = sampled(f"seed_ssd{side}_vgg16", "anchors_xyxy_pixels_legacy")
    if side == 300:
        anchors = ssd_anchors(300, MAP_SIZES, STRIDES, SIZES, ASPECT_RATIOS, clip="none")
    else:
        anchors = ssd_anchors(512, sizes=[*SIZES_512, 537.6], clip="none", **SSD512)
    legacy = cxcywh_to_xyxy(anchors).numpy()
    legacy[:, 2:] -= 1  # inclusive pixels
    assert np.abs(legacy.ravel()[index] - value).max() < 1


def torchvision_anchors(scales: list[float], aspect_ratios: list[list[int]]) -> Tensor:
    generator = DefaultBoxGenerator(aspect_ratios, scales=scales, steps=STRIDES)
    maps = [torch.zeros(1, 1, *size) for size in MAP_SIZES]
    return generator(ImageList(torch.zeros(1, 3, 300, 300), [(300, 300)]), maps)[0]


def test_torchvision_anchors_are_those_whose_sizes_alone_are_clipped() -> None:
    sizes = [21, 45, 99, 153, 207, 261, 315]
    ours = ssd_anchors(300, MAP_SIZES, STRIDES, sizes, ASPECT_RATIOS, clip="sizes")
    theirs = torchvision_anchors([size / 300 for size in sizes], [list(ratios) for ratios in ASPECT_RATIOS])
    assert_close(cxcywh_to_xyxy(ours), theirs, rtol=0.0, atol=1e-4)


def test_one_cell_has_the_square_the_square_between_and_each_ratio_both_ways() -> None:
    anchors = ssd_anchors(100, [(1, 2)], [50], [20, 45], [(4,)], clip="none")
    one_cell = [[25, 25, 20, 20], [25, 25, 30, 30], [25, 25, 40, 10], [25, 25, 10, 40]]
    second = [[75, *rest] for _, *rest in one_cell]
    assert_close(anchors, torch.tensor([*one_cell, *second], dtype=torch.float32))


def test_clipping_bounds_centre_and_size_by_the_input() -> None:
    arguments = (100, [(2, 1)], [80], [90, 160], [()])
    assert_close(ssd_anchors(*arguments, clip="all")[3], torch.tensor([40.0, 100.0, 100.0, 100.0]))
    assert_close(ssd_anchors(*arguments, clip="sizes")[3], torch.tensor([40.0, 120.0, 100.0, 100.0]))
    assert_close(ssd_anchors(*arguments, clip="none")[3], torch.tensor([40.0, 120.0, 120.0, 120.0]))


def test_levels_that_differ_in_number_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ssd_anchors(100, [(1, 1), (1, 1)], [50], [20, 45], [()], clip="none")
    with pytest.raises(ValueError, match="shorter"):
        pyramid_anchors((32, 32), [(4, 4), (2, 2)], (32.0,), SCALES, RATIOS)


@pytest.mark.parametrize(
    ("side", "levels", "fractions", "expected"),
    [
        (300, 6, (0.1, 0.2, 0.88), (30, 60, 111, 162, 213, 264, 315)),
        (512, 7, (0.07, 0.15, 0.9), (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)),
        (300, 6, (0.07, 0.15, 0.87), (21, 45, 99, 153, 207, 261, 315)),
        (512, 7, (0.04, 0.1, 0.9), (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)),
    ],
    ids=["VOC 300", "VOC 512", "COCO 300", "COCO 512"],
)
def test_the_linear_rule_gives_the_released_sizes(side, levels, fractions, expected) -> None:
    assert ssd_anchor_sizes(side, levels, *fractions) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "box_sizes",
    [
        np.zeros((0, 2)),
        np.full((1, 2), 40.0),
        np.full((50, 2), 300.0),
        np.full((50, 2), 0.5),
        np.array([[np.nan, 3.0], [0.0, 10.0], [20.0, 30.0]]),
        np.random.default_rng(0).uniform(2, 300, (500, 2)),
    ],
    ids=["none", "one", "all as large as the image", "all below a pixel", "some unusable", "many"],
)
@pytest.mark.parametrize(("side", "levels"), [(300, 6), (512, 7)])
def test_sizes_from_boxes_increase_and_stay_near_the_image(box_sizes, side: int, levels: int) -> None:
    sizes = np.array(anchor_sizes_from_boxes(box_sizes, side, levels))
    assert len(sizes) == levels + 1
    assert (np.diff(sizes) > 0).all()
    assert sizes[0] >= 0.03 * min(side, 320)
    assert sizes[-1] <= 1.06 * side


def test_sizes_without_boxes_are_the_papers() -> None:
    assert anchor_sizes_from_boxes(np.zeros((0, 2)), 300, 6) == pytest.approx(SIZES)


def test_small_boxes_get_smaller_anchors_than_the_papers_and_are_covered() -> None:
    box_sizes = np.random.default_rng(0).uniform(10, 20, (200, 2))
    sizes = anchor_sizes_from_boxes(box_sizes, 300, 6)
    assert 10 < sizes[0] < 15
    assert anchor_coverage(box_sizes, level_shapes(sizes, ASPECT_RATIOS)) > 0.95
    assert anchor_coverage(box_sizes, level_shapes(SIZES, ASPECT_RATIOS)) < 0.1


def test_coverage_counts_the_boxes_whose_shape_an_anchor_meets() -> None:
    box_sizes_hw = np.array([[10.0, 20.0], [20.0, 10.0], [10.0, 10.0], [40.0, 2.0]])
    # squares of 14.14 and 20: IoU 0.55 with 10x20 (141.4 / 258.6), 0.5 with 10x10 (100 / 200), less with 40x2
    assert anchor_coverage(box_sizes_hw, level_shapes([14.142, 28.29], [()])) == 0.75
    assert anchor_coverage(box_sizes_hw, level_shapes([14.142, 28.29], [(2,)]), iou_threshold=0.9) == 0.5


def test_nothing_to_cover_is_covered() -> None:
    assert anchor_coverage(np.zeros((0, 2)), level_shapes(SIZES, ASPECT_RATIOS)) == 1.0
    assert anchor_coverage(np.array([[0.0, 0.0], [np.nan, 5.0]]), level_shapes(SIZES, ASPECT_RATIOS)) == 1.0


def test_the_pyramids_shapes_have_one_area_a_scale_and_come_wide_first() -> None:
    shapes = pyramid_shapes(32, (1.0, 2.0), (4.0, 1.0))
    assert shapes == [(64, 16), (128, 32), (32, 32), (64, 64)]


def test_a_pyramids_anchors_lie_on_the_centres_of_their_cells() -> None:
    anchors = pyramid_anchors((16, 24), [(2, 3), (1, 2)], (10.0, 20.0), (1.0,), (1.0,))
    first = [[4, 4, 10, 10], [12, 4, 10, 10], [20, 4, 10, 10], [4, 12, 10, 10], [12, 12, 10, 10], [20, 12, 10, 10]]
    assert_close(anchors, torch.tensor([*first, [8, 8, 20, 20], [24, 8, 20, 20]], dtype=torch.float32))


def test_the_cornered_style_is_half_a_cell_up_and_left_of_the_centred_one() -> None:
    maps, arguments = [(4, 5), (2, 3)], ((10.0, 20.0), SCALES, RATIOS)
    centred, cornered = (pyramid_anchors((32, 40), maps, *arguments, style=s) for s in ("centred", "cornered"))
    moved = centred - cornered
    assert_close(moved[: 20 * 9], torch.tensor([4.0, 4, 0, 0]).expand(20 * 9, 4))
    assert_close(moved[20 * 9 :], torch.tensor([8.0, 8, 0, 0]).expand(6 * 9, 4))


@pytest.mark.parametrize("input_hw", [(320, 320), (320, 480), (800, 1088)])
def test_torchvisions_style_is_torchvisions(input_hw: tuple[int, int]) -> None:
    map_sizes = [(-(-input_hw[0] // s), -(-input_hw[1] // s)) for s in (8, 16, 32, 64, 128)]
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    maps = [torch.zeros(1, 1, *size) for size in map_sizes]
    expected = generator(ImageList(torch.zeros(1, 3, *input_hw), [input_hw]), maps)[0]
    found = pyramid_anchors(input_hw, map_sizes, PYRAMID_SIZES, SCALES, RATIOS, style="torchvision")
    assert_close(cxcywh_to_xyxy(found), expected, rtol=0.0, atol=1e-3)


def test_inclusive_pixels_by_hand() -> None:
    # A box of 5 x 4 pixels on (2, 3): inclusive corners -0.5, 1, 4.5 - 1, 5 - 1; ties go to even.
    boxes = torch.tensor([[-0.5, 1.0, 4.5, 5.0]])
    assert inclusive_pixels(boxes).tolist() == [[0.0, 1.0, 5.0, 5.0]]


def test_pyramid_sizes_follow_the_boxes_only_where_another_multiple_meets_more() -> None:
    strides = (8, 16, 32, 64, 128)
    assert pyramid_sizes_from_boxes(np.zeros((0, 2)), strides, SCALES, RATIOS) == PYRAMID_SIZES
    assert pyramid_sizes_from_boxes(np.full((9, 2), 100.0), strides, SCALES, RATIOS) == PYRAMID_SIZES
    small = pyramid_sizes_from_boxes(np.full((9, 2), 16.0), strides, SCALES, RATIOS)  # 32 x 32 has an IoU of 0.25
    assert small[0] < 32
    assert small == tuple(small[0] / 8 * stride for stride in strides)
