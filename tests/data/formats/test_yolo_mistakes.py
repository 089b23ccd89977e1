"""YOLO folders with what people and tools do to them: renamed labels, lost images, damaged YAML, other coordinates."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import read_split, voc_xml, write_files

from onestage.data import find_datasets
from onestage.errors import UserError

LINE = "0 0.5 0.5 0.5 0.5\n"  # of 80x60 pixels: 20, 15, 60, 45
BOX = [20.0, 15.0, 60.0, 45.0]


# ---------------------------------------------------------------- names of labels
@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.jpg", "labels/3fa1c0d2-a.txt"),
        ("pets/a.jpg", "boxes/3fa1c0d2-a.txt"),
        ("images/my a.jpg", "labels/3fa1c0d2-my%20a.txt"),
        ("images/my a (1).jpg", "labels/3fa1c0d2-my_a_1.txt"),
        ("images/3fa1c0d2-my a.jpg", "labels/3fa1c0d2-my%20a.txt"),
    ],
)
def test_labels_are_found_whose_names_label_studio_changed(image: str, label: str, tmp_path: Path) -> None:
    table, problems = read_split(write_files(tmp_path, [image], {label: LINE}), "all")
    assert (table.image_names(), table.boxes_xyxy.tolist(), problems) == ([image], [BOX], [])


def test_labels_of_an_image_that_is_called_as_an_upload_are_not_anothers(tmp_path: Path) -> None:
    images = ["images/3fa1c0d2-a.jpg", "images/a.jpg"]
    table, _ = read_split(write_files(tmp_path, images, {"labels/3fa1c0d2-a.txt": LINE}), "all")
    assert (table.image_names(), table.first_object.tolist()) == (images, [0, 1, 1])


def test_labels_without_their_image_are_named_once_for_the_split(tmp_path: Path) -> None:
    labels = ("train/a", "train/b", "train/c ", "train/d", "train/e", "val/b")
    texts = {f"labels/{label}.txt": LINE for label in labels}
    others = {"labels/train/empty.txt": "\n", "labels/train/classes.txt": "cat\n"}
    root = write_files(tmp_path, ["images/train/a.jpg", "images/val/b.jpg"], texts | others)
    _, (problem,) = read_split(root, "train")
    assert (problem.file, problem.kind, problem.severity) == ("labels/train/b.txt", "missing-image", "error")
    named = "labels/train/b.txt, labels/train/c .txt, labels/train/d.txt, ..."
    assert f"4 label files without an image ({named})" in problem.message
    assert read_split(root, "val")[1] == []


@pytest.mark.parametrize("second", ["1a2b3c4d-a.txt", "a.jpg.txt"])
def test_a_second_label_file_of_an_image_is_none_without_an_image(second: str, tmp_path: Path) -> None:
    root = write_files(tmp_path, ["images/a.jpg"], {"labels/a.txt": LINE, f"labels/{second}": LINE})
    table, problems = read_split(root, "all")
    assert (table.boxes_xyxy.tolist(), problems) == ([BOX], [])


def test_labels_are_named_where_not_one_has_an_image(tmp_path: Path) -> None:
    texts = {"data.yaml": "train: images\nnames: [cat]\n", "labels/label_a.txt": LINE}
    _, problems = read_split(write_files(tmp_path, ["images/a.jpg"], texts), "train")
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
    root = write_files(tmp_path, ["images/a.jpg"], {"labels/a.txt": LINE, file: yaml})
    with pytest.raises(UserError, match=rf"{file}: not YAML \({message}"):
        find_datasets(root)


def test_a_damaged_yaml_is_no_harm_beside_a_good_one_or_another_format(tmp_path: Path) -> None:
    root = write_files(tmp_path, ["a.jpg"], {"a.xml": voc_xml([("cat", 1, 1, 9, 9)]), "pets.yaml": WINDOWS})
    assert find_datasets(root)[0].kind == "voc"
    write_files(root, [], {"a.txt": LINE, "data.yaml": "train: .\nnames: [cat]\n"})
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
    root = write_files(tmp_path, ["images/a.jpg"], {"labels/a.txt": LINE + "1 0.5 0.5 0.1 0.1\n", **files})
    table, problems = read_split(root, "all")
    assert (table.categories.names, table.labels.tolist(), problems) == (names, [0, 1], [])


# ---------------------------------------------------------------- other coordinates
CORNERS = (  # as cx cy w h, each reaches far outside
    *("0 0.7 0.5 0.9 1.0005", "0 0.6 0.2 0.8 0.9", "0 0.1 0.5 0.6 0.75"),
    *("0 0.75 0.5 0.85 0.9", "0 0.2 0.4 0.7 0.6"),
)
INSIDE = "0 0.2 0.2 0.3 0.3"  # as both


def of_lines(root: Path, *lines: str) -> Path:
    return write_files(root, ["images/a.jpg"], {"labels/a.txt": "\n".join(lines), "classes.txt": "cat\n"})


@pytest.mark.parametrize(
    "more", [(), (INSIDE,), (INSIDE, "0 0.25 0.25 0.5 0.5", "0 0.3 0.3 0.4 0.4", "0 0.2 0.2 0.4 0.4")]
)
def test_corners_in_place_of_centre_and_size_are_an_error(more: tuple[str, ...], tmp_path: Path) -> None:
    _, problems = read_split(of_lines(tmp_path, *CORNERS, *more), "all")
    (error,) = [problem for problem in problems if problem.severity == "error"]
    assert f"5 of {5 + len(more)} boxes reach outside of their images, and none would as x1 y1 x2 y2" in str(error)


@pytest.mark.parametrize(
    "lines",
    [
        CORNERS[:4],  # too few to tell
        (*CORNERS, "0 0.5 0.5 0.4 0.6"),  # x2 < x1
        (*CORNERS, "0 0.9 0.9 1.01 1"),  # outside as corners too
        (*CORNERS, *(f"0 0.2 0.2 0.3 0.3{digit}" for digit in range(10))),  # a third
        ("0 0.49 0.5 0.99 0.99", "0 0.5 0.49 0.9 0.99", "0 0.49 0.49 0.99 0.99"),  # by rounding
        tuple(f"0 0.55 0.55 0.9{digit} 0.99" for digit in range(10)),  # drawn over the border, but not far
    ],
)
def test_boxes_that_reach_outside_by_chance_are_clipped(lines: tuple[str, ...], tmp_path: Path) -> None:
    table, problems = read_split(of_lines(tmp_path, *lines), "all")
    assert len(table.labels) == len(lines)
    assert {problem.severity for problem in problems} <= {"notice"}


POSE = "0 0.5 0.5 0.4 0.4 0.4 0.4 2 0.5 0.5 1 0.6 0.6 0"  # three key points


@pytest.mark.parametrize(("line", "count"), [(POSE, 3), (POSE + " 0.5 0.4 1", 4), (POSE[: -len(" 0.6 0.6 0")], 2)])
def test_key_points_without_their_number_in_a_yaml_are_an_error(line: str, count: int, tmp_path: Path) -> None:
    root = of_lines(tmp_path, line)
    _, (problem,) = read_split(root, "all")
    assert f"looks like a box and {count} key points; write kpt_shape: [{count}, 3] in a YAML" in str(problem)
    write_files(root, [], {"data.yaml": f"train: images\nnames: [cat]\nkpt_shape: [{count}, 3]\n"})
    table, problems = read_split(root, "train")
    assert (table.boxes_xyxy.round(4).tolist(), problems) == ([[24.0, 18.0, 56.0, 42.0]], [])


def test_a_polygon_along_the_border_is_none_of_key_points(tmp_path: Path) -> None:
    table, problems = read_split(of_lines(tmp_path, "0 0.5 0.5 0.5 0.25 0.25 0.5 0 0.5 0.5 1"), "all")
    assert (table.boxes_xyxy.tolist(), problems) == ([[0.0, 15.0, 40.0, 60.0]], [])


@pytest.mark.parametrize("last", ["-35", "20.5", "1.2", "nan"])
def test_a_sixth_number_that_is_no_confidence_and_no_track_is_an_error(last: str, tmp_path: Path) -> None:
    lines = (INSIDE, f"0 0.25 0.25 0.1 0.1 {last}", "0 0.7 0.7 0.1 0.1 12")
    table, (error,) = read_split(of_lines(tmp_path, *lines), "all")
    assert (len(table.labels), error.severity, error.object_number) == (2, "error", 2)
    assert f"ends with {last}, which is neither a confidence (0 to 1) nor a track; an angle is not read" in str(error)


def test_lines_of_dota_are_called_so(tmp_path: Path) -> None:
    root = of_lines(tmp_path, "7.0 18.0 31.0 18.0 31.0 43.0 7.0 43.0 cat 0")
    _, (error,) = read_split(write_files(root, [], {"data.yaml": "train: images\nnames: [cat]\n"}), "train")
    assert "cat 0' is of DOTA; export YOLO OBB or COCO" in str(error)


def test_lists_of_images_and_their_label_files_as_paddlelabel_writes_them_are_the_splits(tmp_path: Path) -> None:
    images = ["JPEGImages/a 1.jpg", "JPEGImages/b.jpg"]
    files = {f"Annotations/{Path(image).stem}.txt": LINE for image in images}
    lists = {
        f"{split}_list.txt": f"{image} Annotations/{Path(image).stem}.txt\n"
        for split, image in zip(("train", "val"), images, strict=True)
    }
    root = write_files(tmp_path, images, files | lists | {"classes.txt": "cat\n"})
    found = {split: read_split(root, split) for split in find_datasets(root)[0].source.splits}
    names = {split: (table.image_names(), table.boxes_xyxy.tolist()) for split, (table, _) in found.items()}
    assert names == {"train_list": ([images[0]], [BOX]), "val_list": ([images[1]], [BOX])}
