"""Inputs below a detector's usual one. Expected values: by hand."""

from pathlib import Path

import numpy as np
import pytest

from onestage.data.table import Table, TableBuilder
from onestage.detectors import detector_config
from onestage.recipes.smaller_inputs import input_of_small_images, smaller_inputs
from onestage.structures import Categories

GFL = detector_config("gfl-test_efficientnet")


def table_of(folder: Path, side: int, object_side: float | None) -> Table:
    """A square image with at most one square object."""
    builder = TableBuilder(folder, "train", "voc")
    boxes = np.array([] if object_side is None else [[0.0, 0.0, object_side, object_side]], dtype=np.float32)
    labels, ignored = [0] * len(boxes), [False] * len(boxes)
    boxes_xyxy = boxes.reshape(-1, 4)
    builder.add(path="a", image_id="a", size_hw=(side, side), boxes_xyxy=boxes_xyxy, labels=labels, ignored=ignored)
    return builder.build(Categories.from_names(["cat"]))


@pytest.mark.parametrize(
    ("object_side", "sides"),
    [
        (0.5, [288, 256, 224, 192]),
        (24 / 250, [288, 256]),  # 24 px in an input of 250: 1.5 times the 16 that two cells of stride 8 have
        (24 / 320, []),
        (None, []),
    ],
)
def test_objects_stay_large_enough(object_side: float | None, sides: list[int], tmp_path: Path) -> None:
    table = table_of(tmp_path, 1000, None if object_side is None else 1000 * object_side)
    assert list(smaller_inputs(table, GFL)) == sides


@pytest.mark.parametrize("name", ["ssd300-test_efficientnet", "m2det320-vgg16", "retinanet-resnet50"])
def test_detectors_whose_input_can_not_shrink_keep_it(name: str, tmp_path: Path) -> None:
    assert list(smaller_inputs(table_of(tmp_path, 1000, 500.0), detector_config(name))) == []


def test_small_images_are_enlarged_to_the_next_input_only(tmp_path: Path) -> None:
    config, reasons = input_of_small_images(table_of(tmp_path, 200, 60.0), GFL)
    assert config == GFL.adjusted({"image_size": 224})
    assert reasons == ["input of 224 x 224, not 320 x 320: enough for images of 200 px"]
    assert input_of_small_images(table_of(tmp_path, 224, 60.0), GFL)[0] == GFL.adjusted({"image_size": 224})
    assert input_of_small_images(table_of(tmp_path, 100, 30.0), GFL)[0] == GFL.adjusted({"image_size": 192})
    for side in (320, 640):
        assert input_of_small_images(table_of(tmp_path, side, side / 3), GFL) == (GFL, [])
