"""YOLO folders with what people and tools do to them: renamed labels, lost images, damaged YAML, other coordinates."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import read_split, write_image

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
