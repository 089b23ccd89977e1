"""Old classes that new data lacks: their objects are found by the trained detector, and ignored or taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from red_box import CATEGORIES, RedBoxDetector, red_box

from onestage.compute.device import choose_compute
from onestage.data.table import Table, TableBuilder
from onestage.errors import UserError
from onestage.postprocess import Selection
from onestage.structures import Categories, Detections, Predictions
from onestage.training.old_classes import find_old_objects, load_old_objects, save_old_objects, united

GREEN = Categories.from_names(["green"])
RED_AT = ((10, 20, 50, 60), (30, 30, 70, 90))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Two images that show a red box each; in the second one the data has an object of another class there."""
    builder = TableBuilder(tmp_path, "train", "voc")
    labelled = (np.array([[0, 0, 9, 9]]), np.array([[31, 30, 70, 90], [80, 80, 99, 99]]))
    for index, (box, boxes_xyxy) in enumerate(zip(RED_AT, labelled, strict=True)):
        Image.fromarray(red_box(100, 100, box)).save(tmp_path / f"{index}.png")
        count = len(boxes_xyxy)
        builder.add(
            path=f"{index}.png",
            image_id=str(index),
            size_hw=(100, 100),
            boxes_xyxy=boxes_xyxy.astype(float),
            labels=[0] * count,
            ignored=[False] * count,
        )
    return builder.build(GREEN)


class RedBoxes(RedBoxDetector):
    """Finds them with this score, if that is above the threshold."""

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def detect(self, predictions: Predictions, selection: Selection, input_hw: tuple[int, int]) -> list[Detections]:
        found = super().detect(predictions, selection, input_hw)
        scored = (replace(one, scores=torch.full_like(one.scores, self.score)) for one in found)
        return [one[one.scores > selection.score_threshold] for one in scored]


def found(table: Table, score: float = 0.9) -> Table:
    categories = united(table.categories, CATEGORIES, {})
    compute = choose_compute("cpu", "fp32")
    return find_old_objects(table, categories, RedBoxes(score), CATEGORIES, compute, lambda images: None)


def test_what_the_detector_hardly_sees_is_background(table: Table) -> None:
    assert len(found(table, score=0.19).labels) == 0


@pytest.mark.parametrize(("score", "ignored"), [(0.9, False), (0.4, True)])
def test_an_old_object_that_nobody_labelled_is_taken_where_it_is_sure_else_ignored(
    table: Table, score: float, ignored: bool
) -> None:
    old = found(table, score)
    assert old.categories.names == ("green", "blue", "red")
    assert old.boxes_xyxy.tolist() == [list(map(float, RED_AT[0]))]  # in the second image the data says what it is
    assert old.labels.tolist() == [2]
    assert old.ignored.tolist() == [ignored]
    whole = table.with_categories(old.categories).with_objects_of(old)
    assert [whole.objects(index).labels.tolist() for index in range(2)] == [[0, 2], [0, 0]]


def test_they_are_read_back_as_they_were_and_for_other_images_refused(table: Table, tmp_path: Path) -> None:
    old = found(table)
    save_old_objects(tmp_path / "old.safetensors", old)
    assert load_old_objects(tmp_path / "old.safetensors", table).digest() == old.digest()
    with pytest.raises(UserError, match="is of other images than those that train now"):
        load_old_objects(tmp_path / "old.safetensors", table.subset(count=1))


def test_classes_that_the_data_has_are_not_there_twice() -> None:
    new, old = Categories((" red", "green"), (7, 9)), Categories.from_names(["blue", "Red", "red"])
    both = united(new, old, {0: 1})
    assert both.names == (" red", "green", "blue", "red")
    assert both.source_ids == (7, 9, 10, 11)
    with pytest.raises(UserError, match="old classes: 'red' would be there twice"):
        united(Categories.from_names(["red"]), old, {0: 1})


def test_objects_of_another_table_come_after_the_own_ones_of_each_image(table: Table) -> None:
    both = table.with_objects_of(table.subset(indices=[0, 1]))
    assert both.first_object.tolist() == [0, 2, 6]
    assert both.boxes_xyxy[:, 0].tolist() == [0, 0, 31, 80, 31, 80]
    assert torch.from_numpy(both.areas).tolist() == pytest.approx([81, 81, 2340, 361, 2340, 361])
