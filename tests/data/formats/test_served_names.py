"""Images that annotations name by a URL, or as a server called them, are found among one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import write_image
from read_back import objects, read, write

from onestage.data.folder import DataFolder
from onestage.data.reading import Faults
from onestage.data.served_names import without_server

URL = "https://bucket.s3.amazonaws.com/pets"


@pytest.mark.parametrize(
    ("written", "file"),
    [
        (f"{URL}/a.jpg?X-Amz-Signature=ab12&X-Amz-Expires=3", "images/a.jpg"),
        (f"{URL}/my%20cat.jpg", "images/my cat.jpg"),
        (f"{URL}/my%20cat.jpg?x=1", "my%20cat.jpg"),  # as it may have been saved
        ("s3://bucket/pets/a.jpg", "a.jpg"),
        ("/data/local-files/?d=a.jpg", "images/a.jpg"),
        ("/data/local-files/?d=pets/a.jpg", "images/a.jpg"),
        ("\\data\\local-files\\?d=pets%5Ca.jpg", "images/a.jpg"),
        ("http://localhost:8080/data/upload/4/3fa1c0d2-%E7%8B%97.jpg", "images/狗.jpg"),
        ("/data/upload/4/3fa1c0d2-WhatsApp_Image_1_at_10.00.jpg", "images/WhatsApp Image (1) at 10.00.jpg"),
        ("3fa1c0d2-WhatsApp_Image_1_at_10.00", "WhatsApp Image (1) at 10.00.png"),
        ("3fa1c0d2-its_a_cat.jpg", "it's a #cat.jpg"),
        ("what?.jpg", "what?.jpg"),
        ("%41bc.jpg", "%41bc.jpg"),
    ],
)
def test_an_image_is_found_by_the_name_that_a_server_gave_it(written: str, file: str, tmp_path: Path) -> None:
    write_image(tmp_path / file)
    write_image(tmp_path / "other.jpg")
    faults = Faults(DataFolder(tmp_path), "all")
    assert (faults.find_image(written, "result.json"), faults.problems) == (file, [])


@pytest.mark.parametrize(
    ("written", "kind", "message"),
    [
        (f"{URL}/b.jpg?x=1", "missing-image", "the image 'pets/b.jpg' is missing"),
        ("/data/upload/4/3fa1c0d2-b.jpg", "missing-image", "the image 'data/upload/4/3fa1c0d2-b.jpg' is missing"),
        ("WhatsApp_Image_1.jpg", "missing-image", "is missing"),  # that name was given by no server
        ("3fa1c0d2-c_c.jpg", "missing-image", "is missing"),  # of two images
        (f"{URL}/../../b.jpg", "path", "leads outside the data folder"),
        ("/data/local-files/?d=..%2F..%2Fb.jpg", "path", "leads outside the data folder"),
    ],
)
def test_an_image_that_is_not_here_is_missing_and_no_url_leads_out(
    written: str, kind: str, message: str, tmp_path: Path
) -> None:
    for name in ("a.jpg", "WhatsApp Image (1).jpg", "c c.jpg", "(c) c.jpg", "c (c).jpg"):
        write_image(tmp_path / "set" / name)
    write_image(tmp_path / "b.jpg")
    faults = Faults(DataFolder(tmp_path / "set"), "all")
    assert faults.find_image(written, "result.json") is None
    assert [(one.kind, message in one.message) for one in faults.problems] == [(kind, True)]


@pytest.mark.parametrize(
    "name", ["", "a.jpg", "/home/ann/a.jpg", "C:/a?.jpg", "file:///a%20b.jpg", "data/upload/a.jpg"]
)
def test_names_of_files_stay_as_they_are(name: str) -> None:
    assert without_server(name) == name


def test_lvis_names_an_image_by_its_url_alone(tmp_path: Path) -> None:
    image = {"id": 1, "height": 60, "width": 80, "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg"}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 30], "area": 900}
    write_image(tmp_path / "train2017/000000000009.jpg")
    content = {"annotations": [box], "images": [image], "categories": [{"id": 1, "name": "cat"}]}
    write(tmp_path, "lvis_v1_train.json", content)
    table, problems = read(tmp_path, "coco", "train")
    assert (objects(table), problems) == ([("cat", 10, 20, 40, 50)], [])
