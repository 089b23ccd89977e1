"""`onestage.convert`: what it refuses in one line, what it writes and says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from drawings import DRAWINGS, put
from folders import voc_xml, write_image, write_voc_folder
from labelled_folders import KINDS
from nasty_names import FILE_NAMES, NASTY_NAMES
from rich.console import Console

import onestage
from onestage.data import read_dataset
from onestage.data_options import DataOptions
from onestage.errors import UserError
from onestage.terminal import Display
from onestage.texts import one_line

CAT, DOG = ("cat", 1, 1, 20, 20), ("dog", 5, 5, 30, 30)
convert = onestage.convert  # imported here, not in the first test


def quiet() -> Display:
    return Display(Console(file=io.StringIO()))


def refusal(data: Path | str, **asked: Any) -> str:
    """The one line that a conversion ends with."""
    with pytest.raises(UserError) as error:
        convert(data, display=quiet(), **asked)
    assert "\n" not in str(error.value)
    return str(error.value)


def said(data: Path | str, **asked: Any) -> list[str]:
    """The lines of a conversion."""
    text = io.StringIO()
    convert(data, display=Display(Console(file=text, width=1000)), **asked)
    return text.getvalue().splitlines()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_voc_folder(tmp_path / "data", {"a": voc_xml([CAT, DOG], difficult=[0, 1]), "b": voc_xml([DOG])})


def test_an_unknown_format_is_refused(data: Path, tmp_path: Path) -> None:
    options = DataOptions(format="pascal")
    line = refusal(data, to="coco", out=tmp_path / "out", data_options=options)
    assert line.startswith("--format pascal: no such format; there is yolo, voc, coco, ")


def test_the_new_folder_has_to_be_new_or_empty(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    put(out, "precious.txt", "")
    assert refusal(data, to="coco", out=out) == f"{out}: has files already; name a new folder with --out"
    assert refusal(data, to="coco", out=out / "precious.txt").endswith("name a new folder with --out")
    assert [path.name for path in out.iterdir()] == ["precious.txt"]
    (tmp_path / "empty").mkdir()
    assert convert(data, to="coco", out=tmp_path / "empty", display=quiet()) == tmp_path / "empty"


@pytest.mark.parametrize(
    "split", ["0.8,0.1", "1", "a,b,c", "0.5,0.5,0.5", "0.5,-0.5,1", (0.8, 0.1, 0.05, 0.05), "nan,1"]
)
def test_parts_that_are_no_whole_are_refused(split: Any, data: Path, tmp_path: Path) -> None:
    line = refusal(data, to="coco", out=tmp_path / "out", split=split)
    assert line.startswith(f"--split {split}: expected two or three parts")
    assert not (tmp_path / "out").exists()


def test_data_that_is_none_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no such folder or file" in refusal(tmp_path / "nowhere", to="coco", out=out)
    for number in range(2):
        write_image(tmp_path / "images" / f"{number}.jpg")
    line = refusal(tmp_path / "images", to="coco", out=out)
    assert line.endswith("2 images, but no annotation; export the labels of your labelling tool into the folder")
    assert not out.exists()


def test_bad_data_stops_unless_it_is_to_be_left_out(tmp_path: Path) -> None:
    root = write_voc_folder(tmp_path / "data", {"a": voc_xml([CAT]), "b": voc_xml([DOG])})
    (root / "JPEGImages" / "b.jpg").unlink()
    line = refusal(root, to="yolo", out=tmp_path / "out")
    assert line.startswith("Annotations/b.xml: the image 'b' is missing")
    assert line.endswith("mend the data, or leave these out with --skip-bad-data")
    assert not (tmp_path / "out").exists()
    lines = said(root, to="yolo", out=tmp_path / "out", data_options=DataOptions(skip_bad_data=True))
    assert "left out: 1 image and 0 objects" in lines
    assert lines[-2] == f"{tmp_path / 'out'}, train: 1 image, 1 object"


def test_it_says_what_was_read_and_what_was_written(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    lines = said(data, to="voc", out=out)
    assert lines == [
        f"{data}: VOC: XML, 2 files",
        f"{out}, train: 2 images, 3 objects",
        f"written: {out} as VOC, 2 images of {data}, in 0:00",
    ]
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == [
        "Annotations/a.xml",
        "Annotations/b.xml",
        "ImageSets/Main/train.txt",
        "JPEGImages/a.jpg",
        "JPEGImages/b.jpg",
        "classes.txt",
    ]


def test_classes_that_get_the_same_name_become_one(data: Path, tmp_path: Path) -> None:
    convert(data, to="voc", out=tmp_path / "out", rename=["dog=pet", "cat=pet"], display=quiet())
    table, _ = read_dataset(tmp_path / "out", "train")
    assert table.categories.names == ("pet",)
    assert table.boxes_xyxy.tolist() == read_dataset(data, "train")[0].boxes_xyxy.tolist()
    convert(data, to="yolo", out=tmp_path / "other", rename=["dog=hound"], display=quiet())
    assert read_dataset(tmp_path / "other", "train")[0].categories.names == ("cat", "hound")
    for wrong in ("bird=pet", "dog=", "dog"):
        message = refusal(data, to="voc", out=tmp_path / "no", rename=[wrong])
        assert message == f"--rename {wrong}: expected OLD=NEW, where OLD is one of cat, dog"


def test_yolo_has_no_word_for_ignored_objects_so_they_are_counted(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert said(data, to="yolo", out=out)[-3:-1] == [
        f"{out}, train: 2 images, 3 objects",
        "train: 1 ignored object left out, since YOLO has no word for them",
    ]
    assert len(read_dataset(out, "train")[0].labels) == 2


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_the_same_bytes_under_a_second_name_or_copies(copy: bool, data: Path, tmp_path: Path) -> None:
    convert(data, to="yolo", out=tmp_path / "out", copy=copy, display=quiet())
    old, new = data / "JPEGImages" / "a.jpg", tmp_path / "out" / "images" / "train" / "a.jpg"
    assert new.read_bytes() == old.read_bytes()
    assert new.samefile(old) != copy


@pytest.mark.parametrize("to", ["voc", "coco", "yolo"])
def test_images_of_one_name_in_several_folders_keep_apart(to: Any, tmp_path: Path) -> None:
    for folder, box in (("x/y", [1, 2]), ("x_y", [3, 4]), ("z", [5, 6])):
        write_image(tmp_path / "data" / folder / "a.jpg", seed=box[0])
        shapes = [{"label": "cat", "shape_type": "rectangle", "points": [box, [40, 50]]}]
        put(tmp_path / "data", f"{folder}/a.json", {"imagePath": "a.jpg", "shapes": shapes})
    convert(tmp_path / "data", to=to, out=tmp_path / "out", display=quiet())
    table, problems = read_dataset(tmp_path / "out", "train")
    assert problems == []
    pixels = {table.image_path(index).read_bytes(): table.boxes_xyxy[index, :2].tolist() for index in range(3)}
    assert pixels == {
        (tmp_path / "data" / folder / "a.jpg").read_bytes(): corner
        for folder, corner in (("x/y", [1, 2]), ("x_y", [3, 4]), ("z", [5, 6]))
    }


def test_names_that_files_and_markup_need_care_with_survive(tmp_path: Path) -> None:
    for number, name in enumerate(('a & "b" <c>', "Kätzchen: no", "- 1")):
        put(tmp_path / "data", f"{number}.json", {"imagePath": f"{name}.png", "shapes": [
            {"label": name, "shape_type": "rectangle", "points": [[1, 2], [3, 4]]}]})  # fmt: skip
        write_image(tmp_path / "data" / f"{name}.png")
    for to in ("voc", "coco", "yolo"):
        convert(tmp_path / "data", to=to, out=tmp_path / to, display=quiet())
        table, problems = read_dataset(tmp_path / to, "train")
        assert problems == []
        assert table.categories.names == ("- 1", "Kätzchen: no", 'a & "b" <c>')
        named = {table.categories.names[table.labels[row]]: table.image_path(row).stem for row in range(3)}
        assert all(name == stem for name, stem in named.items())


def test_nasty_names_of_files_survive_or_are_replaced(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in FILE_NAMES:
        write_image(data / "images" / f"{name}.png")
        (data / "labels").mkdir(exist_ok=True)
        (data / "labels" / f"{name}.txt").write_text("0 .5 .5 .5 .5\n")
    put(data, "data.yaml", json.dumps({"train": "images", "names": list(NASTY_NAMES)}))
    lines = [name for name in NASTY_NAMES if one_line(name) != name]
    assert refusal(data, to="voc", out=tmp_path / "out").startswith(f"class {lines[0]!r}: its name has a line break")
    put(data, "data.yaml", json.dumps({"train": "images", "names": ["cat"]}))
    for to in ("voc", "coco", "yolo"):
        convert(data, to=to, out=tmp_path / to, display=quiet())
        table, problems = read_dataset(tmp_path / to, "train")
        assert (len(table), len(table.labels), problems) == (len(FILE_NAMES), len(FILE_NAMES), [])


def test_two_folders_are_written_as_one(tmp_path: Path) -> None:
    for year, objects in (("VOC2007", [CAT]), ("VOC2012", [DOG])):
        write_voc_folder(tmp_path / year, {f"{year}_1": voc_xml(objects)}, split="trainval")
    convert(f"{tmp_path}/VOC2007+VOC2012", to="coco", out=tmp_path / "out", display=quiet())
    content = json.loads((tmp_path / "out" / "annotations" / "instances_trainval.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["VOC2007_1.jpg", "VOC2012_1.jpg"]
    assert [one["name"] for one in content["categories"]] == ["cat", "dog"]


@pytest.mark.parametrize(("name", "file"), [("coco-beside", "train.json"), ("yolo-other-yaml", "pets.yaml")])
def test_an_annotation_file_may_be_named_in_place_of_the_folder(name: str, file: str, tmp_path: Path) -> None:
    KINDS[name].write(tmp_path / "data")
    put(tmp_path / "data", "other.json", "{}")
    convert(tmp_path / "data" / file, to="voc", out=tmp_path / "out", display=quiet())
    images = [path.stem for path in (tmp_path / "out" / "JPEGImages").iterdir()]
    assert sorted(images) == [one.stem for one in DRAWINGS]


def test_of_an_annotation_file_in_a_folder_of_its_own_the_images_beside_that_folder_are_found(tmp_path: Path) -> None:
    KINDS["coco-train-and-val"].write(tmp_path / "data")
    convert(tmp_path / "data" / "annotations" / "val.json", to="voc", out=tmp_path / "out", display=quiet())
    images = [path.stem for path in (tmp_path / "out" / "JPEGImages").iterdir()]
    assert sorted(images) == ["img_03", "img_04", "img_05"]
