"""Formats of JSON: what each tool's numbers mean, and that broken files are named."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders import write_image
from hypothesis import given
from hypothesis import strategies as st
from read_back import objects, read, write

from onestage.data import find_datasets, read_dataset
from onestage.data_options import DataOptions
from onestage.errors import UserError

BROKEN = [None, 7, "cat", [], {}, [[1, 2]], math.nan, 1e400, 10**400, {"a": [None]}, True]


# ---------------------------------------------------------------- labelme
def shape(label: object, kind: object, *points: object) -> dict:
    return {"label": label, "points": list(points), "shape_type": kind}


def labelme(*shapes: object, image: object = "a.jpg", size: tuple[object, object] = (60, 80)) -> dict:
    return {"shapes": list(shapes), "imagePath": image, "imageHeight": size[0], "imageWidth": size[1]}


def test_labelme_shapes_become_their_boxes_and_points_and_lines_one_notice(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.jpg")
    shapes = [
        shape("cat", "rectangle", [40, 50], [10, 20]),
        shape("dog", "circle", [30, 30], [33, 34]),  # radius 5
        shape("cat", "polygon", [10, 5], [20, 9], [15, 30.5]),
        shape("bat", "rotation", [10, 20], [20, 10], [30, 20], [20, 30]),
        shape("cat", "point", [1, 1]),
        shape("cat", "linestrip", [1, 1], [2, 2]),
    ]
    write(tmp_path, "labels/a.json", labelme(*shapes, image="..\\images\\a.jpg"))
    table, problems = read(tmp_path, "labelme")
    assert objects(table) == [
        ("cat", 10, 20, 40, 50),
        ("dog", 25, 25, 35, 35),
        ("cat", 10, 5, 20, 30.5),
        ("bat", 10, 10, 30, 30),
    ]
    assert [kind for kind, _ in problems] == ["no-box"]
    assert "1 'point', 1 'linestrip' in all" in problems[0][1]


def test_labelme_takes_the_image_of_the_same_stem_where_image_path_leads_nowhere(tmp_path: Path) -> None:
    write_image(tmp_path / "train/a.jpg")
    write_image(tmp_path / "val/b.jpg")
    write(tmp_path, "train/a.json", labelme(shape("cat", "rectangle", [1, 2], [3, 4]), image="/home/ann/IMG 7.jpg"))
    write(tmp_path, "val/b.json", labelme(image=None, size=(None, "x")))
    assert [one.source.splits for one in find_datasets(tmp_path)] == [["train", "val"]]
    table, problems = read(tmp_path, "labelme", "train")
    assert (table.image_name(0), objects(table), problems) == ("train/a.jpg", [("cat", 1, 2, 3, 4)], [])
    table, problems = read(tmp_path, "labelme", "val")
    assert (table.image_sizes_hw.tolist(), objects(table), problems) == ([[60, 80]], [], [])


def test_labelme_names_broken_records_and_keeps_the_others(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    shapes = [7, shape(None, "rectangle", [1, 2], [3, 4]), shape("cat", "polygon", [1, 2]), shape("cat", ["x"], "no")]
    write(tmp_path, "a.json", labelme(*shapes, shape("cat", "circle", [math.nan, 2], [3, 4])))
    write(tmp_path, "b.json", "{")
    write(tmp_path, "c.json", {"shapes": 7})
    write(tmp_path, "d.json", labelme(image="lost.jpg"))
    table, problems = read(tmp_path, "labelme")
    assert objects(table) == []
    assert [kind for kind, _ in problems] == ["annotation"] * 6 + ["missing-image", "box-not-finite"]
    lines = [line for _, line in problems]
    assert lines[0] == "a.json, object 1: 7 is no shape; delete it"
    assert lines[1] == "a.json, object 2: its class is None, expected a name; give it one"
    assert lines[2].startswith("a.json, object 3: 'polygon' with the points [[1, 2]] gives no box")
    assert lines[4].startswith("b.json: not JSON")
    assert lines[5].startswith("c.json: shapes is 7, expected labelme's list")


# ---------------------------------------------------------------- VIA
RECT = {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 5}


def via(*regions: object, name: str = "a.jpg") -> dict:
    return {f"{name}99": {"filename": name, "size": 99, "regions": list(regions), "file_attributes": {}}}


def region(shape_attributes: object, **attributes: object) -> dict:
    return {"shape_attributes": shape_attributes, "region_attributes": attributes}


def test_via_shapes_and_the_attribute_that_is_the_class(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    polygon = {"name": "polygon", "all_points_x": [5, 9, 7], "all_points_y": [1, 2, 8]}
    ellipse = {"name": "ellipse", "cx": 30, "cy": 30, "rx": 10, "ry": 5, "theta": math.pi / 2}
    regions = [
        region(RECT, colour="red", Class="cat"),
        region({"name": "circle", "cx": 30, "cy": 30, "r": 4}, breed="dog"),
        region(polygon, type={"cat": True, "dog": False}),
        region(ellipse, name="bat"),
        region({"name": "point", "cx": 3, "cy": 3}, name="bat"),
    ]
    write(tmp_path, "via_project.json", {"_via_settings": {}, "_via_img_metadata": via(*regions)})
    table, problems = read(tmp_path, "via")
    boxes = [("cat", 10, 20, 40, 25), ("dog", 26, 26, 34, 34), ("cat", 5, 1, 9, 8), ("bat", 25, 20, 35, 40)]
    assert objects(table) == boxes
    assert [kind for kind, _ in problems] == ["no-box"]


def test_via_attributes_without_any_value_leave_the_class_to_the_other(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "via.json", via(region(RECT, Animal="dog", Notes=""), region(RECT, Notes="", Animal="")))
    table, problems = read(tmp_path, "via")
    nameless = "via.json, a, object 2: its class is '', expected a name; give it one"
    assert (objects(table), problems) == ([("dog", 10, 20, 40, 25)], [("annotation", nameless)])


def test_via_of_several_attributes_with_values_one_has_to_be_called_the_class(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "via.json", via(region(RECT, Animal="dog", Notes=""), region(RECT, Animal="cat", Notes="blurred")))
    table, problems = read(tmp_path, "via")
    none = "of its attributes ['Animal', 'Notes'] none is called class, label, category, name, type"
    assert objects(table) == []
    assert problems == [
        ("annotation", f"via.json, a, object {number}: {none}; rename the one that is the class") for number in (1, 2)
    ]


@pytest.mark.parametrize("value", ["2", {"1": False, "2": True}])
def test_via_options_that_are_numbered_are_their_descriptions(value: object, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    options = {"type": {"type": "dropdown", "options": {"1": "cat", "2": "dog", "bat": "Bat (an animal)"}}}
    regions = [region(RECT, type=value), region(RECT, type="bat"), region(RECT, type="3")]
    project = {"_via_img_metadata": via(*regions), "_via_attributes": {"region": options, "file": {}}}
    write(tmp_path, "via_project.json", project)
    table, problems = read(tmp_path, "via")
    assert ([name for name, *_ in objects(table)], problems) == (["dog", "bat", "3"], [])


def test_via_the_first_usual_attribute_that_has_values_is_the_class(tmp_path: Path) -> None:
    for folder, regions in (
        ("a", [region(RECT, name="", type="dog"), region(RECT, name="", type="")]),
        ("b", [region(RECT, name="", type="dog"), region(RECT, name="cat", type="animal")]),
    ):
        write_image(tmp_path / folder / "a.jpg")
        write(tmp_path / folder, "via.json", via(*regions))
        table, problems = read(tmp_path / folder, "via")
        place, name = ("via.json, a, object 2", "dog") if folder == "a" else ("via.json, a, object 1", "cat")
        assert objects(table) == [(name, 10, 20, 40, 25)]
        assert problems == [("annotation", f"{place}: its class is '', expected a name; give it one")]


def test_via_1_numbers_its_regions_and_folders_are_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "a.jpg")
        content = via()
        content["a.jpg99"]["regions"] = {"0": region(RECT, label=split)}
        write(tmp_path, f"{split}/via_region_data.json", content)
    table, problems = read(tmp_path, "via", "val")
    assert (table.image_name(0), objects(table), problems) == ("val/a.jpg", [("val", 10, 20, 40, 25)], [])


VIA_HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"


def test_via_3_csv_has_its_header_in_a_remark(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name)
    lines = [
        "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)",
        "# Notes:",
        "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata",
        """"1_a","[""a.jpg""]",0,"[]","[2,10,20,30,5]","{""1"":""dog""}\"""",
        """"1_b","[""a.jpg""]",0,"[]","[7,5,1,9,2,7,8]","{""1"":""cat""}\"""",
        """"2_a","[""b.jpg""]",0,"[]","[]","{""2"":""night""}\"""",
    ]
    write(tmp_path, "via.csv", "\n".join(lines))
    table, problems = read(tmp_path, "via")
    assert objects(table) == [("dog", 10, 20, 40, 25), ("cat", 5, 1, 9, 8)]
    assert (objects(table, 1), problems) == ([], [])


