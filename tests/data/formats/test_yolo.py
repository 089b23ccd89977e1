"""YOLO folders. Reliability cases: classes, boxes, xml-paths (here: paths in data.yaml and lists)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import read_split, write_image

from onestage.data import find_datasets, read_dataset
from onestage.errors import UserError
from onestage.structures import Categories

YAML = "path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"


def write_yolo_folder(root: Path, labels: dict[str, str | None], yaml: str = YAML) -> Path:
    """Images of 80x60 in images/train with their label files (None: without one)."""
    (root / "labels" / "train").mkdir(parents=True)
    (root / "data.yaml").write_text(yaml)
    for seed, (stem, text) in enumerate(labels.items()):
        write_image(root / "images" / "train" / f"{stem}.jpg", seed=seed)
        if text is not None:
            (root / "labels" / "train" / f"{stem}.txt").write_text(text)
    return root


def test_fractions_become_pixels_of_the_image(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, {"a": "0 0.5 0.5 1 1\n1 0.25 0.5 0.1 0.2\n"})
    table, problems = read_split(tmp_path, "train")
    assert problems == []
    np.testing.assert_allclose(table.boxes_xyxy, [(0, 0, 80, 60), (16, 24, 24, 36)], rtol=1e-6)
    assert table.labels.tolist() == [0, 1]
    assert table.image_sizes_hw.tolist() == [[60, 80]]


def test_a_polygon_gives_its_bounding_box(tmp_path: Path) -> None:
    table, problems = read_split(write_yolo_folder(tmp_path, {"a": "0 0.1 0.5 0.5 0.1 0.25 0.9\n"}), "train")
    assert problems == []
    np.testing.assert_allclose(table.boxes_xyxy, [(8, 6, 40, 54)], rtol=1e-6)


def test_images_without_labels_are_background_and_counted(tmp_path: Path) -> None:
    table, problems = read_split(write_yolo_folder(tmp_path, {"a": None, "b": "", "c": "0 .5 .5 .1 .1"}), "train")
    assert np.diff(table.first_object).tolist() == [0, 0, 1]
    assert [(problem.kind, problem.severity) for problem in problems] == [("background", "notice")]
    assert "1 image of train without a label file: background" in problems[0].message


def test_labels_may_lie_beside_the_images(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, {"a": None})
    (tmp_path / "images" / "train" / "a.txt").write_text("1 .5 .5 .5 .5")
    assert read_split(tmp_path, "train")[0].labels.tolist() == [1]


def test_one_file_in_pixels_does_not_hide_the_others(tmp_path: Path) -> None:
    for stem, line in (("a", "0 40 30 20 10"), ("b", "0 0.5 0.5 0.2 0.4"), ("c", "0 0.5 0.5 0.2 0.4")):
        write_image(tmp_path / f"{stem}.jpg")
        (tmp_path / f"{stem}.txt").write_text(line)
    table, problems = read_split(tmp_path, "all")
    assert len(table.labels) == 2
    assert [(problem.file, problem.kind) for problem in problems] == [("a.txt", "box-outside")]
    assert "looks like pixels" in problems[0].message


@pytest.mark.parametrize(
    "yaml",
    [
        "path: ../datasets/mine\ntrain: images/train\nnames: {0: cat, 1: dog}\n",
        "train: ../images/train\nnc: 2\nnames: ['cat', 'dog']\n",
        "train: [images/train]\nnames: [cat, dog]\n",
        "train: list.txt\nnames: [cat, dog]\n",
    ],
)
def test_the_usual_ways_to_write_data_yaml(yaml: str, tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, {"a": "1 .5 .5 .5 .5"}, yaml)
    (tmp_path / "list.txt").write_text("./images/train/a.jpg\n\n")
    table, problems = read_split(tmp_path, "train")
    assert (table.labels.tolist(), table.categories.names, problems) == ([1], ("cat", "dog"), [])
    assert find_datasets(tmp_path)[0].source.splits == ["train"]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat, cat]\ntrain: images/train\n", "two classes are called 'cat'"),
        ("names: {1: cat, 2: dog}\ntrain: images/train\n", "expected 0 to 1"),
        ("names: [cat]\nnc: 2\ntrain: images/train\n", "nc is '2', but 1 classes are named"),
        ("- a\n", "expected names: and train:"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['false']", "expected names: and train:"),
        ("names: [cat]\nval: images/train\n", "no split train; there is val"),
        ("names: [cat]\ntrain: nowhere\n", "'nowhere' is not in"),
        ("names: [cat]\ntrain: /etc\n", "'/etc' is not in"),
        ("names: [cat]\ntrain: ../outside\n", "'../outside' is not in"),
        ("names: [cat]\ntrain: labels\n", "has no images"),
        ("names: [cat, [1]]\ntrain: images\n", "names has .*expected words"),
        ("names: [cat]\nnames: [dog]\ntrain: images/train\n", "the key names stands twice"),
        ("names: {0: cat, 0: dog}\ntrain: images/train\n", "the key 0 stands twice"),
        ('names: ["\\ud800"]\ntrain: images/train\n', r"names has '\\ud800', expected words"),
        ('names: [cat]\ntrain: "a\\0b"\n', "give a path"),
        ('names: [cat]\ntrain: "\\ud800"\n', r"'\\ud800' is not in"),
        ("names: [cat]\nnc: [1]\ntrain: images/train\n", r"nc is \['1'\], but 1 classes"),
        ("names: !!int x\ntrain: images/train\n", "names is 'x'"),
        ("names: *a\ntrain: images/train\n", "not YAML .*undefined alias"),
        ("a: &a [*a]\ntrain: images/train\n", "not YAML .*an alias of more than a word"),
        ("\0", "not YAML"),
    ],
)
def test_classes_and_paths_that_make_no_sense_stop(yaml: str, message: str, tmp_path: Path) -> None:
    write_image(tmp_path / "outside" / "a.jpg")
    write_yolo_folder(tmp_path / "set", {"a": "0 .5 .5 .5 .5"}, yaml)
    with pytest.raises(UserError, match=message):
        read_dataset(tmp_path / "set", "train")


def test_classes_that_count_from_one_are_found_out(tmp_path: Path) -> None:
    table, problems = read_split(
        write_yolo_folder(tmp_path, {"a": "1 .5 .5 .5 .5\n2 .5 .5 .5 .5\n9 .5 .5 .5 .5\n"}), "train"
    )
    assert table.labels.tolist() == [1]
    assert [(problem.kind, problem.object_number) for problem in problems] == [("class", 2), ("class", 3)]
    assert "they count from 1" in problems[0].message
    assert "count from 1" not in problems[1].message


def test_classes_are_matched_to_a_models_list_by_name(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, {"a": "0 .5 .5 .5 .5\n1 .5 .5 .5 .5\n"})
    table, problems = read_split(tmp_path, "train", Categories.from_names(("bird", "dog")))
    assert table.labels.tolist() == [1]
    assert [problem.kind for problem in problems] == ["class"]


def test_boxes_that_are_no_boxes_are_named_by_line(tmp_path: Path) -> None:
    lines = [
        "0 .5 .5 .5 .5",
        "0 .5 .5 nan .5",
        "0 .5 .5 0 .5",
        "0 .9 .5 .5 .5",
        "0 1.4 .5 .5 .5",
        "0 40 30 20 20",
        "0 .5 .5",
        "0 a b c d",
        "0 .5 .5 .5 .5",
    ]
    table, problems = read_split(write_yolo_folder(tmp_path, {"a": "\n".join(lines)}), "train")
    kept = [(20, 15, 60, 45), (40, 15, 41, 45), (52, 15, 80, 45)]  # of 80x60
    np.testing.assert_allclose(table.boxes_xyxy, kept, rtol=1e-6)
    assert table.ignored.tolist() == [False, True, False]
    problems.sort(key=lambda problem: problem.object_number or 0)
    assert "looks like pixels" in problems[4].message
    assert [(problem.object_number, problem.kind) for problem in problems] == [
        (2, "box-not-finite"),
        (3, "box-empty"),
        (4, "box-clipped"),
        (5, "box-outside"),
        (6, "box-outside"),
        (7, "annotation"),
        (8, "annotation"),
        (9, "duplicate-object"),
    ]


def test_an_image_that_can_not_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, {"a": "0 .5 .5 .5 .5", "b": "0 .5 .5 .5 .5"})
    (tmp_path / "images" / "train" / "a.jpg").write_text("<html>")
    table, problems = read_split(tmp_path, "train")
    assert [table.image_id(i) for i in range(len(table))] == ["b"]
    assert [(problem.file, problem.kind) for problem in problems] == [("images/train/a.jpg", "unreadable-image")]


def test_a_list_never_leads_outside_and_names_what_is_missing(tmp_path: Path) -> None:
    write_image(tmp_path / "outside.jpg")
    root = write_yolo_folder(tmp_path / "set", {"a": "0 .5 .5 .5 .5"}, "train: list.txt\nnames: [cat]\n")
    names = ["images/train/a.jpg", "../outside.jpg", "images/train/none.jpg"]
    (root / "list.txt").write_text("\n".join([*names, names[0]]))
    table, problems = read_split(root, "train")
    assert [table.image_id(i) for i in range(len(table))] == ["a"]
    assert [problem.kind for problem in problems] == ["path", "missing-image", "duplicate-image"]


@pytest.mark.parametrize("key", ["names", "path", "nc", "train", "kpt_shape"])
def test_yaml_bombs_are_refused_at_once(key: str, tmp_path: Path) -> None:
    levels = ("a0: &a0 [lol]\n", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)))
    others = "".join(f"{name}: x\n" for name in ("names", "train") if name != key)
    write_yolo_folder(tmp_path, {"a": ""}, f"{''.join(levels)}{others}{key}: *a8\n")  # 100 million words
    with pytest.raises(UserError, match=r"data\.yaml: not YAML .*an alias of more than a word"):
        read_dataset(tmp_path, "train")


def test_an_alias_of_a_word_is_that_word(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, {"a": "0 .5 .5 .5 .5"}, "train: &here images/train\nval: *here\nnames: [cat]\n")
    assert len(read_split(tmp_path, "val")[0].labels) == 1


def test_a_yaml_of_classes_alone_names_those_of_the_folders_beside_it(tmp_path: Path) -> None:
    write_yolo_folder(tmp_path, {"a": "1 .5 .5 .5 .5"}, "names: [cat, dog]\n")
    table, problems = read_split(tmp_path, "train")
    assert (table.categories.names, table.labels.tolist(), problems) == (("cat", "dog"), [1], [])


def test_long_lists_of_classes_are_looked_through_once(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(100_000)]
    write_yolo_folder(tmp_path, {"a": ""}, "train: images/train\nnames: names.txt\n")
    (tmp_path / "names.txt").write_text("\n".join([*names, "n99999"]))
    with pytest.raises(UserError, match="two classes are called 'n99999'"):
        read_dataset(tmp_path, "train")


def test_byte_order_marks_are_no_part_of_a_label_or_a_list(tmp_path: Path) -> None:
    root = write_yolo_folder(
        tmp_path, {"a": "0 .5 .5 .5 .5\n1 .5 .5 .2 .2\n"}, YAML.replace("images/train", "list.txt")
    )
    for file in (root / "labels/train/a.txt", root / "data.yaml"):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    (root / "list.txt").write_text("images/train/a.jpg", encoding="utf-8-sig")
    table, problems = read_split(root, "train")
    assert (table.categories.names, table.labels.tolist(), problems) == (("cat", "dog"), [0, 1], [])


def test_a_list_may_name_images_of_the_folder_by_absolute_paths(tmp_path: Path) -> None:
    root = write_yolo_folder(tmp_path / "set", {"a": "0 .5 .5 .5 .5"}, "train: list.txt\nnames: [cat]\n")
    (root / "list.txt").write_text(f"{root}/images/train/a.jpg\n")
    table, problems = read_split(root, "train")
    assert (table.image_names(), problems) == (["images/train/a.jpg"], [])
