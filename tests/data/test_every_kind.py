"""Every kind of folder is read, converted and split with nothing lost."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import CLASSES, DRAWINGS, put
from folders import write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_folders import KINDS
from rich.console import Console

import onestage
from onestage.data import FORMATS, find_datasets, read_dataset, validate_images
from onestage.data.table import Table, TableBuilder
from onestage.data.validate import errors
from onestage.data.writing import WRITERS
from onestage.structures import Categories
from onestage.terminal import Display

convert = onestage.convert  # imported here, not in the first test
QUIET = Display(Console(file=io.StringIO()))


def rows_of(table: Table) -> dict[str, list[tuple]]:
    """Stem of an image -> its objects: class, box as the table has it, whether it is ignored."""
    found = {}
    for index in range(len(table)):
        boxes_xyxy, labels, ignored = table.objects(index)
        names = [table.categories.names[label] for label in labels]
        stem = Path(table.image_name(index)).stem
        found[stem] = list(zip(names, map(tuple, boxes_xyxy.tolist()), ignored.tolist(), strict=True))
    return found


def all_rows(tables: dict[str, Table]) -> dict[str, list[tuple]]:
    return {stem: rows for table in tables.values() for stem, rows in rows_of(table).items()}


def read_all(root: Path) -> dict[str, Table]:
    """Every split by its name; nothing may be wrong with it."""
    (found,) = find_datasets(root)
    tables = {}
    for split in found.source.splits:
        tables[split], problems = read_dataset(root, split)
        assert errors([*problems, *validate_images(tables[split])]) == []
    return tables


def test_every_format_that_is_read_has_a_kind_of_folder() -> None:
    assert {kind.format for kind in KINDS.values()} == set(FORMATS)


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_of_every_kind_gives_the_images_boxes_and_classes_that_were_drawn(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    placed = kind.write(tmp_path)

    (found,) = find_datasets(tmp_path)
    assert found.kind == kind.format
    assert found.describe().startswith(f"{tmp_path}: {kind.said}")
    tables = read_all(tmp_path)

    assert set(tables) == set(placed)
    for split, table in tables.items():
        assert table.categories.names == (CLASSES if kind.in_order else tuple(sorted(CLASSES)))
        assert {table.image_name(index) for index in range(len(table))} == set(placed[split])
        for index in range(len(table)):
            drawing = placed[split][table.image_name(index)]
            boxes_xyxy, labels, ignored = table.objects(index)
            assert tuple(table.image_sizes_hw[index].tolist()) == drawing.size_wh[::-1]
            assert [table.categories.names[label] for label in labels] == [name for name, _ in drawing.objects]
            assert not ignored.any()
            drawn = [box for _, box in drawing.objects]
            np.testing.assert_allclose(boxes_xyxy, drawn, rtol=0, atol=kind.tolerance)


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_of_every_kind_is_converted_without_a_change(name: str, tmp_path: Path) -> None:
    KINDS[name].write(tmp_path / "data")
    read = read_all(tmp_path / "data")
    for to in ("voc", "coco", "yolo"):
        convert(tmp_path / "data", to=to, out=tmp_path / to, display=QUIET)

        again = read_all(tmp_path / to)

        assert set(again) == {"train" if split == "all" else split for split in read}
        assert all_rows(again) == all_rows(read)
        names = {table.categories.names for table in again.values()}
        assert names == {table.categories.names for table in read.values()}


# ---------------------------------------------------------------- awkward boxes
SIDES_WH = (37, 201)  # odd, so that fractions of them have no end
SIDE = st.floats(0.0, 1.0, width=32)
GAP = st.floats(0.001, 0.5)


@st.composite
def boxes_xyxy(draw: st.DrawFn) -> tuple[float, ...]:
    """A box of any float32 inside of the image, some on its border."""
    low_high = []
    for length in SIDES_WH:
        low = np.float32(draw(SIDE) * length * 0.9)
        high = np.float32(min(float(low) + draw(GAP) * length, length))
        low_high.append((float(np.round(low * 2**16) / 2**16), float(high)))
    (x0, x1), (y0, y1) = low_high
    return x0, y0, x1, y1


@settings(max_examples=25)
@given(st.lists(st.tuples(boxes_xyxy(), st.integers(0, 2), st.booleans()), max_size=5, unique_by=lambda one: one[0]))
def test_boxes_with_any_decimals_and_ignored_objects_are_written_with_all_their_digits(objects: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_image(root / "a.png", SIDES_WH[::-1])
        builder = TableBuilder(root, "train", "labelme")
        boxes = np.array([box for box, _, _ in objects], dtype=np.float64).reshape(-1, 4)
        labels, ignored = [label for _, label, _ in objects], [hard for *_, hard in objects]
        builder.add(
            path="a.png", image_id="a", size_hw=SIDES_WH[::-1], boxes_xyxy=boxes, labels=labels, ignored=ignored
        )
        table = builder.build(Categories.from_names(CLASSES))
        for to, write in WRITERS.items():
            write({"train": table}, root / to)
            again, problems = read_dataset(root / to, "train")
            wanted = [row for row in rows_of(table)["a"] if to != "yolo" or not row[2]]
            assert (rows_of(again)["a"], again.categories.names) == (wanted, CLASSES)
            assert problems == []


def test_ids_of_cocos_images_and_categories_are_kept(tmp_path: Path) -> None:
    kept = {}
    for split, first in (("train2017", 139), ("val2017", 9000)):
        write_image(tmp_path / "coco" / split / f"{first}.png")
        images = [{"id": first, "file_name": f"{first}.png", "width": 80, "height": 60}]
        objects = [{"id": 1, "image_id": first, "category_id": 90, "bbox": [1, 2, 3.5, 4], "iscrowd": 1, "area": 7.25}]
        categories = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}]
        kept[split] = {"images": images, "annotations": objects, "categories": categories}
        put(tmp_path / "coco", f"annotations/instances_{split}.json", kept[split])
    convert(tmp_path / "coco", to="coco", out=tmp_path / "again", display=QUIET)
    for split, content in kept.items():
        again = json.loads((tmp_path / "again" / "annotations" / f"instances_{split}.json").read_text())
        assert again["images"] == content["images"]
        assert again["categories"] == content["categories"][::-1]  # by their numbers
        (one,) = again["annotations"]
        assert {key: one[key] for key in ("image_id", "category_id", "bbox", "iscrowd", "area")} == {
            key: content["annotations"][0][key] for key in ("image_id", "category_id", "bbox", "iscrowd", "area")
        }


@pytest.mark.parametrize("name", ["voc-devkit", "coco-roboflow", "kitti", "labelme-beside"])
@pytest.mark.parametrize("to", WRITERS)
def test_new_splits_have_each_image_once(name: str, to: Any, tmp_path: Path) -> None:
    KINDS[name].write(tmp_path / "data")
    convert(tmp_path / "data", to=to, out=tmp_path / "new", split="0.6,0.2,0.2", display=QUIET)
    tables = read_all(tmp_path / "new")
    assert list(tables) == sorted(tables, key=["train", "val", "test"].index if to == "yolo" else str)
    assert set(tables) == {"train", "val", "test"}
    assert sum(map(len, tables.values())) == len(DRAWINGS)
    assert all_rows(tables) == all_rows(read_all(tmp_path / "data"))


DOCUMENTED = {  # heading of docs/data.md -> how its kinds begin
    "LabelImg": "voc-labelimg",
    "labelme": "labelme",
    "CVAT": "cvat",
    "Label Studio": "label-studio",
    "Roboflow": "coco-roboflow",
    "VGG VIA": "via",
    "Ultralytics YOLO": "yolo-other-yaml",
    "Darknet YOLO": "yolo-darknet",
    "Supervisely": "supervisely",
    "CreateML": "createml",
    "CSV tables": "csv",
    "KITTI": "kitti",
    "Open Images": "open-images",
    "VOC": "voc-devkit",
    "COCO": "coco",
}


def test_each_tool_that_the_docs_name_is_among_the_kinds() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("### ") for line in page.splitlines() if line.startswith("### ")]
    assert headings == list(DOCUMENTED)
    for heading, kind in DOCUMENTED.items():
        assert any(name.startswith(kind) for name in KINDS), heading
