"""YOLO folders with what people and tools do to them: renamed labels, lost images, damaged YAML, other coordinates."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import read_split, voc_xml, write_image

from onestage.data import find_datasets
from onestage.errors import UserError

LINE = "0 0.5 0.5 0.5 0.5\n"  # of 80x60 pixels: 20, 15, 60, 45
BOX = [20.0, 15.0, 60.0, 45.0]


def put(root: Path, images: list[str], texts: dict[str, str]) -> Path:
    for image in images:
        write_image(root / image)
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


# ---------------------------------------------------------------- names of labels
@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.jpg", "labels/3fa1c0d2-a.txt"),
        ("pets/a.jpg", "boxes/3fa1c0d2-a.txt"),
        ("images/my a.jpg", "labels/3fa1c0d2-my%20a.txt"),
        ("images/3fa1c0d2-my a.jpg", "labels/3fa1c0d2-my%20a.txt"),
    ],
)
def test_labels_are_found_whose_names_label_studio_changed(image: str, label: str, tmp_path: Path) -> None:
    table, problems = read_split(put(tmp_path, [image], {label: LINE}), "all")
    assert (table.image_names(), table.boxes_xyxy.tolist(), problems) == ([image], [BOX], [])


def test_labels_of_an_image_that_is_called_as_an_upload_are_not_anothers(tmp_path: Path) -> None:
    images = ["images/3fa1c0d2-a.jpg", "images/a.jpg"]
    table, _ = read_split(put(tmp_path, images, {"labels/3fa1c0d2-a.txt": LINE}), "all")
    assert (table.image_names(), table.first_object.tolist()) == (images, [0, 1, 1])


def test_labels_without_their_image_are_named_once_for_the_split(tmp_path: Path) -> None:
    labels = ("train/a", "train/b", "train/c ", "train/d", "train/e", "val/b")
    texts = {f"labels/{label}.txt": LINE for label in labels}
    others = {"labels/train/empty.txt": "\n", "labels/train/classes.txt": "cat\n"}
    root = put(tmp_path, ["images/train/a.jpg", "images/val/b.jpg"], texts | others)
    _, (problem,) = read_split(root, "train")
    assert (problem.file, problem.kind, problem.severity) == ("labels/train/b.txt", "missing-image", "error")
    named = "labels/train/b.txt, labels/train/c .txt, labels/train/d.txt, ..."
    assert f"the images of 4 label files are missing ({named})" in problem.message
    assert read_split(root, "val")[1] == []


def test_labels_are_named_where_not_one_has_an_image(tmp_path: Path) -> None:
    texts = {"data.yaml": "train: images\nnames: [cat]\n", "labels/label_a.txt": LINE}
    _, problems = read_split(put(tmp_path, ["images/a.jpg"], texts), "train")
    assert [(one.file, one.kind) for one in problems] == [
        ("data.yaml", "background"),
        ("labels/label_a.txt", "missing-image"),
    ]


# ---------------------------------------------------------------- YAML and class names
WINDOWS = 'path: "C:\\Users\\ann"\nnames: [cat, dog]\n'


@pytest.mark.parametrize("file", ["data.yaml", "pets.yaml", "sub/pets.yml"])
@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (WINDOWS, r"line 1: a backslash in double quotes begins a special character\); put a Windows path in single q"),
        ("names: [cat]\ntrain: [a\n", "line 3: expected ',' or ']', but got '<stream end>'"),
        ("train: images\n\tnames: [cat]\n", r"line 2: found character .* that cannot start any token"),
    ],
)
def test_a_yaml_of_a_data_set_that_is_damaged_stops_with_the_cause(
    yaml: str, message: str, file: str, tmp_path: Path
) -> None:
    root = put(tmp_path, ["images/a.jpg"], {"labels/a.txt": LINE, file: yaml})
    with pytest.raises(UserError, match=rf"{file}: not YAML \({message}"):
        find_datasets(root)


def test_a_damaged_yaml_is_no_harm_beside_a_good_one_or_another_format(tmp_path: Path) -> None:
    root = put(tmp_path, ["a.jpg"], {"a.xml": voc_xml([("cat", 1, 1, 9, 9)]), "pets.yaml": WINDOWS})
    assert find_datasets(root)[0].kind == "voc"
    put(root, [], {"a.txt": LINE, "data.yaml": "train: .\nnames: [cat]\n"})
    assert find_datasets(root)[0].kind == "yolo"


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"pets.names": "cat\ndog\n"}, ("cat", "dog")),
        ({"predefined_classes.txt": "cat\ndog\nbird\n"}, ("cat", "dog", "bird")),
        ({"dataset.yaml": "names: [cat, dog]\n"}, ("cat", "dog")),
        ({"pets.yml": "path: /data/pets\ntrain: nowhere\nnames: {0: cat, 1: dog}\n"}, ("cat", "dog")),
        ({"pets.names": "cat\ndog\n", "pets.yaml": "names: [cat, dog]\n"}, ("cat", "dog")),  # alike
        ({"pets.names": "cat\ndog\n", "classes.txt": "a\nb\n"}, ("a", "b")),
        ({"pets.names": "cat\ndog\n", "other.names": "a\nb\n"}, ("0", "1")),  # which is right?
        ({"pets.names": "cat\n"}, ("0", "1")),  # not enough
        ({"args.yaml": "names: x\n", "deploy.yaml": "names: {a: b}\n", "broken.yaml": "a: ["}, ("0", "1")),
    ],
)
def test_class_names_are_taken_from_the_one_file_that_may_list_them(
    files: dict[str, str], names: tuple[str, ...], tmp_path: Path
) -> None:
    root = put(tmp_path, ["images/a.jpg"], {"labels/a.txt": LINE + "1 0.5 0.5 0.1 0.1\n", **files})
    table, problems = read_split(root, "all")
    assert (table.categories.names, table.labels.tolist(), problems) == (names, [0, 1], [])
