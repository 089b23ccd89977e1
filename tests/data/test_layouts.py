"""Layouts that strangers' folders have: read right, or refused with the reason; nothing is guessed in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from folders import read_split, voc_xml, write_coco_folder, write_image

from onestage.data import choose_splits, find_datasets, read_dataset
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.errors import UserError

LINE = "0 0.5 0.5 0.5 0.5\n"  # of 80x60 pixels: 20, 15, 60, 45
BOX = [20.0, 15.0, 60.0, 45.0]
CAT = ("cat", 11, 21, 40, 50)


def put(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def kinds(problems: list[Problem]) -> list[str]:
    return [problem.kind for problem in problems]


def boxes(table: Table) -> list[list[float]]:
    return table.boxes_xyxy.tolist()


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("imgs/a.jpg", "labels/a.txt"),
        ("a.jpg", "labels/a.txt"),
        ("images/a.jpg", "a.txt"),
        ("train/a.jpg", "labels/train/a.txt"),
        ("train/a.jpg", "train/labels/a.txt"),
        ("images/train/a.jpg", "train/labels/a.txt"),
        ("train/images/a.jpg", "labels/train/a.txt"),
        ("images/train/a.jpg", "labels/a.txt"),
        ("images/a.jpg", "bboxes/a.txt"),
        ("train_images/a.jpg", "train_labels/a.txt"),
        ("images_train/a.jpg", "labels_train/a.txt"),
        ("images/train/img/a.jpg", "labels/train/img/a.txt"),
        ("images/a.jpg", "labels/a.jpg.txt"),
        ("images/A.JPG", "labels/a.TXT"),
    ],
)
def test_yolo_labels_are_found_in_folders_of_any_name(image: str, label: str, tmp_path: Path) -> None:
    write_image(tmp_path / image)
    put(tmp_path / label, LINE)
    table, problems = read_split(tmp_path, find_datasets(tmp_path)[0].source.splits[0])
    assert problems == []
    assert boxes(table) == [BOX]


def test_yolo_an_image_without_labels_among_others_is_background_whatever_text_has_its_name(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        write_image(tmp_path / "images" / f"{stem}.jpg")
    put(tmp_path / "labels/a.txt", LINE)
    put(tmp_path / "old_labels/b.txt", LINE)
    table, problems = read_split(tmp_path, "all")
    assert table.first_object.tolist() == [0, 1, 1]
    assert kinds(problems) == ["background"]


def test_yolo_the_labels_of_another_split_are_not_taken(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "pictures" / "a.jpg")
    put(tmp_path / "val/boxes/a.txt", LINE)
    train, _ = read_split(tmp_path, "val")
    assert boxes(train) == [BOX]
    assert find_datasets(tmp_path)[0].source.splits == ["val"]


def test_yolo_masks_and_drawn_predictions_are_no_background(tmp_path: Path) -> None:
    for image in ("images/a.jpg", "masks/a.png", "runs/detect/predict/a.jpg"):
        write_image(tmp_path / image)
    put(tmp_path / "labels/a.txt", LINE)
    table, _ = read_split(tmp_path, "all")
    assert table.image_names() == ["images/a.jpg"]


def test_yolo_of_two_images_that_differ_in_case_each_has_its_own_labels(tmp_path: Path) -> None:
    for stem, line in (("a", "0 0.5 0.5 0.5 0.5\n"), ("A", "0 0.5 0.5 0.25 0.25\n")):
        write_image(tmp_path / "images" / f"{stem}.jpg")
        put(tmp_path / "labels" / f"{stem}.txt", line)
    table, _ = read_split(tmp_path, "all")
    found = {name: table.objects(row).boxes_xyxy.tolist() for row, name in enumerate(table.image_names())}
    assert found == {"images/a.jpg": [BOX], "images/A.jpg": [[30.0, 22.5, 50.0, 37.5]]}


def test_yolo_class_lists_that_differ_are_refused(tmp_path: Path) -> None:
    for split, names in (("train", "cat\ndog\n"), ("val", "dog\ncat\n")):
        write_image(tmp_path / split / f"{split}.jpg")
        put(tmp_path / split / f"{split}.txt", LINE)
        put(tmp_path / split / "classes.txt", names)
    with pytest.raises(UserError, match=r"train/classes\.txt and val/classes\.txt list other classes"):
        read_dataset(tmp_path, "train")


def test_yolo_a_list_of_classes_and_notes_that_differ_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.jpg")
    put(tmp_path / "labels/a.txt", LINE)
    put(tmp_path / "notes.json", json.dumps({"categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]}))
    (found,) = find_datasets(tmp_path)
    assert found.others == []  # its list of categories makes the notes no COCO
    assert found.source.categories("all").names == ("dog", "cat")
    put(tmp_path / "classes.txt", "cat\ndog\n")
    with pytest.raises(UserError, match=r"notes\.json names the classes dog, cat, the list of classes cat, dog; which"):
        read_dataset(tmp_path, "all")


def test_an_archive_and_a_file_of_something_else_are_named_as_what_they_are(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    put(tmp_path / "film.txt", "a film")
    put(tmp_path / "q/both.zip", "PK")
    for data, message in (
        (tmp_path / "q/both.zip", r"both\.zip: an archive; unpack it"),
        (tmp_path / "q", r"no image in it, but the archive both\.zip; unpack it"),
        (tmp_path / "film.txt", r"film\.txt: not an annotation file that is read; give the folder"),
    ):
        with pytest.raises(UserError, match=message):
            find_datasets(data)


def test_label_studio_tasks_that_are_not_labelled_yet_are_no_fault(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name)
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["cat"]}
    result = {"type": "rectanglelabels", "original_width": 80, "original_height": 60, "value": value}
    done = {"data": {"image": "/data/upload/1/a.jpg"}, "annotations": [{"result": [result]}]}
    put(tmp_path / "tasks.json", json.dumps([done, {"data": {"image": "/data/upload/1/b.jpg"}, "annotations": []}]))
    table, problems = read_split(tmp_path, "all")
    assert table.image_names() == ["a.jpg"]
    assert [(one.kind, one.severity) for one in problems] == [("not-labelled", "notice")]


def test_yolo_what_is_named_but_not_here_is_said(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/a.jpg")
    put(tmp_path / "labels/train/a.txt", LINE)
    put(tmp_path / "data.yaml", "train: [images/train, images/trian]\nval: valid/images\nnames: [cat]\n")
    (found,) = find_datasets(tmp_path)
    assert "val is named, but not here" in found.describe()
    _, problems = read_split(tmp_path, "train")
    assert [(problem.kind, problem.severity) for problem in problems] == [("missing-folder", "error")]
    assert "'images/trian'" in problems[0].message


def test_yolo_a_second_data_set_in_the_folder_is_said(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_image(tmp_path / name / "images" / f"{name}.jpg")
        put(tmp_path / name / "labels" / f"{name}.txt", LINE)
        put(tmp_path / name / "data.yaml", "train: images\nnames: [cat]\n")
    assert "B/data.yaml is not read" in find_datasets(tmp_path)[0].describe()


def voc(root: Path, images: list[str], annotations: dict[str, str]) -> Path:
    for image in images:
        write_image(root / image)
    for file, xml in annotations.items():
        put(root / file, xml)
    return root


def test_voc_the_same_names_in_parallel_folders_stay_apart(tmp_path: Path) -> None:
    images = [f"images/cam{n}/0.jpg" for n in (0, 1)]
    root = voc(tmp_path, images, {f"annotations/cam{n}/0.xml": voc_xml([CAT]) for n in (0, 1)})
    table, problems = read_split(root, "all")
    assert problems == []
    assert table.image_names() == images


def test_voc_an_image_that_is_missing_is_not_taken_from_another_split(tmp_path: Path) -> None:
    xml = {f"{split}/annots/2.xml": voc_xml([CAT], filename="2.jpg") for split in ("train", "val")}
    root = voc(tmp_path, ["train/images/1.jpg", "val/images/2.jpg"], xml | {"train/annots/1.xml": voc_xml([CAT])})
    table, problems = read_split(root, "train")
    assert table.image_names() == ["train/images/1.jpg"]
    assert [(problem.file, problem.kind) for problem in problems] == [("train/annots/2.xml", "missing-image")]


def test_voc_a_mask_is_not_the_image(tmp_path: Path) -> None:
    root = voc(
        tmp_path, ["images/a.jpg", "masks/a.png", "masks/b.png"], {f"xml/{stem}.xml": voc_xml([CAT]) for stem in "ab"}
    )
    table, problems = read_split(root, "all")
    assert table.image_names() == ["images/a.jpg"]
    assert kinds(problems) == ["missing-image"]


def test_voc_two_images_that_fit_equally_are_an_error(tmp_path: Path) -> None:
    root = voc(tmp_path, ["one/a.jpg", "two/a.jpg", "two/b.jpg"], {f"xml/{n}.xml": voc_xml([CAT]) for n in "ab"})
    table, problems = read_split(root, "all")
    assert table.image_names() == ["two/b.jpg"]
    assert "one/a.jpg and two/a.jpg both fit" in problems[0].message


@pytest.mark.parametrize("change", [("object>", "Object>"), ("<annotation>", '<annotation xmlns="urn:x">')])
def test_voc_tags_in_capitals_and_a_namespace_are_read(change: tuple[str, str], tmp_path: Path) -> None:
    table, problems = read_split(voc(tmp_path, ["a.jpg"], {"a.xml": voc_xml([CAT]).replace(*change)}), "all")
    assert problems == []
    assert boxes(table) == [[10, 20, 40, 50]]


def test_voc_objects_in_a_list_of_their_own_are_read(tmp_path: Path) -> None:
    xml = voc_xml([CAT]).replace("<object>", "<objects><object>").replace("</object>", "</object></objects>")
    table, _ = read_split(voc(tmp_path, ["a.jpg"], {"a.xml": xml}), "all")
    assert boxes(table) == [[10, 20, 40, 50]]


def test_voc_a_turned_box_gives_the_upright_one_around_it(tmp_path: Path) -> None:
    turned = "<robndbox><cx>40</cx><cy>30</cy><w>20</w><h>10</h><angle>1.5707963267948966</angle></robndbox>"
    xml = f"<annotation><object><name>cat</name>{turned}</object></annotation>"
    table, problems = read_split(voc(tmp_path, ["a.jpg"], {"a.xml": xml}), "all")
    assert problems == []
    # a quarter turn swaps the sides: x 35 to 45, y 20 to 40; VOC's pixels count from 1
    assert boxes(table)[0] == pytest.approx([34, 19, 45, 40], abs=1e-4)


def test_voc_a_file_of_something_else_is_passed_over_and_said(tmp_path: Path) -> None:
    root = voc(tmp_path, ["a.jpg"], {"a.xml": voc_xml([CAT]), "pom.xml": "<project/>"})
    table, problems = read_split(root, "all")
    assert len(table) == 1
    assert [(problem.file, problem.kind, problem.severity) for problem in problems] == [
        ("pom.xml", "other-file", "notice")
    ]


def test_voc_lists_in_the_root_are_the_splits(tmp_path: Path) -> None:
    root = voc(tmp_path, ["a.jpg", "b.jpg"], {"a.xml": voc_xml([CAT]), "b.xml": voc_xml([CAT])})
    put(root / "train.txt", "a\n")
    put(root / "val.txt", "b.jpg b.xml\n")
    assert find_datasets(root)[0].source.splits == ["train", "val"]
    assert read_split(root, "val")[0].image_names() == ["b.jpg"]


def test_voc_lists_of_images_and_files_as_paddle_writes_them_are_the_splits(tmp_path: Path) -> None:
    root = voc(
        tmp_path, ["JPEGImages/a.jpg", "JPEGImages/b.jpg"], {f"Annotations/{n}.xml": voc_xml([CAT]) for n in "ab"}
    )
    put(root / "train_list.txt", "JPEGImages/a.jpg Annotations/a.xml\n")
    put(root / "val_list.txt", "JPEGImages\\b.jpg Annotations\\b.xml\n")
    put(root / "label_list.txt", "cat\n")
    assert choose_splits(root)[:3] == ("train_list", "val_list", "val_list")
    assert read_split(root, "val_list")[0].image_names() == ["JPEGImages/b.jpg"]


def test_voc_settings_of_other_programs_beside_it_do_no_harm(tmp_path: Path) -> None:
    root = voc(tmp_path, ["a.jpg"], {"a.xml": voc_xml([CAT])})
    put(root / "data.yaml", "train: yolo/images\nnames: [cat]\n")
    put(root / "deploy.yaml", "a: [")
    put(root / "runs/args.yaml", "train: 0.8\nval: true\nnames: x\n")
    assert find_datasets(root)[0].kind == "voc"


@pytest.mark.parametrize("decimals", ["0.25", "0.5"])
def test_fractions_where_pixels_are_expected_are_an_error(decimals: str, tmp_path: Path) -> None:
    xml = voc_xml([("cat", "0.125", "0.125", decimals, "0.75")])
    _, problems = read_split(voc(tmp_path, ["a.jpg"], {"a.xml": xml}), "all")
    assert ("box-outside", "error") in [(problem.kind, problem.severity) for problem in problems]
    assert "fractions of the image, where pixels are expected" in " ".join(map(str, problems))


def coco(names: list[str]) -> dict:
    images = [{"id": n, "file_name": name, "width": 80, "height": 60} for n, name in enumerate(names)]
    box = {"category_id": 1, "bbox": [10, 20, 30, 30], "area": 900}
    annotations = [{"id": n, "image_id": n, **box} for n in range(len(names))]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}


def test_coco_exports_of_several_tasks_are_one_set(tmp_path: Path) -> None:
    for task in ("task_1", "task_2"):
        write_image(tmp_path / task / "images/default" / f"{task}.jpg")
        put(tmp_path / task / "annotations/instances_default.json", json.dumps(coco([f"{task}.jpg"])))
    (found,) = find_datasets(tmp_path)
    assert found.source.splits == ["all"]
    table, problems = read_split(tmp_path, "all")
    assert problems == []
    assert (len(table), len(table.labels)) == (2, 2)


def test_coco_the_annotation_file_may_be_named_alone(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco_folder(tmp_path, coco([f"{split}.jpg"]), split)
    file = tmp_path / "annotations/instances_train.json"
    table, problems = read_dataset(file, "train")
    assert problems == []
    assert table.image_names() == ["train/train.jpg"]
    assert find_datasets(file)[0].source.splits == ["train"]
    (tmp_path / "annotations/train").mkdir()
    table, problems = read_dataset(file.rename(file.parent / "train/instances.json"), "train")
    assert (problems, table.image_names()) == ([], ["train/train.jpg"])


def test_coco_a_list_that_stands_twice_is_refused(tmp_path: Path) -> None:
    write_coco_folder(tmp_path, coco(["a.jpg"]), "train")
    file = tmp_path / "annotations/instances_train.json"
    file.write_text(file.read_text()[:-1] + ', "annotations": []}')
    with pytest.raises(UserError, match="'annotations' stands twice"):
        read_dataset(tmp_path, "train")


HEADER = "filename,class,xmin,ymin,xmax,ymax\n"


@pytest.mark.parametrize(
    ("table", "image"),
    [
        (f",{HEADER}0,a.jpg,cat,11,21,40,50\n".encode(), "a.jpg"),  # pandas' index
        (f"{HEADER}ä.jpg,cat,11,21,40,50\n".encode("cp1252"), "ä.jpg"),
        (f"{HEADER}ä.jpg,cat,11,21,40,50\n".encode("utf-16"), "ä.jpg"),
        (f"{HEADER}a.jpg,cat,11,21,40,50\n".replace("\n", "\r").encode(), "a.jpg"),
        (b"folder,filename,class,xmin,ymin,xmax,ymax\ncam1,a.jpg,cat,11,21,40,50\n", "cam1/a.jpg"),
        (b"a.jpg,10,20,40,50,cat\n", "a.jpg"),  # Keras RetinaNet
        (b"images/b.jpg,,,,,\nimages/b.jpg,10,20,40,50,cat\n", "b.jpg"),
        (b"cat,10,20,30,30,a.jpg,80,60\n", "a.jpg"),  # makesense
        (
            b"label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
            b"cat,10,20,30,30,a.jpg,80,60\n",
            "a.jpg",
        ),
        (b"image,label,x,y,width,height\na.jpg,cat,10,20,30,30\n", "a.jpg"),
    ],
)
def test_csv_as_other_programs_save_it(table: bytes, image: str, tmp_path: Path) -> None:
    write_image(tmp_path / image)
    put(tmp_path / "labels.csv", table)
    found, problems = read_split(tmp_path, "all")
    assert problems == []
    assert (found.image_names(), boxes(found)) == ([image], [[10, 20, 40, 50]])


def test_a_column_of_a_csv_names_the_split(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / name)
    put(tmp_path / "labels.csv", "image,label,x1,y1,x2,y2,split\na.jpg,cat,1,2,30,40,train\nb.jpg,cat,5,6,7,8,VALID\n")
    train, val = read_dataset(tmp_path, "train")[0], read_dataset(tmp_path, "val")[0]
    assert (train.image_names(), boxes(train)) == (["a.jpg"], [[1, 2, 30, 40]])
    assert (val.image_names(), boxes(val)) == (["b.jpg"], [[5, 6, 7, 8]])


def test_names_that_macs_take_apart_are_the_same(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "Ka\u0308fer.jpg")  # a, then the two dots
    put(tmp_path / "a.json", json.dumps(coco(["K\u00e4fer.jpg"])))
    table, problems = read_split(tmp_path, "all")
    assert problems == []
    assert len(table) == 1
