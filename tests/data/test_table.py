from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onestage.data.table import Table, TableBuilder
from onestage.errors import UserError
from onestage.structures import Categories

CATEGORIES = Categories.from_names(("cat", "dog"))


def table(counts: list[int], root: str = "/sets/one", categories: Categories = CATEGORIES) -> Table:
    """Images 0, 1, ... with so many objects; object n of image p is the box (p, n, p + 2, n + 3)."""
    builder = TableBuilder(Path(root), "train", "voc")
    for image, count in enumerate(counts):
        boxes = np.array([(image, n, image + 2, n + 3) for n in range(count)], dtype=float).reshape(-1, 4)
        builder.add(
            path=f"JPEGImages/{image}.jpg",
            image_id=str(image),
            size_hw=(100, 200),
            boxes_xyxy=boxes,
            labels=[n % 2 for n in range(count)],
            ignored=[n == 2 for n in range(count)],
        )
    return builder.build(categories)


def test_objects_are_the_images_own() -> None:
    found = table([2, 0, 3]).objects(2)
    np.testing.assert_array_equal(found.boxes_xyxy, [(2, 0, 4, 3), (2, 1, 4, 4), (2, 2, 4, 5)])
    assert found.labels.tolist() == [0, 1, 0]
    assert found.ignored.tolist() == [False, False, True]
    assert len(table([2, 0, 3]).objects(1).labels) == 0


def test_an_empty_table_has_all_its_arrays() -> None:
    empty = table([])
    assert len(empty) == 0
    assert empty.boxes_xyxy.shape == (0, 4)
    assert empty.first_object.tolist() == [0]
    assert empty.ground_truth().num_images == 0
    assert len(empty.subset(fraction=0.5)) == 0


def test_the_ground_truth_numbers_images_as_rows_and_takes_the_boxes_areas() -> None:
    truth = table([2, 0, 1]).ground_truth()
    assert truth.num_images == 3
    assert truth.image_index.tolist() == [0, 0, 2]
    assert truth.areas.tolist() == [6.0, 6.0, 6.0]


def test_a_subset_by_indices_keeps_each_images_objects() -> None:
    some = table([2, 0, 3]).subset(indices=[2, 0])
    assert [some.image_name(i) for i in range(2)] == ["JPEGImages/2.jpg", "JPEGImages/0.jpg"]
    assert some.first_object.tolist() == [0, 3, 5]
    np.testing.assert_array_equal(some.objects(1).boxes_xyxy, [(0, 0, 2, 3), (0, 1, 2, 4)])


def test_a_subset_by_fraction_or_count_is_always_the_same_and_not_the_first_images() -> None:
    whole = table([1] * 40)
    numbers = [int(name) for name in whole.subset(fraction=0.25).image_ids.tolist()]
    assert len(numbers) == 10
    assert sorted(numbers) == numbers != list(range(10))
    assert [int(name) for name in whole.subset(count=10).image_ids.tolist()] == numbers


@pytest.mark.parametrize(
    "choice", [{}, {"count": 1, "fraction": 0.5}, {"count": 9}, {"fraction": 0.0}, {"fraction": 1.5}]
)
def test_a_subset_that_makes_no_sense_is_refused(choice: dict) -> None:
    with pytest.raises(UserError, match="subset"):
        table([1, 1]).subset(**choice)


def test_joined_tables_have_their_common_folder_and_all_objects() -> None:
    both = table([2, 1], "/sets/one").join(table([0, 3], "/sets/two/deep"))
    assert both.root == Path("/sets")
    assert both.image_path(3) == Path("/sets/two/deep/JPEGImages/1.jpg")
    assert both.first_object.tolist() == [0, 2, 3, 3, 6]
    np.testing.assert_array_equal(both.objects(3).boxes_xyxy[:, 1], [0, 1, 2])


def test_tables_of_other_classes_do_not_join() -> None:
    with pytest.raises(UserError, match="join only sets with one class list"):
        table([1]).join(table([1], categories=Categories.from_names(("dog", "cat"))))


def test_another_class_list_relabels_by_name() -> None:
    longer = Categories.from_names(("bird", "dog", "cat"))
    assert table([2]).with_categories(longer).labels.tolist() == [2, 1]
    with pytest.raises(UserError, match="lacks dog"):
        table([2]).with_categories(Categories.from_names(("cat", "bird")))


def test_a_table_says_in_one_line_what_it_is() -> None:
    expected = "VOC /sets/one, train: 2 images, 4 objects (1 ignored) of 2 classes"
    assert table([3, 1]).describe() == expected


def test_names_that_are_not_ascii_are_kept() -> None:
    builder = TableBuilder(Path("/sets"), "train", "voc")
    builder.add(path="ü/日本.jpg", image_id="日本", size_hw=(1, 1), boxes_xyxy=np.zeros((0, 4)), labels=[], ignored=[])
    built = builder.build(CATEGORIES)
    assert built.image_path(0) == Path("/sets/ü/日本.jpg")
    assert built.image_id(0) == "日本"