def test_via_csv_has_json_in_its_columns(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    shape_text = json.dumps(RECT).replace('"', '""')
    rows = f'a.jpg,9,"{{}}",1,0,"{shape_text}","{{""label"":""cat""}}"\nb.jpg,9,"{{}}",0,0,"{{}}","{{}}"\n'
    write(tmp_path, "via_csv.csv", VIA_HEADER + rows + 'b.jpg,9,"{}",1,0,"{broken","{}"\n')
    table, problems = read(tmp_path, "via")
    assert (objects(table), objects(table, 1)) == ([("cat", 10, 20, 40, 25)], [])
    broken = "the region '{broken' gives no box; write its corners as numbers or delete it"
    nameless = "VIA: 1 regions have no attributes, so they are of the class 'object'"
    assert problems == [("annotation", f"via_csv.csv, b, object 3: {broken}"), ("class-not-given", nameless)]


# ---------------------------------------------------------------- Label Studio
def result(kind: str, value: dict, **more: object) -> dict:
    return {"type": kind, "original_width": 80, "original_height": 60, "value": value, **more}


def test_label_studio_percents_turned_boxes_and_several_annotations(tmp_path: Path) -> None:
    write_image(tmp_path / "a b.jpg")
    results = [
        result("rectanglelabels", {"x": 50, "y": 50, "width": 25, "height": 10, "rectanglelabels": ["cat"]}),
        result(
            "rectanglelabels", {"x": 50, "y": 0, "width": 25, "height": 10, "rotation": 90, "rectanglelabels": ["cat"]}
        ),
        result("polygonlabels", {"points": [[10, 10], [20, 10], [15, 20]], "polygonlabels": ["dog"]}),
        result("ellipselabels", {"x": 50, "y": 50, "radiusX": 10, "radiusY": 5, "ellipselabels": ["dog"]}),
        result("keypointlabels", {"x": 1, "y": 1, "keypointlabels": ["dog"]}),
    ]
    other = {"result": [result("rectanglelabels", {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["x"]})]}
    data = {"text": "hello", "image": "/data/local-files/?d=up/1a2b3c4d-a%20b.jpg"}
    tasks = [
        {"id": 1, "data": data, "annotations": [{"result": [], "was_cancelled": True}, {"result": results}, other]}
    ]
    write(tmp_path, "project.json", tasks)
    table, problems = read(tmp_path, "label-studio")
    assert objects(table) == [
        ("cat", 40, 30, 60, 36),
        ("cat", 34, 0, 40, 20),  # 20 x 6 pixels turned around (40, 0)
        ("dog", 8, 6, 16, 12),
        ("dog", 32, 27, 48, 33),
    ]
    assert sorted(kind for kind, _ in problems) == ["no-box", "several-annotations"]


def test_label_studio_json_min_has_the_regions_beside_the_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    box = {"x": 50, "y": 50, "width": 25, "height": 10, "rotation": 0, "rectanglelabels": ["cat"]}
    write(tmp_path, "min.json", [{"image": "http://host/upload/a.jpg", "id": 1, "label": [box], "annotator": 1}])
    table, problems = read(tmp_path, "label-studio")
    assert (objects(table), problems) == ([("cat", 40, 30, 60, 36)], [])


def test_a_label_studio_shape_without_a_label_is_named_unless_a_region_of_its_own_has_the_label(tmp_path: Path) -> None:
    """With the tags Rectangle and Labels, a box is a region, and the same box with its label another one."""
    write_image(tmp_path / "a.jpg")
    box, other = {"x": 50, "y": 50, "width": 25, "height": 10}, {"x": 0, "y": 0, "width": 25, "height": 10}
    results = [
        result("rectangle", box),
        result("labels", box | {"labels": ["cat"]}),
        result("rectanglelabels", other),
        result("rectanglelabels", other | {"rectanglelabels": []}),
        result("polygon", {"points": [[1, 1], [2, 2], [1, 2]]}),
        result("choices", {"choices": ["blurred"]}),
    ]
    write(tmp_path, "project.json", [{"data": {"image": "a.jpg"}, "annotations": [{"result": results}]}])
    table, problems = read(tmp_path, "label-studio")
    assert objects(table) == [("cat", 40, 30, 60, 36)]
    assert problems == [
        ("annotation", "project.json, task 1, object 3: its class is None, expected a name; give it one"),
        ("annotation", "project.json, task 1, object 4: its class is [], expected a name; give it one"),
        ("annotation", "project.json, task 1, object 5: its class is None, expected a name; give it one"),
        ("no-box", "label-studio: 1 'choices' in all: shapes without a box are no objects"),
    ]


# ---------------------------------------------------------------- CreateML, Supervisely
def test_createml_boxes_are_centre_and_size(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    box = {"label": "cat", "coordinates": {"x": 25, "y": 35, "width": 30, "height": 30}}
    content = [
        {"image": "a.jpg", "annotations": [box, {"label": "cat"}, 7]},
        {"imagefilename": "b.jpg", "annotations": []},
        7,
    ]
    write(tmp_path, "annotations.json", content)
    table, problems = read(tmp_path, "createml")
    assert (objects(table), objects(table, 1)) == ([("cat", 10, 20, 40, 50)], [])
    assert [line.partition(":")[0] for _, line in problems] == [
        "annotations.json, image 1, object 2",
        "annotations.json, image 1, object 3",
        "annotations.json",
    ]


def figure(kind: object, *points: object, name: object = "cat") -> dict:
    return {"classTitle": name, "geometryType": kind, "points": {"exterior": list(points), "interior": []}}


def test_supervisely_last_pixels_of_rectangles_belong_to_them(tmp_path: Path) -> None:
    write_image(tmp_path / "ds0/img/a.jpg")
    write(tmp_path, "meta.json", {"classes": [{"title": "dog"}, {"title": "cat"}]})
    figures = [
        figure("rectangle", [39, 49], [10, 20]),
        figure("polygon", [5, 1], [9, 2], [7, 8]),
        figure("point", [1, 1]),
    ]
    content = {
        "size": {"height": 60, "width": 80},
        "objects": [*figures, figure("polygon", "x"), figure(7, [1, 2], [3, 4])],
    }
    write(tmp_path, "ds0/ann/a.jpg.json", content)
    table, problems = read(tmp_path, "supervisely")
    assert table.categories.names == ("dog", "cat")
    assert objects(table) == [("cat", 10, 20, 40, 50), ("cat", 5, 1, 9, 8)]
    assert [kind for kind, _ in problems] == ["annotation", "annotation", "no-box"]


# ---------------------------------------------------------------- any JSON
def createml(value: Any, other: Any) -> object:
    return [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": value}, other]}, {"image": value}, other]


def supervisely(value: Any, other: Any) -> object:
    return {"size": other, "objects": [value, {"classTitle": other, "geometryType": "polygon", "points": value}]}


def label_studio(value: Any, other: Any) -> object:
    named = {"rectanglelabels": ["cat"], **(other if isinstance(other, dict) else {})}
    return [{"data": {"image": "a.jpg"}, "annotations": [{"result": [value, result("x", named)]}, other]}, value, {
        "image": "a.jpg", "label": [named, value], "other": other
    }]  # fmt: skip


# format -> the file, and its content around two values
JSON_FILES: dict[str, tuple[str, Callable[[Any, Any], object]]] = {
    "labelme": ("a.json", lambda a, b: labelme(shape("cat", "circle", a), a, shape(b, a, b), image=b, size=(a, b))),
    "via": ("via.json", lambda a, b: {**via(region(a, name=b), region(RECT, a=a), b), "b": a, "c": {"filename": b}}),
    "label-studio": ("tasks.json", label_studio),
    "createml": ("annotations.json", createml),
    "supervisely": ("ds0/ann/a.jpg.json", supervisely),
    "coco": ("coco.json", lambda a, b: {"images": [a, {"file_name": b}], "annotations": [b], "categories": [a]}),
}
KEYS = ["x", "y", "width", "height", "points", "exterior", "label", "name", "cx", "cy", "r", "shape_type", "rotation"]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from(["rect", "a.jpg"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)


def gives_a_table_or_a_user_error(kind: str, value: object, other: object) -> None:
    name, content = JSON_FILES[kind]
    with tempfile.TemporaryDirectory() as folder:
        write_image(Path(folder) / "a.jpg")
        write(Path(folder), name, content(value, other))
        try:
            table, _ = read_dataset(folder, "all", options=DataOptions(format=kind))
        except UserError:
            return
        assert all(len(box) == 4 for index in range(len(table)) for box in table.objects(index).boxes_xyxy)


@pytest.mark.parametrize("kind", JSON_FILES)
@given(value=ANY_JSON, other=ANY_JSON)
def test_any_json_gives_a_table_or_a_user_error(kind: str, value: object, other: object) -> None:
    gives_a_table_or_a_user_error(kind, value, other)


@pytest.mark.parametrize("kind", JSON_FILES)
def test_broken_values_give_a_table_or_a_user_error(kind: str) -> None:
    for value in BROKEN:
        gives_a_table_or_a_user_error(kind, value, "cat")
        gives_a_table_or_a_user_error(kind, [[1, 2], [30, 40]], value)


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    text = json.dumps(labelme(shape("cat", "rectangle", [1, 2], [3, 4])))
    (tmp_path / "a.json").write_text(text[:-1] + ', "shapes": []}')
    with pytest.raises(UserError, match=r"a\.json: not JSON \(the key 'shapes' stands twice\)"):
        read_dataset(tmp_path, "all")


def test_predictions_of_an_exported_label_studio_task_are_no_labels(tmp_path: Path) -> None:
    """They count only where there is no list of annotations: in tasks that are still to be imported."""
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["cat"]}
    region = {"type": "rectanglelabels", "original_width": 80, "original_height": 60, "value": value}
    predictions = [{"result": [region]}, {"result": []}]
    write(tmp_path, "tasks.json", [{"data": {"image": "a.jpg"}, "predictions": predictions}])
    table, problems = read(tmp_path, "label-studio")
    assert objects(table) == [("cat", 8.0, 12.0, 32.0, 36.0)]
    assert [kind for kind, _ in problems] == ["predictions"]
    labelled = {"data": {"image": "a.jpg"}, "annotations": [{"result": [region]}], "predictions": predictions}
    unlabelled = {"data": {"image": "b.jpg"}, "annotations": [], "predictions": predictions}
    write(tmp_path, "tasks.json", [labelled, unlabelled])
    table, problems = read(tmp_path, "label-studio")
    assert [table.image_name(index) for index in range(len(table))] == ["a.jpg"]
    assert [kind for kind, _ in problems] == ["not-labelled"]
