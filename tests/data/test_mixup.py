"""Mixup, an augmentation of several images, added from outside of the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from data.test_loader import a_table, assert_same, train

from onestage.data.augmentation import TRANSFORMS, Augmentation
from onestage.data.augmentation.canvas import Canvas, Layer
from onestage.data.augmentation.presets import SSD_PAPER
from onestage.data.loader import epoch_order, training_loader
from onestage.data.table import Table, TableBuilder
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Stretch
from onestage.settings import setting
from onestage.structures import Categories


@dataclass(frozen=True)
class MixUp:
    """Blend another image into what is shown, with its objects (Zhang 2018, arXiv 1710.09412)."""

    probability: float = setting(0.5, "Chance that another image is blended in")
    weight: float = setting(0.25, "Weight of the other image in the mean")

    def __call__(self, canvas: Canvas, rng: np.random.Generator, other: Callable[[], Layer]) -> Canvas:
        if rng.random() >= self.probability:
            return canvas
        layer = replace(other().stretched_to(canvas.view_xyxy), opacity=self.weight)
        return replace(canvas, layers=(*canvas.layers, layer))


@pytest.fixture(autouse=True)
def _mixup_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSFORMS, "mixup", MixUp)


def plain_images(root: Path) -> Table:
    """Two images of one level each: 100, 60x40 pixels, and 200, 50x48; in each an object at its upper left."""
    builder = TableBuilder(root, "train", "voc")
    for index, (level, size_hw) in enumerate([(100, (40, 60)), (200, (48, 50))]):
        cv2.imwrite(str(root / f"{index}.png"), np.full((*size_hw, 3), level, np.uint8))
        boxes_xyxy = np.array([[0, 0, 30, 24]], dtype=np.float32)
        builder.add(
            path=f"{index}.png",
            image_id=str(index),
            size_hw=size_hw,
            boxes_xyxy=boxes_xyxy,
            labels=[index],
            ignored=[False],
        )
    return builder.build(Categories.from_names(["cat", "dog"]))


def test_pixels_are_the_mean_and_the_objects_of_both_images_stay(tmp_path: Path) -> None:
    table, mixing = plain_images(tmp_path), Augmentation((MixUp(probability=1.0),))
    loader = training_loader(table, resize=Stretch(32), augmentation=mixing, batch_size=2, seed=3)
    batches = list(islice(loader, 8))
    loader.close()
    boxes_xyxy = [[0, 0, 16, 19.2], [0, 0, 19.2, 16]]  # 30 of 60 and 24 of 40 pixels; 30 of 50 and 24 of 48
    # the level, by the image and the one that is blended in: 3/4 of the first, 1/4 of the second
    levels = {(0, 0): 100, (0, 1): 125, (1, 0): 175, (1, 1): 200}
    seen = set()
    for epoch, batch in enumerate(batches):
        for place, sample in enumerate(epoch_order(table, 1, 3, epoch).tolist()):
            rng = np.random.default_rng((3, epoch, sample))
            rng.random()  # the chance
            other = int(rng.integers(2))
            assert batch.image_indices[place] == sample
            assert (batch.images[place] == levels[sample, other]).all()
            assert batch.targets[place].labels.tolist() == [sample, other]
            expected = torch.tensor([boxes_xyxy[sample], boxes_xyxy[other]])
            torch.testing.assert_close(batch.targets[place].boxes_xyxy, expected)
            seen.add((sample, other))
    assert seen == set(levels)


def test_it_is_a_setting_of_recipes_like_the_others() -> None:
    mixing = SSD_PAPER.changed({"mixup": {"weight": 0.5}}, "recipe")
    assert mixing.transforms == (*SSD_PAPER.transforms, MixUp(weight=0.5))
    assert mixing.as_dict()["mixup"] == {"probability": 0.5, "weight": 0.5}
    assert Augmentation.from_dict(mixing.as_dict(), "recipe") == mixing
    with pytest.raises(UserError, match="recipe: mixup: weight is 'half'; expected a number"):
        SSD_PAPER.changed({"mixup": {"weight": "half"}}, "recipe")


def test_neither_workers_nor_ranks_nor_a_resume_change_a_batch(tmp_path: Path) -> None:
    table, mixing = a_table(tmp_path), Augmentation((*SSD_PAPER.transforms, MixUp()))
    settings = {"augmentation": mixing, "resize": KeepRatio(32, 64)}
    whole = train(table, 4, **settings)
    assert_same(whole, train(table, 4, **settings, workers=2, start_method="fork"))
    assert_same(whole[3:], train(table, 1, **settings, start=(1, 1)))
    first, second = (train(table, 4, **settings, shard=(rank, 2)) for rank in (0, 1))
    for one, other, both in zip(first, second, whole, strict=True):
        assert torch.equal(torch.stack([one.images[0], other.images[0], one.images[1]]), both.images)


def test_another_image_of_a_wrong_size_is_named_in_one_line(tmp_path: Path) -> None:
    table, mixing = plain_images(tmp_path), Augmentation((MixUp(probability=1.0),))
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((50, 48, 3), np.uint8))
    with pytest.raises(UserError, match=r"1\.png: the image is 48x50, its annotation says 50x48; correct it"):
        train(table, 20, augmentation=mixing, batch_size=1)
