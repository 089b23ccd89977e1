"""The made recipe in few minutes. Expected values: by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from onestage.data.table import Table, TableBuilder
from onestage.jobs import minutes
from onestage.jobs.minutes import WANTED_IMAGES, WANTED_STEPS, fitted_to_minutes
from onestage.structures import Categories
from onestage.training.recipe import Recipe

assert (WANTED_IMAGES, WANTED_STEPS) == (7_500, 1_000)
GFL, SSD = "gfl-test_efficientnet", "ssd300-test_efficientnet"


def table_of(folder: Path, object_side: float) -> Table:
    """An image of 640 x 640 pixels with a square object."""
    builder = TableBuilder(folder, "train", "voc")
    box = np.array([[0.0, 0.0, object_side, object_side]], dtype=np.float32)
    builder.add(path="a.jpg", image_id="a", size_hw=(640, 640), boxes_xyxy=box, labels=[0], ignored=[False])
    return builder.build(Categories.from_names(["cat"]))


def fitted(
    folder: Path,
    detector: str,
    images_a_second: float,
    *,
    minutes_of_run: float | None = 5.0,
    object_side: float = 200.0,
    asked: tuple[str, ...] = (),
) -> tuple[dict[str, Any], list[str]]:
    """What becomes of a recipe with batches of 16 where a step takes so long, and what is said of it."""
    recipe = Recipe(detector, batch_size=16, optimizer="adamw", learning_rate=0.002)
    lines: list[str] = []
    with mock.patch.object(minutes, "seconds_of_a_step", return_value=16 / images_a_second):
        table = table_of(folder, object_side)
        changes = fitted_to_minutes(
            recipe, minutes=minutes_of_run, table=table, device="cpu", asked=asked, say=lines.append
        )
    return changes, lines


def test_a_run_that_sees_enough_stays_as_it_is(tmp_path: Path) -> None:
    assert fitted(tmp_path, GFL, 54.0) == ({}, [])  # 16,200 images in 1,012 steps
    assert fitted(tmp_path, GFL, 1.0, minutes_of_run=None) == ({}, [])  # it counts steps or epochs


def test_a_smaller_input_lets_more_images_through_and_smaller_batches_more_steps(tmp_path: Path) -> None:
    # 4,500 images at 320; at 256 7,031, at 224 9,184: 574 steps of 16, 1,148 of 8
    changes, lines = fitted(tmp_path, GFL, 15.0)
    assert changes == {"image_size": 224, "batch_size": 8, "learning_rate": pytest.approx(0.002 * 0.5**0.5, abs=1e-6)}
    assert len(lines) == 1
    assert "5 minutes are some 4,500 images here" in lines[0]
    assert "224 x 224, not 320 x 320" in lines[0]
    assert "9,184 in 1,148 steps" in lines[0]


def test_the_input_is_no_smaller_than_the_least_and_keeps_small_objects_within_reach(tmp_path: Path) -> None:
    assert fitted(tmp_path, GFL, 1.0)[0]["image_size"] == 192
    # 1.5 times 16 px in an input of 256: 60 px of 640; at 224 they would be 21 px
    assert fitted(tmp_path, GFL, 1.0, object_side=60.0)[0]["image_size"] == 256
    assert "image_size" not in fitted(tmp_path, GFL, 1.0, object_side=20.0)[0]


def test_an_ssd_keeps_its_input(tmp_path: Path) -> None:
    assert fitted(tmp_path, SSD, 1.0)[0].keys() == {"batch_size", "learning_rate"}


def test_what_the_user_asks_for_stays(tmp_path: Path) -> None:
    assert fitted(tmp_path, GFL, 15.0, asked=("batch_size",)) == ({}, [])
    changes, _ = fitted(tmp_path, GFL, 15.0, asked=("image_size",))
    assert changes.keys() == {"batch_size", "learning_rate"}
