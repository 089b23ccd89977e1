"""Folders whose labels are nearly of a format that is read: the message names the file and what is expected of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import write_image
from read_back import write

from onestage.data import find_datasets
from onestage.errors import UserError

NO_BOX = "expected filename, class, and xmin, ymin, xmax, ymax or x, y, bbox_width, bbox_height or bbox"


@pytest.mark.parametrize(
    ("header", "lacking"),
    [
        ("filename,species,xmin,ymin,xmax,ymax", "class"),
        ("filename,width,height,class,x,y", "box"),  # those are the width and the height of the image
        ("path,image_id,width,height,class,x,y", "box"),
        ("filename,width,height,x,y,class", "box"),
        ("id,klasse,xmin,ymin,xmax,ymax", "image or class"),
        ("filename,dog,cat", "class or box"),
    ],
)
def test_a_table_that_is_not_understood_is_named_with_its_columns(tmp_path: Path, header: str, lacking: str) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "train/labels.csv", f"{header}\na.jpg,1,1,2,3,4\n")
    has = f"has the columns '{header.replace(',', ', ')}', but none of the {lacking}"
    with pytest.raises(UserError) as refusal:
        find_datasets(tmp_path)
    assert f"train/labels.csv {has}; {NO_BOX}; or" in str(refusal.value)
    with pytest.raises(UserError, match=rf"no csv data set .*none of the {lacking}; .*, or drop --format"):
        find_datasets(tmp_path, "csv")


@pytest.mark.parametrize(
    "line", ["0 40.0 30.0 20 10", "0 0,5 0,5 0,25 0,25", "0,0.5,0.5,0.25,0.25", "dog 0.5 0.5 0.25 0.25"]
)
def test_text_files_that_are_nearly_those_of_yolo_are_quoted(tmp_path: Path, line: str) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "classes.txt", "dog\n")
    write(tmp_path, "a.txt", f"\n{line}\n")
    with pytest.raises(UserError) as refusal:
        find_datasets(tmp_path)
    expected = "YOLO expects a class's number, then cx cy w h as fractions of the image: 0 0.5 0.5 0.25 0.125; or"
    assert f"but no annotation that is read; a.txt begins with '{line}'; {expected}" in str(refusal.value)


def test_images_of_an_unread_kind_are_said_to_be_so(tmp_path: Path) -> None:
    write(tmp_path, "a.ppm", "P6\n1 1\n255\n")
    write(tmp_path, "gt.txt", "nothing of use\n")
    with pytest.raises(UserError, match=r"1 image, all of a kind that is not read \(a.ppm, ...\); convert them to PNG"):
        find_datasets(tmp_path)
