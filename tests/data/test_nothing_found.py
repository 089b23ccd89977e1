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


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a pointer of Git LFS"),
        ("a.xml", "<annotation><source><sourceAnnotation>LabelMe Webtool", "XML of LabelMe 3.0"),
        ("a.csv", "annotation_id,id,image,label,lead_time\n", "Label Studio's CSV"),
        ("a.json", '{"image": {}, "annotations": [{"name": "dog", "bounding_box": {"x": 7}}]}', "V7 Darwin's JSON"),
        ("a.json", '{"assets": {"0": {"regions": [{"boundingBox": {"left": 7}}]}}}', "VoTT's JSON"),
        ("a.jpg.json", '{"metadata": {}, "instances": [{"className": "dog"}]}', "SuperAnnotate's JSON"),
        ("a.json", '[{"name": "a.jpg", "labels": [{"box2d": {"x1": 7}}]}]', "BDD100K's JSON"),
        ("a.json", '{"imgHeight": 60, "objects": []}', "Cityscapes' JSON"),
        ("a.ndjson", '{"data_row": {}}', "Labelbox's NDJSON"),
        ("output.manifest", '{"source-ref": "s3://b/a.jpg"}', "a manifest of SageMaker"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "objects": {}}', "a table of Hugging Face"),
        ("a.parquet", "PAR1", "a Parquet table"),
        ("train.odgt", '{"ID": "a", "gtboxes": []}', "odgt of CrowdHuman"),
        ("bb.csv", 'NAME_ID,X,Y,W,H\n"a",7,18,24,25\n', "a table of VGGFace2"),
        ("a.txt", "imagesource:GoogleEarth\ngsd:0.1\n7.0 18.0 31.0 18.0 31.0 43.0 7.0 43.0 dog 0\n", "a file of DOTA"),
        ("a.txt", "7 18 31 18 31 43 7 43 small-vehicle 1\n", "a file of DOTA"),
        ("bbx.txt", "0--Parade/a.jpg\n1\n7 18 24 25 0 0 0 0 0 0 \n", "a list of WIDER FACE"),
        ("a.txt", "7,18,24,25,1,4,0,0\n", "a file of VisDrone"),
        ("gt/gt.txt", "1,-1,7,18,24.5,25,1,-1,-1,-1\n", "a table of MOT"),
        ("train.txt", "a.jpg a.txt\n", "a list of images with files of boxes"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, name, text)
    with pytest.raises(UserError) as refusal:
        find_datasets(tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path}: {name} is {said}, which is not read; ")


@pytest.mark.parametrize("archive", ["labels.zip", "annotations/instances.json.gz"])
def test_an_archive_beside_the_images_is_to_be_unpacked(tmp_path: Path, archive: str) -> None:
    write_image(tmp_path / "images/a.jpg")
    write(tmp_path, archive, "PK")
    write(tmp_path, "readme.txt", "of our camera\n")
    with pytest.raises(UserError, match=f"1 image, no annotation, but the archive {archive}; unpack it"):
        find_datasets(tmp_path)
