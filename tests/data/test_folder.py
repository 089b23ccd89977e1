"""A data folder: which file a name means, what is passed over, and that nothing outside is ever opened."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from drawings import put
from folders import write_image
from hypothesis import given
from hypothesis import strategies as st

from onestage.data.folder import DataFolder, MissingImageError, OutsideError
from onestage.data.split_names import split_in_name, split_key, split_of
from onestage.errors import UserError
from onestage.texts import decode_text


def folder_of(root: Path, *images: str) -> DataFolder:
    for image in images:
        put(root, image, "")
    return DataFolder(root)


# ---------------------------------------------------------------- which image is meant
@pytest.mark.parametrize(
    "name",
    [
        "images/train/cat 1.jpg",  # by its path
        "./images/../images/train/cat 1.jpg",
        "cat 1.jpg",  # by its name
        "elsewhere/cat 1.jpg",
        "cat 1.png",  # by its stem
        "cat 1",
        "CAT 1.JPG",  # whatever its case
        "C:\\Users\\ann\\cat 1.jpg",  # another machine's
        "\\\\server\\share\\cat 1.jpg",
        "/home/ann/cat 1.jpg",
        "../../upload/cat 1.jpg",
        "file:///home/ann/cat 1.jpg",
        "https://example.org/data/cat 1.jpg",
        "3fa1c0d2-cat 1.jpg",  # as Label Studio calls it
    ],
)
def test_an_image_is_found_by_its_path_its_name_or_its_stem(name: str, tmp_path: Path) -> None:
    assert folder_of(tmp_path, "images/train/cat 1.jpg").find_image(name) == "images/train/cat 1.jpg"


def test_an_image_is_found_by_its_absolute_path_here(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a/x.jpg", "b/x.jpg")
    assert folder.find_image(f"{tmp_path}/b/x.jpg") == "b/x.jpg"


def test_a_name_without_a_folder_is_not_that_of_the_root_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a.jpg", "voc/JPEGImages/a.jpg", "b.jpg")
    assert folder.find_image("a", "voc/Annotations") == "voc/JPEGImages/a.jpg"
    assert folder.find_image("b", "voc/Annotations") == "b.jpg"


def test_an_image_of_an_unread_kind_counts_only_where_no_read_one_lies_beside_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a/x.jpg", "a/x.pgm", "a/y.PPM", "b/x.heic")
    assert folder.images == ["a/x.jpg", "a/y.PPM", "b/x.heic"]
    assert folder.find_image("a/x.png") == folder.find_image("a/x") == "a/x.jpg"


def test_a_name_with_an_upload_prefix_is_taken_as_it_is_where_that_exists(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "3fa1c0d2-a.jpg", "a.jpg", "3fa1c0d-b.jpg")
    assert folder.find_image("3fa1c0d2-a.jpg") == "3fa1c0d2-a.jpg"
    with pytest.raises(MissingImageError):
        folder.find_image("3fa1c0d-c.jpg")


@pytest.mark.parametrize(
    ("name", "near", "split", "meant"),
    [
        ("/data/old/a/x.jpg", "", "", "a/x.jpg"),  # the folders of the name
        ("train\\images\\x.jpg", "", "", "train/images/x.jpg"),
        ("x.jpg", "a", "", "a/x.jpg"),  # beside the annotation
        ("x.jpg", "b/labels", "", "b/images/x.jpg"),  # in the folder beside the annotation's
        ("images/y.jpg", "", "val", "val/images/y.jpg"),  # in no folder of another split
        ("images/y.jpg", "", "Training", "train/images/y.jpg"),
        ("X.png", "b", "", "b/images/X.png"),  # the name with its case and extension
    ],
)
def test_of_several_images_the_one_in_the_likest_folder_is_meant(
    name: str, near: str, split: str, meant: str, tmp_path: Path
) -> None:
    several = ("a/x.jpg", "b/images/x.jpg", "b/images/X.png", "train/images/x.jpg", "val/images/x.jpg")
    folder = folder_of(tmp_path, *several, "train/images/y.jpg", "val/images/y.jpg")
    assert folder.find_image(name, near, split) == meant


def test_where_two_images_are_meant_alike_none_is_guessed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a/x.jpg", "b/x.jpg")
    with pytest.raises(MissingImageError, match=r"a/x\.jpg and b/x\.jpg both fit the image 'x\.jpg'; name its folder"):
        folder.find_image("x.jpg")


def test_an_image_that_is_missing_in_the_folder_that_is_named_is_not_that_of_another_folder(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "cam1/b.jpg", "cam2/a.jpg", "cam2/b.jpg", "val/c.jpg")  # their names begin anew
    with pytest.raises(MissingImageError, match=r"the image 'cam1/a\.jpg' is missing in "):
        folder.find_image("cam1/a.jpg")
    assert folder.find_image("C:\\photos\\a.jpg") == "cam2/a.jpg"  # a folder of another machine
    assert folder.find_image("cam1/c.jpg", near="val") == "val/c.jpg"  # it was moved, whose name is no other's


def test_where_one_split_has_a_folder_it_may_hold_the_images_of_all(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "one", "train_images/a.jpg", "train_images/b.jpg")
    assert folder.find_image("b.jpg", "", "val") == "train_images/b.jpg"
    folder = folder_of(tmp_path / "two", "train/a.jpg", "train/b.jpg", "val/c.jpg")
    with pytest.raises(MissingImageError, match=r"\(train/b\.jpg lies in another folder\); add it"):
        folder.find_image("b.jpg", "", "val")


@pytest.mark.parametrize("outer", ["dev", "test_data/v2", "training"])
def test_a_folder_around_all_images_names_no_split_where_others_do_inside(outer: str, tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path, f"{outer}/train/images/a.jpg", f"{outer}/val/images/a.jpg", f"{outer}/c.jpg", "old.csv"
    )
    assert [folder.split_of(image) for image in folder.images] == [None, "train", "val"]
    assert [folder.split_of(f"{outer}/{split}/labels/a.txt") for split in ("train", "val")] == ["train", "val"]
    for split in ("train", "val"):
        assert folder.find_image("a.jpg", "", split) == f"{outer}/{split}/images/a.jpg"
    assert folder_of(tmp_path / "lone", "train/cats/a.jpg").split_of("train/cats/a.jpg") == "train"


def test_a_folder_that_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refused(folder: str) -> Any:
        if folder.endswith("closed"):  # root may read all, so no mode refuses it
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"closed: can't be read \(Permission denied\); mend its permissions"):
        _ = DataFolder(tmp_path).files


def test_an_image_that_is_not_there_is_said_to_be_missing_and_one_outside_to_lead_outside(tmp_path: Path) -> None:
    write_image(tmp_path / "secret.jpg")
    folder = folder_of(tmp_path / "data", "a.jpg")
    with pytest.raises(MissingImageError, match=r"the image 'b\.jpg' is missing in .*data; add it or delete"):
        folder.find_image("b.jpg")
    for name in ("../secret.jpg", f"{tmp_path}/secret.jpg", "images/../../secret.jpg", "C:\\secret.jpg"):
        with pytest.raises(OutsideError, match="leads outside the data folder"):
            folder.find_image(name)
    for name in ("", " ", "a\0.jpg"):
        with pytest.raises(OutsideError, match="is no name of a file"):
            folder.find_image(name)


PARTS = ["..", ".", "", "a.jpg", "A.JPG", "secret.jpg", "link", "sub", "C:", "C:\\", "\\\\x", "/", "\0", "~", "%2e%2e",
         "file://", "http://x/", "3fa1c0d2-a.jpg", "\ud800", "..\\", "a" * 300]  # fmt: skip
NAMES = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=6)


@given(parts=NAMES, separator=st.sampled_from("/\\"), near=st.sampled_from(["", "sub", "../x", "link"]))
def test_no_name_whatever_leads_out_of_the_folder(parts: list[str], separator: str, near: str) -> None:
    with tempfile.TemporaryDirectory() as top:
        put(Path(top), "secret.jpg", "")
        put(Path(top), "secret.txt", "secret")
        folder = folder_of(Path(top) / "data", "a.jpg", "sub/a.jpg")
        name = separator.join(parts)
        with suppress(MissingImageError, OutsideError):
            assert folder.find_image(name, near, "train") in ("a.jpg", "sub/a.jpg")
        with suppress(OutsideError):
            assert folder.find(name, near) in (None, "a.jpg", "sub/a.jpg")
        with suppress(UserError):
            assert folder.read(name) == b""  # not the secret


# ---------------------------------------------------------------- the files that count
def test_what_machines_leave_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    junk = ["__MACOSX/images/a.jpg", "images/._a.jpg", ".DS_Store", "images/Thumbs.db", "desktop.ini", ".git/a.jpg",
            "__pycache__/a.pyc", ".ipynb_checkpoints/b.jpg", "images/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
            "#recycle/a.jpg", "$RECYCLE.BIN/a.jpg"]  # fmt: skip
    assert folder_of(tmp_path, "images/a.jpg", "b.txt", *junk).files == ["b.txt", "images/a.jpg"]


def test_links_to_another_disk_are_followed_and_circles_end(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk", tmp_path / "data"
    folder_of(disk, "a.jpg", "sub/b.jpg")
    root.mkdir()
    (root / "images").symlink_to(disk)
    (disk / "round").symlink_to(root)
    (root / "broken.jpg").symlink_to(tmp_path / "nothing")
    (root / "itself").symlink_to(root / "itself")
    folder = DataFolder(root)
    assert [file for file in folder.images if file != "broken.jpg"] == ["images/a.jpg", "images/sub/b.jpg"]
    with pytest.raises(UserError, match="no such file"):
        folder.read("broken.jpg")


def test_a_pipe_is_no_file_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    folder = DataFolder(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        folder.read("labels.csv")
    assert folder.head("labels.csv") == ""  # which would wait for ever, too


def test_an_annotation_file_may_be_named_in_place_of_its_folder(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.jpg", "train.json", "val.json")
    folder = DataFolder(tmp_path / "val.json")
    assert (folder.root, folder.annotations(".json"), folder.annotations(".xml")) == (tmp_path, ["val.json"], [])
    with pytest.raises(UserError, match="no such folder or file"):
        DataFolder(tmp_path / "nothing")


def test_a_file_is_named_whatever_its_case_and_relative_to_the_annotation_or_the_root(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "Data/obj.names", "obj.txt")
    assert folder.find("OBJ.NAMES", "Data") == "Data/obj.names"
    assert folder.find("data/obj.names", "Data") == "Data/obj.names"
    assert folder.find("../obj.txt", "Data") == "obj.txt"
    assert folder.find("nothing") is None
    with pytest.raises(OutsideError):
        folder.find("../../obj.names", "Data")


def test_files_that_are_too_large_or_not_json_are_refused_in_one_line(tmp_path: Path) -> None:
    put(tmp_path, "a.json", "[1, ")
    put(tmp_path, "deep.json", "[" * 100_000)
    folder = DataFolder(tmp_path)
    for name in ("a.json", "deep.json"):
        with pytest.raises(UserError, match=r"not JSON .*; write it again") as refused:
            folder.read_json(name)
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="more than the 3 bytes allowed for it"):
        folder.read("a.json", max_bytes=3)


# ---------------------------------------------------------------- words
@pytest.mark.parametrize(
    "data",
    [
        "Kätzchen".encode(),
        "Kätzchen".encode("utf-8-sig"),
        "Kätzchen".encode("utf-16"),
        b"\xfe\xff" + "Kätzchen".encode("utf-16-be"),
    ],
    ids=["UTF-8", "with a byte order mark", "UTF-16", "UTF-16, big end first"],
)
def test_text_is_read_by_its_byte_order_mark_else_as_utf_8(data: bytes, tmp_path: Path) -> None:
    assert decode_text(data) == "Kätzchen"
    (tmp_path / "classes.txt").write_bytes(data)
    folder = DataFolder(tmp_path)
    assert folder.read_lines("classes.txt") == list(folder.lines("classes.txt")) == ["Kätzchen"]
    assert folder.head("classes.txt") == "Kätzchen"


def test_text_that_is_no_utf_8_is_that_of_windows() -> None:
    assert decode_text("Kätzchen".encode("cp1252")) == "Kätzchen"


@given(st.binary(max_size=40))
def test_any_bytes_give_a_text(data: bytes) -> None:
    assert isinstance(decode_text(data), str)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train2017", "train"),
        ("train_2", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("dev", "val"),
        ("eval", "val"),
        ("Evaluation", "val"),
        ("VALIDATE", "val"),
        ("val_list", "val"),
        ("label_list", "label_list"),
        ("TEST", "test"),
        ("trainval", "trainval"),
        ("odd", "odd"),
    ],
)
def test_splits_have_many_spellings(name: str, key: str) -> None:
    assert split_key(name) == key


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("data/train_labels.csv", "train"),
        ("valid/_annotations.csv", "valid"),
        ("validation-annotations-bbox.csv", "validation"),
        ("labels.csv", None),
        ("trainers/labels.csv", None),
    ],
)
def test_a_split_is_a_word_of_the_files_name_or_one_of_its_folders(file: str, split: str | None) -> None:
    assert (split_in_name(file) or split_of(file)) == split
