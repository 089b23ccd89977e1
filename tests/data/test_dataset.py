"""Which kind a folder is, which splits it has, and folders joined with `+`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import voc_xml, write_coco_folder, write_image, write_voc_folder

from onestage.data import Splits, choose_splits, dataset_kind, dataset_roots, read_dataset, validate_images
from onestage.errors import UserError
from onestage.structures import Categories

CAT, DOG = ("cat", 1, 1, 20, 20), ("dog", 5, 5, 30, 30)
EMPTY_COCO = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}


def coco(*names: str) -> dict:
    images = [{"id": n, "file_name": name, "height": 60, "width": 80} for n, name in enumerate(names)]
    return EMPTY_COCO | {"images": images}


def add_voc_splits(root: Path, *splits: str) -> Path:
    write_voc_folder(root, {"a": voc_xml([CAT])}, split=splits[0])
    for split in splits[1:]:
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("a\n")
    return root


def test_the_kind_is_found_out(tmp_path: Path) -> None:
    write_voc_folder(tmp_path / "voc", {"a": voc_xml()})
    write_coco_folder(tmp_path / "coco", coco("a.jpg"))
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    assert [dataset_kind(tmp_path / kind) for kind in ("voc", "coco", "yolo")] == ["voc", "coco", "yolo"]
    with pytest.raises(UserError, match=r"not a data set; expected Annotations and JPEGImages \(VOC\)"):
        dataset_kind(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read_dataset(tmp_path / "none", "train")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("trainval", "test", "train", "val"), Splits("trainval", "test")),
        (("train", "val"), Splits("train", "val")),
        (("trainval", "train", "val"), Splits("train", "val")),
        (("train", "test"), Splits("train", "test")),
    ],
)
def test_splits_are_chosen_so_that_none_tests_what_it_trained_on(names, expected, tmp_path: Path) -> None:
    assert choose_splits(add_voc_splits(tmp_path, *names)) == expected


def test_a_single_split_trains_and_tests_and_says_so(tmp_path: Path) -> None:
    write_coco_folder(tmp_path, coco("a.jpg"))
    splits = choose_splits(tmp_path)
    assert (splits.train, splits.test) == ("train2017", "train2017")
    assert "only the split train2017: it trains and tests" in splits.note


def test_a_validation_part_of_the_training_set_is_said_to_flatter(tmp_path: Path) -> None:
    splits = choose_splits(add_voc_splits(tmp_path, "trainval", "val"))
    assert (splits.train, splits.test) == ("trainval", "val")
    assert "val is part of trainval" in splits.note


def test_splits_of_unknown_names_ask_for_a_choice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which split trains"):
        choose_splits(add_voc_splits(tmp_path, "odd", "even"))
    single = choose_splits(add_voc_splits(tmp_path / "one", "whole"))
    assert (single.train, single.test) == ("whole", "whole")


def test_coco_years_are_chosen_and_may_be_left_out_of_a_name(tmp_path: Path) -> None:
    for split in ("train2014", "train2017", "val2017"):
        write_coco_folder(tmp_path, coco("a.jpg"), split)
    assert choose_splits(tmp_path) == Splits("train2017", "val2017")
    assert read_dataset(tmp_path, "val")[0].split == "val2017"
    with pytest.raises(UserError, match="no split train; there is train2014, train2017, val2017"):
        read_dataset(tmp_path, "train")


def test_voc_years_are_joined_below_their_common_folder(tmp_path: Path) -> None:
    add_voc_splits(tmp_path / "VOC2007", "trainval", "test")
    write_voc_folder(tmp_path / "VOC2012", {"b": voc_xml([DOG, CAT])}, split="trainval")
    table, problems = read_dataset(f"{tmp_path}/VOC2007+VOC2012", "trainval")
    assert problems == []
    assert table.root == tmp_path
    assert table.categories.names == ("cat", "dog")
    assert table.labels.tolist() == [0, 1, 0]
    assert [table.image_name(i) for i in range(2)] == ["VOC2007/JPEGImages/a.jpg", "VOC2012/JPEGImages/b.jpg"]
    np.testing.assert_array_equal(table.first_object, [0, 1, 3])
    assert validate_images(table) == []


def test_a_year_without_the_split_is_reported(tmp_path: Path) -> None:
    add_voc_splits(tmp_path / "VOC2007", "trainval", "test")
    add_voc_splits(tmp_path / "VOC2012", "trainval")
    spec = f"{tmp_path}/VOC2007+VOC2012"
    assert choose_splits(spec) == Splits("trainval", "test")
    table, problems = read_dataset(spec, "test")
    assert len(table) == 1
    assert [(problem.kind, problem.severity) for problem in problems] == [("split", "notice")]
    with pytest.raises(UserError, match="none of its folders has the split nothing"):
        read_dataset(spec, "nothing")


def test_problems_of_joined_sets_name_their_folder(tmp_path: Path) -> None:
    write_voc_folder(tmp_path / "one", {"a": voc_xml([CAT])})
    write_voc_folder(tmp_path / "two", {"a": voc_xml([CAT, ("cat", 9, 9, 3, 3)])})
    _, problems = read_dataset(f"{tmp_path}/one+two", "train")
    assert [problem.file for problem in problems] == ["two/Annotations/a.xml"]


def test_a_folder_whose_name_has_a_plus_is_one_folder(tmp_path: Path) -> None:
    (tmp_path / "a+b").mkdir()
    assert dataset_roots(tmp_path / "a+b") == [tmp_path / "a+b"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a+b").rmdir()
    assert dataset_roots(f"{tmp_path}/a+{tmp_path}/b") == [tmp_path / "a", tmp_path / "b"]


def test_a_set_in_which_nothing_is_usable_stops_and_says_why(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": "<html/>"})
    with pytest.raises(UserError, match=r"no usable image in it.*Annotations/a\.xml: the outer element is"):
        read_dataset(tmp_path, "train")


def test_a_models_classes_are_held_against_the_data(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT, DOG])})
    table, problems = read_dataset(tmp_path, "train", Categories.from_names(("dog", "bird")))
    assert table.categories.names == ("dog", "bird")
    assert table.labels.tolist() == [0]
    assert [problem.kind for problem in problems] == ["class"]


def test_yolo_splits_are_chosen_too(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: images/train\nval: images/val\n")
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / "a.png")
    assert choose_splits(tmp_path) == Splits("train", "val")
    assert read_dataset(tmp_path, "val")[0].describe().startswith("YOLO")
