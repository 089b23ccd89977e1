"""Annotations of one image in several files, and a folder called `train` that is no split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from drawings import put
from folders import voc_xml, write_image

from onestage.data import find_datasets, read_dataset
from onestage.data.validate import drop_bad

BOXES = {"dog": "10,10,30,40", "cat": "40,5,70,50"}  # x0, y0, x1, y1


def write_tables(folder: Path, tables: Mapping[str, Mapping[str, list[str]]]) -> Path:
    """CSV tables, `{file: {image: classes}}`, and the images that they name."""
    for file, images in tables.items():
        lines = [f"{image}.png,{name},{BOXES[name]}" for image, names in images.items() for name in names]
        folder.mkdir(exist_ok=True)
        (folder / file).write_text("\n".join(["image,label,xmin,ymin,xmax,ymax", *lines]) + "\n")
        for image in images:
            write_image(folder / f"images/{image}.png", (60, 80), seed=ord(image))
    return folder


def objects_by_image(folder: Path) -> dict[str, list[tuple[str, list[float]]]]:
    table, problems = read_dataset(folder, "all")
    assert problems == []
    return {
        table.image_id(index): [
            (table.categories.names[label], box)
            for label, box in zip(table.objects(index).labels, table.objects(index).boxes_xyxy.tolist(), strict=True)
        ]
        for index in range(len(table))
    }


def test_files_of_a_class_each_are_joined(tmp_path: Path) -> None:
    tables = {"cat.csv": {"a": ["cat"], "b": ["cat"]}, "dog.csv": {"c": ["dog"], "a": ["dog"]}}
    cat, dog = ("cat", [40, 5, 70, 50]), ("dog", [10, 10, 30, 40])
    assert objects_by_image(write_tables(tmp_path / "data", tables)) == {"a": [cat, dog], "b": [cat], "c": [dog]}


def test_two_annotations_of_other_sizes_are_not_joined(tmp_path: Path) -> None:
    for name, width in (("cat", 80), ("dog", 160)):
        text = f"filename,width,height,class,xmin,ymin,xmax,ymax\na.png,{width},60,{name},{BOXES[name]}\n"
        put(tmp_path, f"data/{name}.csv", text)
    write_image(tmp_path / "data/a.png", (60, 80))
    table, problems = read_dataset(tmp_path / "data", "all")
    assert [problem.kind for problem in problems] == ["duplicate-image"]
    assert len(table.labels) == 1


def test_two_annotations_with_a_class_in_common_leave_the_image_out(tmp_path: Path) -> None:
    tables = {"new.csv": {"a": ["cat", "dog"], "b": ["dog"]}, "old.csv": {"a": ["dog"]}}
    table, problems = read_dataset(write_tables(tmp_path / "data", tables), "all")
    assert [str(problem) for problem in problems] == [
        "images/a.png: is the image of new.csv and of old.csv; delete one of the two"
    ]
    assert drop_bad(table, problems).image_names() == ["images/b.png"]


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("car", "bus", "train"), ["all"]),
        (("car", "train/front"), ["all"]),
        (("car", "train", "test"), ["all", "test", "train"]),  # names of splits
        (("train",), ["train"]),
        (("car", "test"), ["all", "test"]),
    ],
)
def test_a_folder_called_train_is_no_split_where_the_others_are_none(
    folders: tuple[str, ...], splits: list[str], tmp_path: Path
) -> None:
    for number, folder in enumerate(folders):
        write_image(tmp_path / folder / f"{number}.jpg")
        xml = voc_xml([("thing", 10, 10, 30, 30)], filename=f"{number}.jpg")
        (tmp_path / folder / f"{number}.xml").write_text(xml)
    (found,) = find_datasets(tmp_path)
    assert found.source.splits == splits
    if splits == ["all"]:
        table, problems = read_dataset(tmp_path, "train")
        assert (len(table), problems) == (len(folders), [])
        assert "train is taken for no split, since the other images are of none" in found.describe()
