"""The one pass of augmentation equals its choices applied one after another, for any choices."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onestage.data.augmentation import Augmentation, Crop, Expand, Flip, augment
from onestage.data.augmentation.canvas import Canvas, Layer, Placement
from onestage.data.table import Objects
from onestage.input_size import KeepRatio, Resize, Stretch
from onestage.structures import Sample

WILD = Augmentation((Expand(), Crop(), Flip(vertical_probability=0.5, quarter_turn_probability=0.5)))


def smooth_image(size_hw: tuple[int, int], seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


def step_by_step(
    image: np.ndarray, canvas: Canvas, placement: Placement, resize: Resize, fill: tuple[int, int, int]
) -> np.ndarray:
    """Expand on a large canvas, crop it, resize it, turn it, flip it: each a step of its own, by plain means.

    What reaches beyond the image is found from the map alone: the corners of the input, put back into the image.
    """
    height, width = canvas.view_hw(resize)
    (scale_x, scale_y), (shift_x, shift_y) = placement.matrix.diagonal(), placement.matrix[:, 2]
    x0, y0 = -shift_x / scale_x, -shift_y / scale_y
    x1, y1 = x0 + width / scale_x, y0 + height / scale_y
    finer = 4  # the canvas has four pixels a pixel, so that its crop falls on whole ones within an eighth
    margin_x = finer * round(max(0.0, -x0, x1 - image.shape[1]) + 2)
    margin_y = finer * round(max(0.0, -y0, y1 - image.shape[0]) + 2)
    fine = cv2.resize(image, None, fx=finer, fy=finer, interpolation=cv2.INTER_LINEAR)
    ground = np.empty((fine.shape[0] + 2 * margin_y, fine.shape[1] + 2 * margin_x, 3), dtype=np.uint8)
    ground[:] = fill
    ground[margin_y : margin_y + fine.shape[0], margin_x : margin_x + fine.shape[1]] = fine
    rows = slice(round(finer * y0) + margin_y, round(finer * y1) + margin_y)
    columns = slice(round(finer * x0) + margin_x, round(finer * x1) + margin_x)
    result = cv2.resize(ground[rows, columns], (width, height), interpolation=cv2.INTER_AREA)
    if canvas.transpose:
        result = result.transpose(1, 0, 2)
    if canvas.mirror:
        result = result[:, ::-1]
    if canvas.upside_down:
        result = result[::-1]
    return result


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(40, 200),
    width=st.integers(40, 200),
    resize=st.sampled_from([Stretch(64), Stretch(100), Stretch(160), KeepRatio(64, 100), KeepRatio(100, 400)]),
)
def test_one_warp_equals_the_same_choices_applied_one_after_another(
    seed: int, height: int, width: int, resize: Resize
) -> None:
    image = smooth_image((height, width), seed)
    box_xyxy = np.array([[0.2 * width, 0.3 * height, 0.7 * width, 0.8 * height]], dtype=np.float32)
    layer = Layer(0, (height, width), Objects(box_xyxy, np.zeros(1, np.int64), np.zeros(1, np.bool_)))
    canvas = WILD.draw(layer, np.random.default_rng(seed), None)
    (placement,) = canvas.placements(resize)
    assert placement is not None
    once = canvas.paint(resize, WILD.fill, lambda _: image)[0].astype(int)
    stepwise = step_by_step(image, canvas, placement, resize, WILD.fill).astype(int)
    difference = np.abs(once - stepwise).max(axis=-1)
    # a pixel on the image's edge may be image in one and fill in the other
    tx0, ty0, tx1, ty1 = placement.target_xyxy
    edge = np.zeros(canvas.view_hw(resize), dtype=bool)
    edge[max(ty0 - 1, 0) : ty1 + 1, max(tx0 - 1, 0) : tx1 + 1] = True
    edge[ty0 + 1 : ty1 - 1, tx0 + 1 : tx1 - 1] = False
    edge = edge.T if canvas.transpose else edge
    edge = edge[:, ::-1] if canvas.mirror else edge
    edge = edge[::-1] if canvas.upside_down else edge
    input_pixel = 1 / min(abs(placement.matrix[:, :2]).max(axis=1))  # in pixels of the image
    assert difference[~edge].max(initial=0) <= 4 + 0.5 * max_step(image) * max(1.0, input_pixel)
    assert difference[~edge].sum() <= 3 * difference[~edge].size


def max_step(image: np.ndarray) -> float:
    """The largest difference of neighbouring pixels: interpolation may be off by a half of it."""
    pixels = image.astype(int)
    return float(max(np.abs(np.diff(pixels, axis=axis)).max(initial=0) for axis in (0, 1)))


@given(seed=st.integers(0, 10**6), count=st.integers(0, 12))
def test_augmented_boxes_are_within_the_image_and_not_empty(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 90, (count, 2))
    boxes_xyxy = np.concatenate([start, start + rng.uniform(1, 10, (count, 2))], axis=1).astype(np.float32)
    sample = Sample(
        np.zeros((100, 100, 3), np.uint8), boxes_xyxy, np.arange(count, dtype=np.int64), rng.random(count) < 0.2, 0
    )
    varied = augment(sample, Stretch(50), rng, WILD)
    assert len(varied.labels) == len(varied.boxes_xyxy) == len(varied.ignored) <= count
    assert varied.boxes_xyxy.min(initial=0) >= 0
    assert varied.boxes_xyxy.max(initial=0) <= 50
    assert (varied.boxes_xyxy[:, 2:] > varied.boxes_xyxy[:, :2]).all()
    np.testing.assert_array_equal(varied.ignored, sample.ignored[varied.labels])
    if (~sample.ignored).any():
        assert len(varied.labels) >= 1
