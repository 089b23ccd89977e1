"""VOC folders. Reliability cases: xml-bombs, xml-paths, classes, boxes."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from folders import read_split, voc_xml, write_image, write_voc_folder
from nasty_names import NASTY_NAMES

from onestage.data import find_datasets, read_dataset
from onestage.data.formats.voc import parse_annotation, voc_annotation
from onestage.errors import UserError
from onestage.structures import Categories
from onestage.texts import one_line

CAT = ("cat", 11, 21, 40, 50)


def messages(problems: list) -> list[str]:
    return [str(problem) for problem in problems]


def test_one_based_inclusive_pixels_become_zero_based_half_open(tmp_path: Path) -> None:
    whole_image = ("cat", 1, 1, 80, 60)
    table, problems = read_split(write_voc_folder(tmp_path, {"a": voc_xml([whole_image, CAT])}), "train")
    assert problems == []
    np.testing.assert_array_equal(table.objects(0).boxes_xyxy, [(0, 0, 80, 60), (10, 20, 40, 50)])
    assert table.areas.tolist() == [4800.0, 900.0]


def test_writing_back_gives_the_files_own_numbers() -> None:
    boxes_xyxy = np.array([(0, 0, 80, 60), (10.5, 20, 40.25, 50)], dtype=np.float32)
    tree = ElementTree.fromstring(voc_annotation("a&b.jpg", (60, 80), boxes_xyxy, ["cat", "<dog>"], [False, True]))
    boxes = [[side.text for side in box] for box in tree.iter("bndbox")]
    assert boxes == [["1", "1", "80", "60"], ["11.5", "21", "40.25", "50"]]
    assert [name.text for name in tree.iter("name")] == ["cat", "<dog>"]
    assert [hard.text for hard in tree.iter("difficult")] == ["0", "1"]


def test_a_part_of_an_object_has_neither_its_name_nor_its_box(tmp_path: Path) -> None:
    """VOC 2012 has persons with heads, hands and feet, before or after their own box."""
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    part = f"<part><name>head</name>{box}</part>"
    xml = voc_xml([CAT])
    around = xml.replace("<object>", f"<object>{part}", 1).replace("</object>", f"{part}{part}</object>", 1)
    write_voc_folder(tmp_path, {"a": around, "b": xml.replace("</object>", f"{box}</object>", 1)})
    table, problems = read_split(tmp_path, "train")
    assert table.categories.names == ("cat",)
    assert table.boxes_xyxy.tolist() == [[10, 20, 40, 50]]
    assert [str(one) for one in problems] == ["Annotations/b.xml: object 1 has two boxes; make it two objects"]


@pytest.mark.parametrize(
    ("rotation", "box"),
    [
        ("90.0", (20, 10, 30, 40)),  # 30 x 10 around 25, 25
        ("30", (9.51, 13.17, 40.49, 36.83)),  # half sides 15 cos + 5 sin = 15.490 and 15 sin + 5 cos = 11.830
        ("0.0", (10, 20, 40, 30)),
        ("left", (10, 20, 40, 30)),
    ],
)
def test_boxes_that_cvat_turned_give_the_upright_one_around_them(rotation: str, box: tuple, tmp_path: Path) -> None:
    values = {"occluded": "False", "rotation": rotation, "age": "7"}
    pairs = "".join(f"<attribute><name>{k}</name><value>{v}</value></attribute>" for k, v in values.items())
    xml = voc_xml([("cat", 10, 20, 40, 30)]).replace("</object>", f"<attributes>{pairs}</attributes></object>")
    source = "<source><database>Unknown</database><image>Unknown</image></source>"  # by which CVAT counts from 0
    write_voc_folder(tmp_path, {"a": xml.replace("<object>", f"{source}<object>")})
    table, problems = read_split(tmp_path, "train")
    assert problems == []
    np.testing.assert_allclose(table.boxes_xyxy, [box], atol=0.01)


def test_boxes_of_makesense_count_from_0(tmp_path: Path) -> None:
    """It writes the rounded x and x + width (RectLabelsExporter.ts)."""
    source = "<path>/my-project-name/a.jpg</path><source><database>Unspecified</database></source>"
    write_voc_folder(tmp_path, {"a": voc_xml([CAT]).replace("<object>", f"{source}<object>")})
    assert read_split(tmp_path, "train")[0].boxes_xyxy.tolist() == [[11, 21, 40, 50]]
    assert find_datasets(tmp_path)[0].describe().endswith("VOC by makesense.ai: XML, 1 files")


def test_difficult_objects_are_ignored_or_trained_but_boxes_without_area_stay_ignored(tmp_path: Path) -> None:
    objects = [CAT, ("cat", 1, 1, 9, 9), ("cat", 20, 20, 5, 5)]
    folder = write_voc_folder(tmp_path, {"a": voc_xml(objects, difficult=[0, 1, 1])})
    table, _ = read_split(folder, "train")
    assert table.ignored.tolist() == [False, True, True]
    assert table.with_difficult().ignored.tolist() == [False, False, True]
    assert table.join(table).subset(indices=[1]).with_difficult().ignored.tolist() == [False, False, True]


def test_classes_are_the_sorted_names_of_the_split(tmp_path: Path) -> None:
    xml = {"a": voc_xml([("dog", 1, 1, 9, 9), CAT]), "b": voc_xml([("bird", 1, 1, 9, 9)])}
    table, _ = read_split(write_voc_folder(tmp_path, xml), "train")
    assert table.categories.names == ("bird", "cat", "dog")
    assert table.labels.tolist() == [2, 1, 0]


def test_classes_a_list_in_the_folder_gives_their_order(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT])})
    (tmp_path / "classes.txt").write_text("zebra\ncat\n\n")
    table, _ = read_split(tmp_path, "train")
    assert table.categories.names == ("zebra", "cat")
    assert table.labels.tolist() == [1]


def test_classes_an_unknown_name_is_reported_with_the_nearest_one(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT, ("Person ", 1, 1, 9, 9), ("perzon", 1, 1, 9, 9)])})
    table, problems = read_split(tmp_path, "train", Categories.from_names(("cat", "person")))
    assert len(table.labels) == 1
    assert [(p.kind, p.severity, p.object_number) for p in problems] == [("class", "error", 2), ("class", "error", 3)]
    assert "the nearest is 'person'" in problems[0].message
    assert "'perzon' is not among the 2 known ones (cat, person); the nearest is 'person'" in problems[1].message


def test_boxes_each_fault_is_named_with_file_and_object(tmp_path: Path) -> None:
    objects = [
        CAT,
        ("cat", 57, 5, 40, 9),
        ("cat", 5, 7, 9, 6),
        ("cat", "nan", 5, 9, 9),
        ("cat", 5, 5, "inf", 9),
        ("cat", 70, 5, 200, 9),
        ("cat", -300, 5, -200, 9),
        CAT,
        ("cat", 5, 5, "x", 9),
        ("cat", 0, 1, 82, 61),
    ]
    table, problems = read_split(write_voc_folder(tmp_path, {"a": voc_xml(objects)}), "train")
    assert [(problem.object_number, problem.kind, problem.severity) for problem in problems] == [
        (2, "box-empty", "notice"),
        (3, "box-empty", "notice"),
        (4, "box-not-finite", "error"),
        (5, "box-not-finite", "error"),
        (6, "box-clipped", "notice"),
        (7, "box-outside", "error"),
        (8, "duplicate-object", "notice"),
        (9, "annotation", "error"),
        (10, "box-border", "notice"),
    ]
    assert str(problems[0]) == (
        "Annotations/a.xml, object 2: xmin 57, ymin 5, xmax 40, ymax 9 has no area; its pixels are ignored in "
        "training; fix or delete the box"
    )
    kept = [(10, 20, 40, 50), (40, 4, 56, 9), (4, 6, 9, 7), (69, 4, 80, 9), (0, 0, 80, 60)]
    np.testing.assert_array_equal(table.boxes_xyxy, kept)
    assert table.ignored.tolist() == [False, True, True, False, False]


def test_boxes_of_one_pixel_have_its_area(tmp_path: Path) -> None:
    table, problems = read_split(write_voc_folder(tmp_path, {"a": voc_xml([("cat", 7, 9, 7, 9)])}), "train")
    assert problems == []
    assert table.boxes_xyxy.tolist() == [[6, 8, 7, 9]]


def test_an_image_without_file_or_annotation_is_named_and_left_out(tmp_path: Path) -> None:
    xml = {"a": voc_xml([CAT]), "b": voc_xml([CAT], size_hw=None), "c": voc_xml([CAT]), "d": voc_xml(size_hw=(0, 0))}
    write_voc_folder(tmp_path, xml)
    (tmp_path / "JPEGImages" / "c.jpg").unlink()
    with open(tmp_path / "ImageSets" / "Main" / "train.txt", "a") as split:
        split.write("lost\na\n")
    table, problems = read_split(tmp_path, "train")
    assert [table.image_id(i) for i in range(len(table))] == ["a", "b", "d"]
    assert table.image_sizes_hw.tolist() == [[60, 80]] * 3  # of the image, where its annotation has none
    kinds = {(problem.file, problem.kind) for problem in problems}
    assert kinds == {
        ("Annotations/c.xml", "missing-image"),
        ("Annotations/lost.xml", "annotation"),
        ("ImageSets/Main/train.txt", "duplicate-image"),
    }


def test_split_lines_may_be_class_wise_or_name_files_or_hold_spaces(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {name: voc_xml([CAT]) for name in ("a", "b", "c d")})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a  -1\r\nb.jpg\r\n\r\nc d\r\n")
    table, problems = read_split(tmp_path, "train")
    assert problems == []
    assert [table.image_id(i) for i in range(3)] == ["a", "b", "c d"]


def test_splits_leave_out_the_class_wise_lists(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT])})
    for name in ("test", "cat_train", "cat_test"):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text("a\n")
    assert find_datasets(tmp_path)[0].source.splits == ["test", "train"]


def test_a_list_of_test_images_without_xml_files_is_said_and_is_no_split(tmp_path: Path) -> None:
    """As VOC 2012 was published; where no list has an XML file, each line is an error, as a folder may be missing."""
    write_voc_folder(tmp_path, {"a": voc_xml([CAT])})
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("b\n../c\n")
    write_image(tmp_path / "JPEGImages" / "b.jpg")
    (found,) = find_datasets(tmp_path)
    assert found.source.splits == ["train"]
    assert found.describe().endswith(": XML, 1 files; not used, as they have no annotations: test")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("b\n")
    (found,) = find_datasets(tmp_path)
    assert (found.source.splits, "not used" in found.describe()) == (["test", "train"], False)


def test_a_folder_without_splits_has_all(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"b": voc_xml([CAT]), "a": voc_xml()})
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    assert find_datasets(tmp_path)[0].source.splits == ["all"]
    table, _ = read_split(tmp_path, "all")
    assert [table.image_id(i) for i in range(2)] == ["a", "b"]


def test_a_missing_or_empty_split_is_an_error_that_lists_the_others(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT])})
    with pytest.raises(UserError, match="no split test; there is train"):
        read_dataset(tmp_path, "test")
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("\n")
    with pytest.raises(UserError, match="names no image"):
        read_split(tmp_path, "test")


def test_filename_tells_two_images_of_one_stem_apart(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT], filename="a.png"), "b": voc_xml([CAT], filename="photo.png")})
    write_image(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "JPEGImages" / "b.jpg").rename(tmp_path / "JPEGImages" / "photo.png")
    table, problems = read_split(tmp_path, "train")
    assert problems == []
    assert [table.image_name(i) for i in range(2)] == ["JPEGImages/a.png", "JPEGImages/photo.png"]


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
DEEP = 100_000
BOMBS = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY l0 "lol">{LAUGHS}]><annotation>&l9;</annotation>',
    "external entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file://SECRET">]><annotation>&x;</annotation>',
    "quadratic": f'<!DOCTYPE a [<!ENTITY x "{"x" * 50_000}">]><annotation>{"&x;" * 50_000}</annotation>',
    "deep": "<annotation>" + "<a>" * DEEP + "</a>" * DEEP + "</annotation>",
    "unclosed": "<a>" * DEEP,
}


@pytest.mark.parametrize("name", BOMBS)
def test_xml_bombs_are_refused_at_once_and_no_file_is_read(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("do not read me")
    data = BOMBS[name].replace("SECRET", str(secret)).encode()
    parse_annotation(b"<annotation/>")  # the parser is loaded
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"refused|deep") as caught:
        parse_annotation(data)
    assert time.perf_counter() - began < 0.1
    assert "do not read me" not in str(caught.value)


def test_a_document_type_is_passed_over_and_its_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.dtd").write_text("<!ELEMENT")
    head = f'<!DOCTYPE annotation SYSTEM "file://{tmp_path}/secret.dtd">'
    assert parse_annotation(f"{head}{voc_xml([CAT])}".encode()).objects[0]["name"] == "cat"


def test_xml_bombs_a_file_too_large_for_an_annotation_is_not_parsed(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT]), "b": f"<annotation>{' ' * (2 << 20)}</annotation>"})
    _, problems = read_split(tmp_path, "train")
    assert [(problem.file, problem.kind) for problem in problems] == [("Annotations/b.xml", "annotation")]
    assert "more than the 2,097,152 bytes" in problems[0].message


@pytest.mark.parametrize(
    "text", ["", "not xml", "<html></html>", "<annotation>", '<?xml version="1.0" encoding="x"?><a/>']
)
def test_what_is_no_annotation_is_named(text: str, tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT]), "b": text})
    table, problems = read_split(tmp_path, "train")
    assert len(table) == 1
    assert [(problem.file, problem.kind) for problem in problems] == [("Annotations/b.xml", "annotation")]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("GBK", "狗"),
        ("gb2312", "狗"),
        ("GB18030", "狗"),
        ("Big5", "狗"),
        ("Shift_JIS", "猫"),
        ("euc-jp", "猫"),
        ("EUC-KR", "개"),
        ("cp949", "개"),
        ("ks_c_5601-1987", "개"),
        ("windows-1251", "кот"),
        ("UTF-16", "狗"),
    ],
)
def test_xml_is_read_in_the_encoding_that_it_declares(encoding: str, name: str, tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT])})
    xml = f'<?xml version="1.0" encoding="{encoding}"?>\n{voc_xml([(name, 11, 21, 40, 50)])}'
    (tmp_path / "Annotations" / "a.xml").write_bytes(xml.encode(encoding))
    table, problems = read_split(tmp_path, "train")
    assert (table.categories.names, table.boxes_xyxy.tolist(), problems) == ((name,), [[10, 20, 40, 50]], [])


def test_xml_that_is_not_in_its_declared_encoding_is_damaged(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([CAT])})
    xml = f'<?xml version="1.0" encoding="GBK"?>{voc_xml([("d", 1, 1, 9, 9)])}'
    (tmp_path / "Annotations" / "a.xml").write_bytes(xml.encode().replace(b"<name>d", b"<name>\xff\xff"))
    _, problems = read_split(tmp_path, "train")
    (line,) = messages(problems)
    assert line.startswith("Annotations/a.xml: damaged XML ('gbk' codec can't decode byte 0xff")


@pytest.mark.parametrize(
    "filename", ["../../outside/secret.jpg", "{outside}/secret.jpg", "..\\..\\outside\\secret.jpg"]
)
def test_xml_paths_a_filename_never_leads_outside(filename: str, tmp_path: Path) -> None:
    write_image(tmp_path / "outside" / "secret.jpg")
    filename = filename.format(outside=tmp_path / "outside")
    write_voc_folder(tmp_path / "set", {"a": voc_xml([CAT]), "b": voc_xml([CAT], filename=filename)})
    (tmp_path / "set" / "JPEGImages" / "b.jpg").unlink()
    table, problems = read_split(tmp_path / "set", "train")
    assert [table.image_id(i) for i in range(len(table))] == ["a"]
    assert [(problem.file, problem.kind) for problem in problems] == [("Annotations/b.xml", "path")]


def test_xml_paths_a_split_never_leads_outside(tmp_path: Path) -> None:
    write_voc_folder(tmp_path / "other", {"secret": voc_xml([CAT])})
    write_voc_folder(tmp_path / "set", {"a": voc_xml([CAT])})
    lines = ["a", "../../other/Annotations/secret", str(tmp_path / "other" / "Annotations" / "secret"), "nul\0"]
    (tmp_path / "set" / "ImageSets" / "Main" / "train.txt").write_text("\n".join(lines))
    table, problems = read_split(tmp_path / "set", "train")
    assert len(table) == 1
    assert [problem.kind for problem in problems] == ["path", "path", "path"]


def test_a_folder_and_its_files_may_be_links_to_another_disk(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path / "set", {"a": voc_xml([CAT]), "b": voc_xml([CAT])})
    (root / "JPEGImages").rename(tmp_path / "disk")
    (root / "JPEGImages").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "b.jpg").rename(tmp_path / "elsewhere.jpg")
    (tmp_path / "disk" / "b.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (root / "Annotations" / "again").symlink_to(root)  # a circle
    table, problems = read_split(root, "train")
    assert problems == []
    assert [table.image_name(i) for i in range(len(table))] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]


def test_long_lists_name_each_image_once_and_what_is_missing(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {name: voc_xml([CAT]) for name in ("a", "b c")})
    lines = [*["a", "b c"] * 500, *(f"lost {number}" for number in range(1_000)), "..", ".", "./", "../a/.."]
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n".join(lines))
    table, problems = read_split(tmp_path, "train")
    assert [table.image_id(i) for i in range(len(table))] == ["a", "b c"]
    kinds = Counter((problem.file, problem.kind) for problem in problems)
    assert kinds["ImageSets/Main/train.txt", "duplicate-image"] == 998
    assert kinds["Annotations/lost 7.xml", "annotation"] == 1
    assert kinds["ImageSets/Main/train.txt", "path"] == 2
    assert len(problems) == 998 + 1_004


@pytest.mark.parametrize("name", NASTY_NAMES)
def test_nasty_names_are_text_in_xml(name: str) -> None:
    text = voc_annotation(f"{name}.jpg", (60, 80), np.array([(0, 0, 8, 6)], dtype=np.float32), [name], [False])
    (found,) = parse_annotation(text.encode()).objects
    assert found["name"] == one_line(name)
