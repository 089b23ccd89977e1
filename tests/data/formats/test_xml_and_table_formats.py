"""CVAT's XML, tables and KITTI's lines: what each tool's numbers mean, and that broken files are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import write_image
from read_back import objects, read, write

from onestage.data import find_datasets, read_dataset
from onestage.errors import UserError


# ---------------------------------------------------------------- CVAT
def cvat(shapes: str, labels: str = "dog cat bat", subset: str = "") -> str:
    names = "".join(
        f"<label><name>{name}</name><attributes><attribute><name>age</name></attribute></attributes></label>"
        for name in labels.split()
    )
    image = f'<image id="0" name="a.jpg" width="80" height="60"{subset}>{shapes}</image>'
    return f"<annotations><version>1.1</version><meta><task><labels>{names}</labels></task></meta>{image}</annotations>"


def test_cvat_shapes_of_every_kind_and_the_order_of_its_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.jpg")
    shapes = (
        '<box label="cat" xtl="10.5" ytl="20" xbr="40" ybr="50"><attribute name="age">7</attribute></box>'
        '<box label="cat" xtl="10" ytl="20" xbr="40" ybr="30" rotation="90"/>'  # 30 x 10 around 25, 25
        '<polygon label="dog" points="5,1;9,2;7,8"/><ellipse label="dog" cx="30" cy="30" rx="10" ry="5"/>'
        '<mask label="dog" rle="3, 4" left="3" top="4" width="5" height="6"/>'
        '<polyline label="dog" points="1,1;2,2"/><points label="dog" points="1,1"/>'
    )
    write(tmp_path, "annotations.xml", cvat(shapes))
    table, problems = read(tmp_path, "cvat")
    assert table.categories.names == ("dog", "cat", "bat")
    assert objects(table) == [
        ("cat", 10.5, 20, 40, 50),
        ("cat", 20, 10, 30, 40),
        ("dog", 5, 1, 9, 8),
        ("dog", 20, 25, 40, 35),
        ("dog", 3, 4, 8, 10),
    ]
    assert [kind for kind, _ in problems] == ["no-box"]


def test_cvat_subsets_are_splits_and_broken_shapes_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    shapes = '<box label="cat" xtl="1" ytl="x" xbr="3" ybr="4"/><hexagon label="cat"/><box xtl="1"/>'
    write(tmp_path, "annotations.xml", cvat(shapes, subset=' subset="Train"'))
    table, problems = read(tmp_path, "cvat", "Train")
    assert objects(table) == []
    assert [line.partition(": ")[0] for _, line in problems] == [
        f"annotations.xml, image 0, object {number}" for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotations><meta/><track id='0' label='cat'/></annotations>", 'export "CVAT for images 1.1"'),
        (cvat("<box")[:-30], "damaged XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + cvat(""), "it declares entities"),
    ],
)
def test_cvat_for_video_and_damaged_files_are_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "annotations.xml", content)
    with pytest.raises(UserError, match=message) as refusal:
        read_dataset(tmp_path, "all")
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- tables
@pytest.mark.parametrize(
    ("name", "header", "row", "box"),
    [
        (
            "train_labels.csv",
            "filename,width,height,class,xmin,ymin,xmax,ymax",
            "a.jpg,80,60,cat,11,21,40,50",
            (10, 20, 40, 50),
        ),
        (
            "train/_annotations.csv",
            "filename,width,height,class,xmin,ymin,xmax,ymax",
            "a.jpg,80,60,cat,10,20,40,50",
            (10, 20, 40, 50),
        ),
        ("train.csv", "Image Path;x1;y1;x2;y2;Label", "C:\\x\\a.jpg;10;20;40;50.5;cat", (10, 20, 40, 50.5)),
        ("train.tsv", "class_name\tx_min\tx_max\ty_min\ty_max\timage_id", "cat\t10\t40\t20\t50\ta", (10, 20, 40, 50)),
    ],
)
def test_csv_headers_of_several_tools(tmp_path: Path, name: str, header: str, row: str, box: tuple) -> None:
    write_image(tmp_path / "train/a.jpg")
    write(tmp_path, name, f"\ufeff{header}\r\n{row}\r\n")
    table, problems = read(tmp_path, "csv", "train")
    assert (objects(table), problems) == ([("cat", *box)], [])


@pytest.mark.parametrize(
    ("header", "row", "box"),
    [
        # the box's own columns win over the size of the image
        (
            "filename,width,height,class,bbox_x,bbox_y,bbox_width,bbox_height",
            "a.jpg,80,60,cat,10,20,30,25",
            (10, 20, 40, 45),
        ),
        ("filename,width,height,class,bbox_x,bbox_y,bbox_w,bbox_h", "a.jpg,80,60,cat,10,20,30,25", (10, 20, 40, 45)),
        ("image_path,image_id,width,height,class,x,y,w,h", "a.jpg,1,80,60,cat,10,20,30,25", (10, 20, 40, 45)),
        ("filename,w,h,class,x,y,width,height", "a.jpg,80,60,cat,10,20,30,25", (10, 20, 40, 45)),
        ("filename,width,height,class,x,y,w,h", "a.jpg,80,60,cat,10,20,30,25", (10, 20, 40, 45)),
        ("image,class,x,y,width,height,image_width,image_height", "a.jpg,cat,10,20,30,25,80,60", (10, 20, 40, 45)),
        ("filename,w,h,class,width,height,x,y", "a.jpg,80,60,cat,30,25,10,20", (10, 20, 40, 45)),
        ("filename,width,height,class,w,h,x,y", "a.jpg,80,60,cat,30,25,10,20", (10, 20, 40, 45)),
        ("img_w,img_h,filename,label,width,height,x,y", "80,60,a.jpg,cat,30,25,10,20", (10, 20, 40, 45)),
        # no other size is in the table
        ("class,width,height,x,y,image", "cat,30,25,10,20,a.jpg", (10, 20, 40, 45)),
        ("width,height,x,y,class,image", "30,25,10,20,cat,a.jpg", (10, 20, 40, 45)),
        ("class,filename,height,width,x,y", "cat,a.jpg,25,30,10,20", (10, 20, 40, 45)),
        ("class,h,image,w,x,y", "cat,25,a.jpg,30,10,20", (10, 20, 40, 45)),
        ("filename,width,height,class,xmin,ymin,xmax,ymax,w,h", "a.jpg,80,60,cat,11,21,40,45,9,9", (10, 20, 40, 45)),
        ("filename,class,xmin,ymin,width,height", "a.jpg,cat,10,20,30,25", (10, 20, 40, 45)),
        ("filename,class,left,top,width,height", "a.jpg,cat,10,20,30,25", (10, 20, 40, 45)),
        ("filename,class,x_center,y_center,width,height", "a.jpg,cat,10,20,6,8", (7, 16, 13, 24)),
        ("filename,class,x0,y0,x1,y1", "a.jpg,cat,10,20,40,45", (10, 20, 40, 45)),
        ("filename,class,x1,y1,x2,y2,x3,y3,x4,y4", "a.jpg,cat,10,25,30,20,40,45,12,50", (10, 20, 40, 50)),
        ("image_id,label,bbox", 'a,cat,"[50.5, 20, 20, 10]"', (50.5, 20, 70.5, 30)),
        ("image_id,label,bbox_xyxy", "a,cat,10 20 40 45", (10, 20, 40, 45)),
        ("image_id,label_name,x1,y1,x2,y2", "a,cat,10,20,40,45", (10, 20, 40, 45)),
        ("sep=;\nfilename;label;xmin;ymin;xmax;ymax", "a.jpg;cat;10,5;20;40;45,25", (10.5, 20, 40, 45.25)),
    ],
)
def test_csv_columns_of_the_box(tmp_path: Path, header: str, row: str, box: tuple) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "labels.csv", f"{header}\n{row}\n")
    table, problems = read(tmp_path, "csv")
    assert (objects(table), problems) == ([("cat", *box)], [])


@pytest.mark.parametrize(
    ("row", "box"),
    [
        ("a.jpg,10,20,40,50,cat,80,60", (10, 20, 40, 50)),  # SKU-110K
        ("TRAIN,gs://bucket/x/a.jpg,cat,0.5,0.25,,,0.75,0.5,,", (40, 15, 60, 30)),  # Vertex AI
        ("TRAIN,gs://bucket/x/a.jpg,cat,0.5,0.25,0.75,0.25,0.75,0.5,0.5,0.5", (40, 15, 60, 30)),
    ],
)
def test_csv_without_header(tmp_path: Path, row: str, box: tuple) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "train.csv", row)
    split = "TRAIN" if row.startswith("TRAIN") else "train"
    table, problems = read(tmp_path, "csv", split)
    assert (objects(table), problems) == ([("cat", *box)], [])


def test_a_table_without_a_class_beside_one_with_classes_is_passed_over(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "boxes.csv", "image,x1,y1,x2,y2\na.jpg,1,2,3,4\n")
    write(tmp_path, "labels.csv", "image,label,x1,y1,x2,y2\na.jpg,cat,10,20,40,50\n")
    write(tmp_path, "copy.txt", "image,label,x1,y1,x2,y2\na.jpg,cat,10,20,40,50\n")
    table, problems = read(tmp_path, "csv")
    assert (objects(table), problems) == ([("cat", 10, 20, 40, 50)], [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_may_be_called_txt(tmp_path: Path, encoding: str) -> None:
    write_image(tmp_path / "a.jpg")
    text = "File Name\tLabel\tXMin\tYMin\tXMax\tYMax\r\na.jpg\tcat\t10\t20\t40,5\t50\r\n"
    (tmp_path / "gt.txt").write_text(text, encoding)
    assert objects(read(tmp_path, "csv")[0]) == [("cat", 10, 20, 40.5, 50)]


def test_csv_without_a_class_is_of_one_class_and_numbers_are_names(tmp_path: Path) -> None:
    write_image(tmp_path / "a/a.jpg")
    write_image(tmp_path / "b/a.jpg")
    write(tmp_path, "a/a.csv", 'image_id,width,height,bbox,source\na,80,60,"[50, 20, 20, 10]",x\na,80,60,"[]",x\n')
    write(tmp_path, "b/a.csv", "image_id,class_id,x_min,y_min,x_max,y_max\na,7,10,20,40,50\n")
    table, problems = read(tmp_path / "a", "csv")
    assert objects(table) == [("object", 50, 20, 70, 30)]
    message = "a.csv: 1 objects have no column for a class, so they are of the class 'object'"
    assert problems == [("class-not-given", message)]
    assert objects(read(tmp_path / "b", "csv")[0]) == [("7", 10, 20, 40, 50)]


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("category_id,category_name", "7,cat"),
        ("class,label", "0,cat"),
        ("class_name,class", "cat,0"),
        ("label,id", "cat,3"),
    ],
)
def test_csv_with_a_number_and_a_name_of_the_class_has_the_name(columns: str, values: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "labels.csv", f"filename,{columns},x1,y1,x2,y2\na.jpg,{values},10,20,40,50\n")
    assert objects(read(tmp_path, "csv")[0]) == [("cat", 10, 20, 40, 50)]


def test_a_column_of_splits_counts_though_some_rows_have_none(tmp_path: Path) -> None:
    for stem in "abcd":
        write_image(tmp_path / f"{stem}.jpg")
    rows = [
        f"{split},{stem}.jpg,cat,1,2,30,40"
        for stem, split in zip("abcd", ("TRAIN", "UNASSIGNED", "TEST", ""), strict=True)
    ]
    write(tmp_path, "labels.csv", "\n".join(["split,filename,class,x1,y1,x2,y2", *rows]))
    (found,) = find_datasets(tmp_path)
    assert found.source.splits == ["TEST", "TRAIN", "UNASSIGNED", "all"]
    assert [read(tmp_path, "csv", split)[0].image_names() for split in found.source.splits] == [
        ["c.jpg"],
        ["a.jpg"],
        ["b.jpg"],
        ["d.jpg"],
    ]


def test_four_numbers_that_may_be_corners_or_a_size_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "labels.csv", 'image,label,bbox\na.jpg,cat,"[1, 2, 30, 40]"\n')
    with pytest.raises(UserError, match="bbox may be corners, or x, y, width, height; call the column bbox_xyxy or"):
        read_dataset(tmp_path, "all")


def test_csv_rows_of_an_image_lie_apart_and_rows_without_box_are_no_objects(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write_image(tmp_path / name)
    rows = [
        "a.jpg,cat,1,2,3,4",
        "b.jpg,,,,,",
        "a.jpg,dog,5,6,7,8",
        "c.jpg,nothing,,,,",
        "b.jpg,,1,2,3,4",
        ",cat,1,2,3,4",
    ]
    write(tmp_path, "labels.csv", "\n".join(["image,label,x1,y1,x2,y2", *rows, "b.jpg,cat,1,two,3,4"]))
    table, problems = read(tmp_path, "csv")
    assert [objects(table, index) for index in range(3)] == [[("cat", 1, 2, 3, 4), ("dog", 5, 6, 7, 8)], [], []]
    assert [kind for kind, _ in problems] == ["annotation", "annotation", "annotation", "no-box"]
    assert problems[0][1].startswith("labels.csv, object 6: ")
    assert problems[1][1] == "labels.csv, object 5: its class is '', expected a name; give it one"
    assert "x1 1, y1 two, x2 3, y2 4 gives no box" in problems[2][1]


@pytest.mark.parametrize("rows", ['a.jpg,"cat,1,2,3,4\nb.jpg,cat,1,2,3,4\n', "x" * 200_000])
def test_csv_that_is_damaged_is_refused(tmp_path: Path, rows: str) -> None:
    write_image(tmp_path / "a.jpg")
    write(tmp_path, "labels.csv", f"image,label,x1,y1,x2,y2\n{rows}")
    with pytest.raises(UserError, match=r"labels\.csv: not CSV"):
        read_dataset(tmp_path, "all")


def test_open_images_fractions_groups_and_names_of_codes(tmp_path: Path) -> None:
    write_image(tmp_path / "validation/a.jpg")
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    rows = ["a,x,/m/01,1,0.5,0.75,0.1,0.2,0,0,0", "a,x,/m/02,1,0,0.5,0,0.5,0,0,1", "a,x,/m/01,1,0,0.5,0,?,0,0,1"]
    write(tmp_path, "validation-annotations-bbox.csv", "\n".join([header, *rows]))
    write(tmp_path, "class-descriptions-boxable.csv", '/m/01,"Cat"\n/m/03,Dog\n')
    table, problems = read(tmp_path, "open-images", "validation")
    assert table.categories.names == ("/m/02", "Cat")
    assert objects(table) == [("Cat", 40, 6, 60, 12), ("/m/02", 0, 0, 40, 30, True)]
    assert [kind for kind, _ in problems] == ["annotation"]


@pytest.mark.parametrize("names", ["metadata/classes.csv", "oidv7-class-descriptions.csv"])
def test_open_images_as_fiftyone_writes_it_and_classes_that_nothing_names(names: str, tmp_path: Path) -> None:
    write_image(tmp_path / "data/a.jpg")
    row = "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/01,0.5,0.75,0.1,0.2\n"
    write(tmp_path, "labels/detections.csv", row)
    table, ((kind, line),) = read(tmp_path, "open-images")
    assert (objects(table), kind) == ([("/m/01", 40, 6, 60, 12)], "code-as-class")
    assert line.startswith("all: no class has a name (/m/01); put Open Images' class-descriptions-boxable.csv")
    write(tmp_path, names, "/m/01,Cat\n")
    table, problems = read(tmp_path, "open-images")
    assert (objects(table), problems) == ([("Cat", 40, 6, 60, 12)], [])


# ---------------------------------------------------------------- KITTI
def test_kitti_dont_care_is_ignored_for_every_class(tmp_path: Path) -> None:
    write_image(tmp_path / "training/image_2/000001.png")
    write_image(tmp_path / "training/image_3/000001.png")
    tail = "1 1 1 1 1 1 1"
    lines = [
        f"Misc 0 0 0 10 20 40.5 50 {tail}",
        "",
        f"DontCare -1 -1 -10 1 2 3 4 {tail}",
        f"Car 0 0 0 1 2 9 9 {tail} 0.9",
    ]
    write(tmp_path, "training/label_2/000001.txt", "\n".join([*lines, "Car 0 0 0 1 2 9"]))
    write(tmp_path, "training/calib/000001.txt", "P0: 7 0 0 0 0 0 0 0 0 0 0 0\n")
    table, problems = read(tmp_path, "kitti", "training")
    assert table.image_name(0) == "training/image_2/000001.png"
    assert table.categories.names == ("Car", "Misc")
    ignored = [("Car", 1, 2, 3, 4, True), ("Misc", 1, 2, 3, 4, True)]
    assert objects(table) == [("Misc", 10, 20, 40.5, 50), *ignored, ("Car", 1, 2, 9, 9)]
    assert [line for _, line in problems] == [
        "training/label_2/000001.txt, object 5: 'Car 0 0 0 1 2 9' is not a class and 14 or 15 numbers; "
        "correct or delete it"
    ]
