"""Which JSON files of a folder are COCO's: those with its lists, whatever their names and wherever the lists are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import write_image
from read_back import objects, read, write

from onestage.data import find_datasets
from onestage.errors import UserError

IMAGES = {"images": [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80}]}
CATEGORIES = {"categories": [{"id": 1, "name": "cat"}]}
ANNOTATIONS = {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 30], "area": 900}]}
COCO = IMAGES | CATEGORIES | ANNOTATIONS
NAMES = ["cat", *map(str, range(2_000))]
MANY_CATEGORIES = {"categories": [{"id": n, "name": name, "def": "word " * 20} for n, name in enumerate(NAMES, 1)]}
CAT = [("cat", 10, 20, 40, 50)]
RESULTS = {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.3}]}
CAPTIONS = IMAGES | {"annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}
SEGMENT = {"id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
SEGMENTS = {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [SEGMENT, SEGMENT]}]}


@pytest.mark.parametrize(
    "name",
    ["person_keypoints_default.json", "stuffed_animals.json", "stuff.json", "image_info.json", "panoptic_all.json"],
)
@pytest.mark.parametrize("lists", [COCO, ANNOTATIONS | CATEGORIES | IMAGES, MANY_CATEGORIES | IMAGES | ANNOTATIONS])
def test_a_file_of_any_name_with_cocos_lists_is_read(name: str, lists: dict, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, name, lists | {"notes": "y" * 100_000})
    table, problems = read(tmp_path, "coco")
    assert (objects(table), problems) == (CAT, [])


def test_utf_16_is_looked_through_too(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    (tmp_path / "labels.json").write_text(json.dumps(COCO), encoding="utf-16")
    assert objects(read(tmp_path, "coco")[0]) == CAT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results/pred.json", RESULTS),
        ("annotations/captions_train.json", CAPTIONS),
        ("annotations/captions.json", CAPTIONS),
        ("annotations/segments_train.json", IMAGES | CATEGORIES | SEGMENTS),
        ("annotations/panoptic_train.json", IMAGES | CATEGORIES | SEGMENTS),
        ("annotations/person_keypoints_train.json", COCO),
        ("annotations/stuff_train.json", COCO),
    ],
)
def test_other_files_beside_the_instances_are_passed_over(name: str, content: dict, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "annotations/instances_train.json", COCO)
    write(tmp_path, name, content)
    (found,) = find_datasets(tmp_path)
    assert (found.kind, found.source.splits) == ("coco", ["train"])
    assert found.source.about == "COCO: annotations/instances_train.json"


@pytest.mark.parametrize(
    "name", ["annotations/image_info_test2017.json", "annotations/instances_test.json", "test.json"]
)
def test_images_without_a_list_of_annotations_are_said_and_are_no_split(name: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "annotations/instances_train.json", COCO)
    write(tmp_path, name, IMAGES | CATEGORIES)
    (found,) = find_datasets(tmp_path)
    assert found.source.splits == ["train"]
    files = f"annotations/instances_train.json; not used, as they have no annotations: {name}"
    assert found.source.about == f"COCO: {files}"


@pytest.mark.parametrize(("lists", "lacking"), [(IMAGES | CATEGORIES, "annotations"), (CAPTIONS, "categories")])
def test_a_lone_file_that_lacks_a_list_is_named_with_it(lists: dict, lacking: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "labels.json", lists)
    with pytest.raises(UserError, match=rf"labels\.json: it has no list of {lacking}; expected COCO's images"):
        read(tmp_path, "coco")


def test_a_file_without_categories_is_named_beside_one_that_has_them_but_results_are_not(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "train.json", COCO)
    write(tmp_path, "results.json", RESULTS)
    write(tmp_path, "captions_val.json", CAPTIONS)
    assert objects(read(tmp_path, "coco", "train")[0]) == CAT
    write(tmp_path, "val.json", IMAGES | ANNOTATIONS)
    with pytest.raises(UserError, match=r"val\.json: it has no list of categories; expected COCO's images"):
        read(tmp_path, "coco", "val")


@pytest.mark.parametrize("segments", [None, [], [SEGMENT]])
def test_a_file_with_boxes_is_read_whatever_it_says_of_panoptic_segments(segments: object, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    records = [record | {"segments_info": segments} for record in ANNOTATIONS["annotations"]]
    write(tmp_path, "labels.json", COCO | {"info": {"keys": ["segments_info"]}, "annotations": records})
    table, problems = read(tmp_path, "coco")
    assert (objects(table), problems) == (CAT, [])


BOX = {"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4]}
DATUMARO = {
    "info": {},
    "categories": {"label": {"labels": [{"name": "cat", "parent": ""}]}},
    "items": [{"id": "a", "annotations": [BOX], "image": {"path": "a.jpg"}}],
}
DARWIN = {
    "version": "2.0",
    "item": {"name": "a.jpg", "slots": [{"type": "image", "source_files": [{"file_name": "a.jpg"}]}]},
    "annotations": [{"name": "cat", "bounding_box": {"x": 1, "y": 2, "w": 3, "h": 4}}],
}
DATALOOP = {
    "filename": "/a.jpg",
    "annotations": [{"type": "box", "label": "cat", "coordinates": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}],
}


@pytest.mark.parametrize(
    ("tool", "content"), [("Datumaro", DATUMARO), ("V7 Darwin", DARWIN), ("Dataloop", DATALOOP)], ids=str
)
def test_json_of_a_tool_that_is_not_read_is_called_by_its_name(tool: str, content: dict, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "annotations/a.json", content)
    with pytest.raises(UserError, match=rf"a\.json: {tool}'s own JSON, which is not read; export as COCO"):
        find_datasets(tmp_path)
