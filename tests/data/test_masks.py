"""Folders of masks and drawings are passed over; a folder that is only called so, as a class of faces, is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import read_split, voc_xml, write_files

LINE = "0 0.5 0.5 0.5 0.5\n"
XML = voc_xml([("cat", 11, 21, 40, 50)])


@pytest.mark.parametrize("other", ["1", "2"])  # the same name as in `mask`, and another
@pytest.mark.parametrize(
    ("images", "labels", "text"),
    [
        ("{}/{}.jpg", "{}/{}.xml", XML),
        ("images/{}/{}.jpg", "annotations/{}/{}.xml", XML),
        ("{}/{}.jpg", "{}/{}.txt", LINE),
        ("images/{}/{}.jpg", "labels/{}/{}.txt", LINE),
        ("images/train/{}/{}.jpg", "labels/train/{}/{}.txt", LINE),
    ],
)
def test_a_class_may_be_called_mask(images: str, labels: str, text: str, other: str, tmp_path: Path) -> None:
    places = [("mask", "1"), ("no_mask", other)]
    wanted = [images.format(*place) for place in places]
    root = write_files(tmp_path, wanted, {labels.format(*place): text for place in places})
    table, problems = read_split(root, "train" if "train" in images else "all")
    assert (table.image_names(), table.labels.tolist(), problems) == (wanted, [0, 0], [])


@pytest.mark.parametrize("other", ["1", "2"])
@pytest.mark.parametrize("name", ["mask/1.jpg", "images/mask/1.jpg", "/home/ann/mask/1.jpg"])
def test_coco_may_name_an_image_in_a_folder_called_mask(name: str, other: str, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": name, "width": 80, "height": 60}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 30], "area": 900}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    images = ["images/mask/1.jpg", f"images/no_mask/{other}.jpg"]
    table, problems = read_split(write_files(tmp_path, images, {"a.json": json.dumps(content)}), "all")
    assert (table.image_names(), problems) == ([images[0]], [])


@pytest.mark.parametrize("place", ["masks", "images/mask", "SegmentationClass", "train/overlays"])
@pytest.mark.parametrize("text", [LINE, XML])
def test_images_with_the_names_of_others_in_folders_of_masks_are_passed_over(
    text: str, place: str, tmp_path: Path
) -> None:
    labels = {"labels/1.txt" if text == LINE else "xml/1.xml": text}
    table, problems = read_split(write_files(tmp_path, ["images/1.jpg", f"{place}/1.jpg"], labels), "all")
    assert (table.image_names(), problems) == (["images/1.jpg"], [])
