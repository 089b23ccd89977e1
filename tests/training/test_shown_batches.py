"""`batches.png`. Expected places: by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from onestage.drawing import FIRST_COLORS
from onestage.structures import Batch, Targets
from onestage.training.shown_batches import CELL, GAP, ShownBatches

SIDE = CELL + GAP


def batch_of(count: int, size_hw: tuple[int, int]) -> Batch:
    """Black images, each with an object of the second class in the middle half of its width and height."""
    height, width = size_hw
    box = torch.tensor([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]])
    targets = Targets(box, torch.tensor([1]), torch.tensor([False]))
    images = torch.zeros(count, 3, height, width, dtype=torch.uint8)
    return Batch(images, [targets] * count, torch.arange(count))


def test_the_first_sixteen_images_are_shown_with_their_boxes_whatever_the_batches(tmp_path: Path) -> None:
    shown = ShownBatches(tmp_path / "batches.png", ["cat", "dog"])
    shown.add(batch_of(3, (200, 200)))
    image = cv2.imread(str(tmp_path / "batches.png"))
    assert image.shape == (SIDE, 4 * SIDE, 3)
    assert (image[:, 3 * SIDE :] == 255).all()  # of the first row only three are there yet
    shown.add(batch_of(20, (300, 600)))
    shown.add(batch_of(1, (200, 200)))
    image = cv2.imread(str(tmp_path / "batches.png"))[..., ::-1]
    assert image.shape == (4 * SIDE, 4 * SIDE, 3)
    for row, column, size_wh in ((0, 0, (400, 400)), (0, 3, (400, 200)), (3, 3, (400, 200))):
        cell = image[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        assert (cell[: size_wh[1], : size_wh[0]] != 255).any(axis=2).all()  # the image,
        assert (cell[size_wh[1] :] == 255).all()  # and white around it
        ys, xs = np.nonzero((cell == FIRST_COLORS[1]).all(axis=2))
        assert xs.min() == pytest.approx(size_wh[0] / 4, abs=2)
        assert xs.max() == pytest.approx(3 * size_wh[0] / 4, abs=2)
        assert ys.max() == pytest.approx(3 * size_wh[1] / 4, abs=2)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "batches.png").write_bytes(b"of the start")
    ShownBatches(tmp_path / "batches.png", []).add(batch_of(16, (8, 8)))
    assert (tmp_path / "batches.png").read_bytes() == b"of the start"
    ShownBatches(None, []).add(batch_of(16, (8, 8)))  # another rank writes
