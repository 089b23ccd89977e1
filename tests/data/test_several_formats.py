"""Folders with annotations of several kinds: labels win over what a model found, and none is lost without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import read_split, voc_xml, write_files, write_image

from onestage.data import find_datasets, read_dataset
from onestage.data.predictions import LIST_NAME
from onestage.data.table import Table

LINE = "0 0.5 0.5 0.5 0.5\n"  # of 80x60 pixels: 20, 15, 60, 45
WITH_CONFIDENCE = "0 0.5 0.5 0.25 0.25 0.33\n"  # 30, 22.5, 50, 37.5
VOC = voc_xml([("cat", 11, 21, 40, 50)])
SHAPE = {"label": "cat", "shape_type": "rectangle", "points": [[10, 20], [40, 50]]}
LABELME = json.dumps({"shapes": [SHAPE], "imagePath": "", "imageHeight": 60, "imageWidth": 80})
BOX, LINE_BOX, FOUND_BOX = [10.0, 20.0, 40.0, 50.0], [20.0, 15.0, 60.0, 45.0], [30.0, 22.5, 50.0, 37.5]


def folder(root: Path, **files: str) -> Path:
    """Stems with their annotations; an image `images/STEM.jpg` for each of a and b."""
    for stem in "ab":
        write_image(root / f"images/{stem}.jpg")
    return write_files(root, [], files)


def rows(table: Table) -> dict[str, list[list[float]]]:
    return {name: table.objects(row).boxes_xyxy.tolist() for row, name in enumerate(table.image_names())}


@pytest.mark.parametrize(
    "place", ["runs/detect/predict/labels", "runs/detect/exp/labels", "predictions", "images/predicted", "Preds_2"]
)
@pytest.mark.parametrize(
    ("labels", "box"),
    [
        ({"images/a.xml": VOC, "images/b.xml": VOC}, BOX),
        ({"images/a.json": LABELME, "images/b.json": LABELME}, BOX),
        ({"labels/a.txt": LINE, "labels/b.txt": LINE}, LINE_BOX),
    ],
)
def test_labels_win_over_what_a_model_found(labels: dict, box: list[float], place: str, tmp_path: Path) -> None:
    root = write_files(folder(tmp_path, **labels), [], {f"{place}/{stem}.txt": LINE + WITH_CONFIDENCE for stem in "ab"})
    write_image(root / place / "a.jpg")  # with the boxes drawn on it
    assert "; what a model found is skipped (" in find_datasets(root)[0].describe()
    table, problems = read_split(root, "all")
    assert (rows(table), problems) == ({"images/a.jpg": [box], "images/b.jpg": [box]}, [])


@pytest.mark.parametrize("line", [LINE, WITH_CONFIDENCE])
def test_what_a_model_found_is_read_where_nothing_else_is_there(line: str, tmp_path: Path) -> None:
    root = folder(tmp_path, **{f"predict/labels/{stem}.txt": line for stem in "ab"})
    table, _ = read_split(root, "all")
    box = LINE_BOX if line == LINE else FOUND_BOX
    assert rows(table) == {"images/a.jpg": [box], "images/b.jpg": [box]}
    write_files(root, [], {"data.yaml": "train: images\nnames: [cat]\n"})
    assert rows(read_split(root, "train")[0]) == rows(table)


def test_images_of_a_folder_that_is_called_as_predictions_are_stay_if_they_are_no_copies(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"images/a.xml": VOC, "xml/c.xml": VOC})
    write_image(root / "predictions/c.jpg")
    assert rows(read_split(root, "all")[0]) == {"images/a.jpg": [BOX], "predictions/c.jpg": [BOX]}


def test_a_folder_with_images_of_its_own_is_no_prediction_whatever_its_name(tmp_path: Path) -> None:
    for image in ("train/1", "inference/1", "inference/2"):
        write_image(tmp_path / f"{image}.jpg")
        write_files(tmp_path, [], {f"{image}.xml": VOC})
    table, problems = read_dataset(tmp_path, "all")
    assert rows(table) == {"train/1.jpg": [BOX], "inference/1.jpg": [BOX], "inference/2.jpg": [BOX]}
    assert problems == []


def test_a_folder_that_the_yaml_names_is_no_prediction_whatever_its_name(tmp_path: Path) -> None:
    for name in ("train", "inference"):
        write_image(tmp_path / name / "images/1.jpg")
        write_files(tmp_path, [], {f"{name}/labels/1.txt": LINE})
    write_files(tmp_path, [], {"data.yaml": "train: train/images\nval: inference/images\nnames: [cat]\n"})
    assert rows(read_split(tmp_path, "val")[0]) == {"inference/images/1.jpg": [LINE_BOX]}


def test_an_image_in_a_folder_called_prediction_is_the_one_that_coco_means(tmp_path: Path) -> None:
    for name in ("prediction", "control"):
        write_image(tmp_path / name / "1.jpg")
    content = {
        "images": [{"id": 1, "file_name": "prediction/1.jpg", "height": 60, "width": 80}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 30]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    write_files(tmp_path, [], {"labels.json": json.dumps(content)})
    assert rows(read_split(tmp_path, "all")[0]) == {"prediction/1.jpg": [BOX]}


def test_labels_in_a_folder_called_predictions_are_read_where_the_images_have_no_others(tmp_path: Path) -> None:
    table = "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,1,9,9\n"
    root = folder(tmp_path, **{"predictions/a.xml": VOC, "predictions/b.xml": VOC, "old.csv": table})
    assert rows(read_split(root, "all")[0]) == {"images/a.jpg": [BOX], "images/b.jpg": [BOX]}


def test_a_folder_called_detection_is_no_prediction(tmp_path: Path) -> None:
    files = {"detection/a.json": LABELME, "detection/b.json": LABELME, "segmentation/a.xml": VOC}
    assert find_datasets(folder(tmp_path, **files))[0].skipped == []


def write_list(root: Path, *names: str) -> None:
    """The list that `predict` keeps of these files."""
    status = {name: (root / name).stat() for name in names}
    lines = (json.dumps([name, [one.st_size, one.st_mtime_ns]]) for name, one in status.items())
    (root / LIST_NAME).write_text("".join(f"{line}\n" for line in lines))


def test_what_predict_wrote_below_the_labels_is_skipped_and_read_where_it_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"images/a.json": LABELME, "images/b.json": LABELME})
    found = {f"found/voc/Annotations/{stem}.xml": voc_xml([("cat", 1, 1, 9, 9)]) for stem in "ab"}
    write_files(root, [], found)
    write_image(root / "found/voc/JPEGImages/a.jpg")
    write_image(root / "found/a.jpg")
    written = ["a.jpg", "voc/JPEGImages/a.jpg", *(name.removeprefix("found/") for name in found)]
    write_list(root / "found", *written)
    assert find_datasets(root)[0].skipped == ["found/"]
    assert rows(read_split(root, "all")[0]) == {"images/a.jpg": [BOX], "images/b.jpg": [BOX]}

    assert rows(read_split(root / "found", "all")[0])["voc/JPEGImages/a.jpg"] == [[0.0, 0.0, 9.0, 9.0]]
    joined, _ = read_dataset(f"{root / 'images'}+{root / 'found/voc'}", "all")
    assert sorted(map(len, rows(joined).values())) == [1, 1, 1]


def test_what_predict_wrote_among_the_images_is_skipped_alone_and_not_what_was_corrected(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"images/a.json": LABELME, "images/a.xml": VOC, "images/b.xml": VOC})
    write_list(root / "images", "a.xml", "b.xml")
    assert rows(read_split(root, "all")[0]) == {"images/a.jpg": [BOX]}
    (root / "images/b.xml").write_text(voc_xml([("cat", 1, 1, 9, 9), ("cat", 1, 1, 5, 5)]))
    (found,) = find_datasets(root, "voc")
    assert rows(read_dataset(root, "all", found=[found])[0]) == {"images/b.jpg": [[0, 0, 9, 9], [0, 0, 5, 5]]}


def test_what_predict_wrote_into_the_folder_of_the_labels_is_told_by_its_list(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"a.json": LABELME, "detections.csv": "filename,class,xmin,ymin,xmax,ymax\n"})
    write_files(root, [], {"voc/Annotations/a.xml": VOC, "voc/Annotations/b.xml": VOC})
    names = ("detections.csv", "voc/Annotations/a.xml", "voc/Annotations/b.xml")
    write_files(root, [], {LIST_NAME: "".join(f'["{name}", null]\n' for name in names) + "[torn"})
    (found,) = find_datasets(root)
    assert (found.kind, found.others, found.skipped) == ("labelme", [], sorted(names))


def test_labels_with_the_confidence_of_a_model_come_after_other_annotations(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"images/a.xml": VOC, "labels/a.txt": WITH_CONFIDENCE, "labels/b.txt": WITH_CONFIDENCE})
    (found,) = find_datasets(root)
    assert (found.kind, found.others) == ("voc", ["yolo"])
    assert rows(read_dataset(root, "all")[0]) == {"images/a.jpg": [BOX]}


def test_of_formats_with_a_file_an_image_the_one_with_most_counts(tmp_path: Path) -> None:
    files = {"images/a.json": LABELME, "images/b.json": LABELME, "labels/a.txt": LINE}
    (found,) = find_datasets(folder(tmp_path, **files))
    assert (found.kind, found.others) == ("labelme", ["yolo"])
    (tmp_path / "labels/b.txt").write_text(LINE)
    assert find_datasets(tmp_path)[0].kind == "yolo"  # as many: the first of the table


@pytest.mark.parametrize(
    ("saved", "kind", "kept"),
    [
        ({"images/a.txt": LINE, "images/b.xml": VOC}, "yolo", LINE_BOX),
        ({"labels/a.txt": LINE, "labels/b.xml": VOC}, "yolo", LINE_BOX),
        ({"images/a.xml": VOC, "images/b.json": LABELME}, "voc", BOX),
    ],
)
def test_images_that_were_saved_in_another_format_are_an_error_and_no_background(
    saved: dict, kind: str, kept: list[float], tmp_path: Path
) -> None:
    root = folder(tmp_path, **saved)
    (found,) = find_datasets(root)
    table, problems = read_dataset(root, "all")
    (error,) = [problem for problem in problems if problem.severity == "error"]
    assert (found.kind, rows(table)) == (kind, {"images/a.jpg": [kept]})
    assert "1 image with labels in another format alone (" in str(error)
    assert find_datasets(root, kind)[0].only_in_others == {}


def test_a_copy_of_the_data_in_another_format_elsewhere_is_no_error(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"labels/a.txt": LINE, "old/Annotations/b.xml": VOC})
    assert [problem.kind for problem in read_dataset(root, "all")[1]] == ["background"]


PLACE = {"x": 25, "y": 35, "width": 30, "height": 30}
CREATEML = json.dumps([{"image": "c.jpg", "annotations": [{"label": "cat", "coordinates": PLACE}]}])


@pytest.mark.parametrize("other", [{"bob/a.json": CREATEML}, {"bob/json/c.json": LABELME}, {"bob/boxes/c.txt": LINE}])
def test_a_second_data_set_in_a_folder_of_its_own_is_an_error(other: dict[str, str], tmp_path: Path) -> None:
    root = folder(tmp_path, **{"images/a.xml": VOC, "images/b.xml": VOC, **other})
    write_image(root / "bob/images/c.jpg")
    table, (error,) = read_dataset(root, "all")
    assert (table.kind, table.image_names()) == ("voc", ["images/a.jpg", "images/b.jpg"])
    assert f"1 image with labels in another format alone ({next(iter(other))}), none in voc" in str(error)
    (root / "bob/images/c.jpg").rename(root / "bob/images/a.jpg")  # a copy of the first
    assert read_dataset(root, "all")[1] == []


def test_second_data_set_whose_images_are_numbered_alike_is_an_error_and_a_copy_is_none(tmp_path: Path) -> None:
    for seed, stem in enumerate("01"):
        write_image(tmp_path / f"A/images/{stem}.jpg", seed=seed)
        write_image(tmp_path / f"B/JPEGImages/{stem}.jpg", seed=seed + 2)
        write_files(tmp_path, [], {f"A/labels/{stem}.txt": LINE, f"B/Annotations/{stem}.xml": VOC})
    ours = {"A/images/0.jpg": [LINE_BOX], "A/images/1.jpg": [LINE_BOX]}
    table, (error,) = read_dataset(tmp_path, "all")
    assert (rows(table), error.severity) == (ours, "error")
    assert "2 images with labels in another format alone (B/Annotations/1.xml), none in yolo" in str(error)
    for stem in "01":
        write_image(tmp_path / f"B/JPEGImages/{stem}.jpg", seed=int(stem))
    table, problems = read_dataset(tmp_path, "all")
    assert (rows(table), problems) == (ours, [])


def test_copies_of_the_images_beside_labels_in_another_format_are_no_error(tmp_path: Path) -> None:
    for name, labels in (("yolo/a.txt", LINE), ("voc/a.xml", VOC)):
        write_files(tmp_path, [], {name: labels})
        write_image((tmp_path / name).with_suffix(".jpg"))
    table, problems = read_dataset(tmp_path, "all")
    assert (rows(table), problems) == ({"yolo/a.jpg": [LINE_BOX]}, [])


GEOMETRY = {"geometryType": "rectangle", "points": {"exterior": [[10, 20], [39, 49]], "interior": []}}
SUPERVISELY = json.dumps({"size": {"height": 60, "width": 80}, "objects": [{"classTitle": "cat", **GEOMETRY}]})


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"img/a.txt": LINE, "ann/a.jpg.json": SUPERVISELY, "ann/b.jpg.json": SUPERVISELY}, "supervisely"),
        ({"img/a.jpg.txt": LINE, "img/a.xml": VOC, "img/b.xml": VOC}, "voc"),
    ],
)
def test_labels_that_are_called_after_the_image_with_its_extension_count(
    files: dict[str, str], kind: str, tmp_path: Path
) -> None:
    for stem in "ab":
        write_image(tmp_path / f"ds/img/{stem}.jpg")
    write_files(tmp_path / "ds", [], files)
    assert find_datasets(tmp_path)[0].kind == kind
    assert rows(read_dataset(tmp_path, "all")[0]) == {"ds/img/a.jpg": [BOX], "ds/img/b.jpg": [BOX]}


def test_a_file_without_objects_in_another_format_is_no_label(tmp_path: Path) -> None:
    files = {"images/b.xml": voc_xml(), "labels/a.txt": LINE, "data.yaml": "train: images\nnames: [cat]\n"}
    table, problems = read_dataset(folder(tmp_path, **files), "train")
    assert rows(table) == {"images/a.jpg": [LINE_BOX], "images/b.jpg": []}
    assert [problem.kind for problem in problems] == ["background"]
    (tmp_path / "images/b.xml").rename(tmp_path / "images/b.json")
    (tmp_path / "images/b.json").write_text(LABELME.replace(json.dumps([SHAPE]), "[]"))
    assert rows(read_dataset(tmp_path, "train")[0]) == rows(table)


def test_lists_of_many_images_count_as_files_of_one_image_do(tmp_path: Path) -> None:
    both = {
        "images": [
            {"id": number, "file_name": f"{stem}.jpg", "height": 60, "width": 80} for number, stem in enumerate("ab")
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [10, 20, 30, 30]} for number in (0, 1)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    root = folder(tmp_path, **{"labels/a.txt": LINE, "coco.json": json.dumps(both)})
    assert rows(read_split(root, "all")[0]) == {"images/a.jpg": [BOX], "images/b.jpg": [BOX]}
    (root / "labels/b.txt").write_text(LINE)  # as many: the first of the table
    assert find_datasets(root)[0].kind == "yolo"


def test_an_image_that_a_list_names_without_objects_may_have_some_in_another_format(tmp_path: Path) -> None:
    names = {
        "images": [{"id": n, "file_name": f"{stem}.jpg", "height": 60, "width": 80} for n, stem in enumerate("abc")]
    }
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 20, 30, 30]} for n in (0, 1)]
    coco = json.dumps(names | {"annotations": boxes, "categories": [{"id": 1, "name": "cat"}]})
    root = folder(tmp_path, **{"coco.json": coco, "images/c.xml": VOC})
    write_image(root / "images/c.jpg")
    table, problems = read_dataset(root, "all")
    (error,) = [one for one in problems if one.severity == "error"]
    assert (table.kind, rows(table)) == ("coco", {"images/a.jpg": [BOX], "images/b.jpg": [BOX]})
    assert "1 image with labels in another format alone (images/c.xml), none in coco" in str(error)
    (root / "images/c.xml").write_text(voc_xml())  # no object there either
    assert rows(read_split(root, "all")[0]) == {"images/a.jpg": [BOX], "images/b.jpg": [BOX], "images/c.jpg": []}


def test_images_that_only_a_list_labels_are_an_error_and_no_background(tmp_path: Path) -> None:
    root = folder(tmp_path, **{"labels/a.txt": LINE, "old.csv": "filename,class,x1,y1,x2,y2\nb.jpg,cat,10,20,40,50\n"})
    table, problems = read_dataset(root, "all")
    (error,) = [problem for problem in problems if problem.severity == "error"]
    assert rows(table) == {"images/a.jpg": [LINE_BOX]}
    assert "1 image with labels in another format alone (old.csv), none in yolo" in str(error)
    (root / "old.csv").write_text("filename,class,x1,y1,x2,y2,score\nb.jpg,cat,10,20,40,50,0.3\n")  # found, not drawn
    assert [problem.severity for problem in read_dataset(root, "all")[1]] == ["notice"]
