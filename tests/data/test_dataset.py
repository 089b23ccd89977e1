"""Which kind a folder is, which splits it has, and folders joined with `+`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import voc_xml, write_coco_folder, write_image, write_voc_folder
from PIL import Image

from onestage.data import (
    Splits,
    choose_splits,
    dataset_name,
    dataset_roots,
    find_datasets,
    read_dataset,
    validate_images,
)
from onestage.data.splits import splits_of_joined
from onestage.data_options import DataOptions
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
    write_image(tmp_path / "yolo" / "images" / "a.jpg")
    assert [find_datasets(tmp_path / kind)[0].kind for kind in ("voc", "coco", "yolo")] == ["voc", "coco", "yolo"]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none: the folder is empty"):
        find_datasets(tmp_path / "none")
    with pytest.raises(UserError, match="no such folder"):
        read_dataset(tmp_path / "missing", "train")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("trainval", "test", "train", "val"), Splits("train", "val", "test")),
        (("Train", "valid", "Test"), Splits("Train", "valid", "Test")),
        (("train", "val"), Splits("train", "val", "val")),
        (("trainval", "train", "val"), Splits("train", "val", "val")),
        (("train", "test"), Splits("train:kept", "train:held-out", "test")),
        (("trainval", "test"), Splits("trainval:kept", "trainval:held-out", "test")),
        (("train",), Splits("train:kept", "train:held-out", "train:held-out")),
    ],
)
def test_splits_are_chosen_so_that_none_tests_what_it_trained_on(names, expected, tmp_path: Path) -> None:
    assert choose_splits(add_voc_splits(tmp_path, *names)) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("trainval", "test", "train", "val"), Splits("trainval", "test", "test")),
        (("train", "val"), Splits("train", "val", "val")),
        (("train",), Splits("train:kept", "train:held-out", "train:held-out")),
    ],
)
def test_the_papers_protocol_trains_on_all_images_that_do_not_test(names, expected, tmp_path: Path) -> None:
    assert choose_splits(add_voc_splits(tmp_path, *names), hold_out=False) == expected


def test_a_validation_part_of_the_training_set_is_said_to_flatter(tmp_path: Path) -> None:
    splits = choose_splits(add_voc_splits(tmp_path, "trainval", "val"))
    assert (splits.train, splits.test) == ("trainval", "val")
    assert "val is part of trainval" in splits.note


def test_splits_of_unknown_names_ask_for_a_choice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which split trains"):
        choose_splits(add_voc_splits(tmp_path, "odd", "even"))
    single = choose_splits(add_voc_splits(tmp_path / "one", "whole"))
    assert (single.train, single.test) == ("whole:kept", "whole:held-out")


@pytest.mark.parametrize(
    ("names", "evaluated"),
    [(["test"], "test"), (["whole"], "whole:held-out"), (["trainval", "test"], "test"), (["train", "val"], "val")],
)
def test_a_model_is_measured_on_the_whole_test_split_even_if_it_is_the_only_one(
    tmp_path: Path, names: list[str], evaluated: str
) -> None:
    assert choose_splits(add_voc_splits(tmp_path, *names)).evaluated == evaluated


def test_coco_years_are_chosen_and_may_be_left_out_of_a_name(tmp_path: Path) -> None:
    for split in ("train2014", "train2017", "val2017"):
        write_coco_folder(tmp_path, coco("a.jpg"), split)
    assert choose_splits(tmp_path) == Splits("train2017", "val2017", "val2017")
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
    assert choose_splits(spec) == Splits("trainval:kept", "trainval:held-out", "test")
    table, problems = read_dataset(spec, "test")
    assert len(table) == 1
    assert [(problem.kind, problem.severity) for problem in problems] == [("split", "notice")]
    with pytest.raises(UserError, match="none of its folders has the split nothing"):
        read_dataset(spec, "nothing")


@pytest.mark.parametrize(
    ("splits", "taken"),
    [
        (("train", "val", "test"), "trainval"),  # photos with splits, beside what `predict --write voc` wrote
        (("trainval", "test"), "train"),
        (("trainval",), "all"),
    ],
)
def test_a_joined_folder_trains_with_what_it_has(splits: tuple[str, ...], taken: str, tmp_path: Path) -> None:
    add_voc_splits(tmp_path / "photos", *splits)
    if taken == "all":
        write_coco_folder(tmp_path / "more", coco("b.jpg"), split="")
    else:
        write_voc_folder(tmp_path / "more", {"b": voc_xml([DOG])}, split=taken)

    for spec in (f"{tmp_path}/photos+more", f"{tmp_path}/more+photos"):
        table, problems = read_dataset(spec, choose_splits(spec).train.removesuffix(":kept"))

        assert {Path(table.image_name(index)).name for index in range(len(table))} == {"a.jpg", "b.jpg"}, spec
        assert [(one.kind, one.severity) for one in problems] == [("split", "notice")]
        assert f"{taken} is taken for it" in problems[0].message
        assert splits_of_joined([one.source.splits for one in find_datasets(spec)]) == set(splits)


def test_a_folder_without_splits_is_all_for_training(tmp_path: Path) -> None:
    write_coco_folder(tmp_path, coco("a.jpg", "b.jpg"), split="")
    assert len(read_dataset(tmp_path, "train")[0]) == len(read_dataset(tmp_path, "all")[0]) == 2
    with pytest.raises(UserError, match=r"no split test; there is all$"):
        read_dataset(tmp_path, "test")


def test_joined_sets_have_the_names_of_all_folders(tmp_path: Path) -> None:
    assert dataset_name(f"{tmp_path}/one+two") == "one+two"
    assert dataset_name(tmp_path / "one") == "one"


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


@pytest.mark.parametrize("parent", ["plain", "c++", "a+b", "+"])
def test_plus_signs_in_the_name_of_a_folder_join_nothing(parent: str, tmp_path: Path) -> None:
    folders = [tmp_path / parent / name for name in ("VOC2007", "VOC2012", "other/VOC")]
    for folder in folders:
        folder.mkdir(parents=True)
    assert dataset_roots(f"{tmp_path}/{parent}/VOC2007+VOC2012+other/VOC") == folders
    assert dataset_roots(f"{folders[0]}+{folders[1]}+") == folders[:2]
    assert dataset_roots(f"{folders[0]}+VOC2099") == [folders[0], tmp_path / parent / "VOC2099"]


def write_noise(root: Path) -> None:
    """Other pixels in every image, so that none is like another."""
    for seed, path in enumerate(sorted((root / "JPEGImages").iterdir())):
        noise = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)


def test_images_are_held_out_by_their_names_alone_and_stay_so_when_more_come(tmp_path: Path) -> None:
    stems = [f"photo {number * 7919 % 1000}" for number in range(60)]
    for name, some in (("few", stems[:40]), ("more", stems)):
        write_voc_folder(tmp_path / name, {stem: voc_xml([CAT]) for stem in some}, split="train")
        write_noise(tmp_path / name)

    def ids(name: str, part: str) -> set[bytes]:
        return set(read_dataset(tmp_path / name, f"train:{part}")[0].image_ids.tolist())

    few, more = ({part: ids(name, part) for part in ("kept", "held-out")} for name in ("few", "more"))
    assert few["held-out"] | few["kept"] == {stem.encode() for stem in stems[:40]}
    assert not few["held-out"] & few["kept"]
    assert few["held-out"] <= more["held-out"]
    assert few["kept"] <= more["kept"]
    assert 6 <= len(more["held-out"]) <= 18  # a fifth of 60, by a hash
    half, _ = read_dataset(tmp_path / "more", "train:held-out", options=DataOptions(test_fraction=0.5))
    assert more["held-out"] < set(half.image_ids.tolist())


def test_copies_of_an_image_are_held_out_together_and_every_class_is_on_both_sides(tmp_path: Path) -> None:
    xml = {f"{number * 7919 % 1000}": voc_xml([DOG if number % 20 == 0 else CAT]) for number in range(40)}
    write_voc_folder(tmp_path, xml, split="train")
    write_noise(tmp_path)
    stems = list(xml)
    for first, second in zip(stems[:10], stems[10:20], strict=True):
        image = (tmp_path / "JPEGImages" / f"{first}.jpg").read_bytes()
        (tmp_path / "JPEGImages" / f"{second}.jpg").write_bytes(image)
    held_out, kept = (read_dataset(tmp_path, f"train:{part}")[0] for part in ("held-out", "kept"))
    ids = {one.decode() for one in held_out.image_ids.tolist()}
    for first, second in zip(stems[:10], stems[10:20], strict=True):
        assert (first in ids) == (second in ids)
    assert set(held_out.labels.tolist()) == set(kept.labels.tolist()) == {0, 1}


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
    assert choose_splits(tmp_path) == Splits("train", "val", "val")
    assert read_dataset(tmp_path, "val")[0].describe().startswith("YOLO")
