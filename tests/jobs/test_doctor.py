"""`onestage.doctor`: each finding by its code, what it says, and that its mend mends it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawings import CLASSES, DRAWINGS, Drawing, centred, drawn, fractions, put
from folders import voc_xml, write_image, write_voc_folder
from html_pages import Page
from labelled_folders import KINDS, NAMES_TXT, voc_text
from nasty_names import FILE_NAMES, NASTY_NAMES, is_seen
from PIL import Image
from rich.console import Console

import onestage
from onestage.checks import Checkup, quick_findings
from onestage.checks.label_errors import candidates_of
from onestage.data import read_dataset
from onestage.data.table import Table, TableBuilder
from onestage.data_options import DataOptions
from onestage.errors import UserError
from onestage.jobs.doctor import doctor
from onestage.structures import Categories, Detections
from onestage.terminal import Display


def examined(data: Path, **asked: Any) -> tuple[Checkup, str]:
    """The checkup of a folder, and what was printed."""
    text = io.StringIO()
    asked.setdefault("out", data.parent / "page")
    checkup = doctor(data, display=Display(Console(file=text, width=2000)), **asked)
    return checkup, text.getvalue()


def findings(data: Path, **asked: Any) -> dict[str, tuple[str, int]]:
    """Code of each finding -> its level and count."""
    return {one.code: (one.level, one.count) for one in examined(data, **asked)[0].findings}


def voc_of_drawings(
    root: Path,
    splits: Mapping[str, list[str]] | None = None,
    change: Callable[[Drawing], Drawing] = lambda one: one,
    save: Callable[[Drawing], tuple[Image.Image, dict]] = lambda one: (drawn(one), {}),
) -> Path:
    """The drawn set as VOC; `change` is what the annotations say, `save` the stored image."""
    for one in DRAWINGS:
        image, more = save(one)
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        image.save(root / "JPEGImages" / f"{one.stem}.jpg", quality=95, **more)
        put(root, f"Annotations/{one.stem}.xml", voc_text(f"{one.stem}.jpg", change(one)))
    for split, stems in (splits or {"train": [one.stem for one in DRAWINGS]}).items():
        put(root, f"ImageSets/Main/{split}.txt", "".join(f"{stem}\n" for stem in stems))
    return root


def test_the_job_is_a_function_of_the_package_however_often_it_is_asked_for() -> None:
    assert [callable(onestage.doctor), callable(onestage.doctor)] == [True, True]


STEMS = [one.stem for one in DRAWINGS]
OF_FEW = {"few-objects": ("warning", 3)}  # the drawn set is small


def test_a_clean_set_has_no_finding_but_that_it_is_small(tmp_path: Path) -> None:
    data = voc_of_drawings(tmp_path / "data")
    checkup, text = examined(data, strict=True)
    assert {one.code: (one.level, one.count) for one in checkup.findings} == OF_FEW
    assert text.splitlines()[0] == f"{data}: VOC by LabelImg: XML, 6 files"
    assert "report.html" in text
    assert (tmp_path / "page" / "report.html").exists()


def test_near_names_are_found_and_names_that_end_in_other_numbers_are_not(tmp_path: Path) -> None:
    names = ["cat", "Cat", "cats", "traffic light", "trafic light", "car1", "car2", "bus", "buses", "horse", "horses"]
    xml = {f"{number}": voc_xml([(name, 1, 1, 20, 20)]) for number, name in enumerate(names)}
    checkup, text = examined(write_voc_folder(tmp_path / "data", xml))
    (one,) = (one for one in checkup.findings if one.code == "near-names")
    groups = {line.text for line in one.examples}
    assert "Cat (1 object), cat (1 object), cats (1 object)" in groups
    assert {"bus (1 object), buses (1 object)", "horse (1 object), horses (1 object)"} <= groups
    assert {"traffic light (1 object), trafic light (1 object)"} <= groups
    assert not any("car1" in group for group in groups)
    assert "[near-names]" in text


def patches(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("copies", [1, 20])
def test_copies_across_splits_are_errors_and_fix_leaves_one_of_each(copies: int, tmp_path: Path) -> None:
    stems = [f"a{number}" for number in range(2 * copies + 2)]
    again = [f"again{number}" for number in range(copies)]
    root = write_voc_folder(tmp_path / "data", dict.fromkeys([*stems, *again], voc_xml([("cat", 1, 1, 40, 40)])))
    for seed, stem in enumerate(stems):
        patches(seed).save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
    for seed, stem in enumerate(again):
        patches(seed).save(root / "JPEGImages" / f"{stem}.jpg", quality=70)
    half = len(stems) // 2
    put(root, "ImageSets/Main/train.txt", "\n".join(stems[:half]))
    put(root, "ImageSets/Main/test.txt", "\n".join([*stems[half:], *again]))
    assert findings(root, fix=tmp_path / "fixed")["overlap"] == ("error", copies)
    fixed, _ = examined(tmp_path / "fixed", strict=True)
    assert "overlap" not in {one.code for one in fixed.findings}
    assert sum(map(len, fixed.tables.values())) == len(stems)


def turned(one: Drawing, orientation: int) -> tuple[Image.Image, dict]:
    """The image as a camera stores it that writes this EXIF orientation (EXIF 2.32, 4.6.4)."""
    way = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]  # Pillow turns to the left
    exif = Image.Exif()
    exif[0x0112] = orientation
    return drawn(one).transpose(way), {"exif": exif}


def on_stored(one: Drawing, orientation: int) -> Drawing:
    """The boxes as a tool draws them that does not look at EXIF."""
    width, height = one.size_wh
    boxes = [(name, box) for name, box in one.objects]
    if orientation == 3:
        half_turned = [(name, (width - x1, height - y1, width - x0, height - y0)) for name, (x0, y0, x1, y1) in boxes]
        return one._replace(objects=tuple(half_turned))
    left = [(name, (y0, width - x1, y1, width - x0)) for name, (x0, y0, x1, y1) in boxes]
    return one._replace(size_wh=(height, width), objects=tuple(left))


@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_that_do_not_follow_the_exif_orientation_are_errors(orientation: int, tmp_path: Path) -> None:
    for one in DRAWINGS:
        image, more = turned(one, orientation)
        for name, annotated in (("followed", one), ("ignored", on_stored(one, orientation))):
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{one.stem}.jpg", quality=95, **more)
            rows = ((label, *fractions(annotated, box)) for label, box in annotated.objects)
            lines = (" ".join(map(str, [CLASSES.index(label), *centred(*sides)])) for label, *sides in rows)
            put(tmp_path, f"{name}/{one.stem}.txt", "\n".join(lines))
        put(tmp_path, "followed/classes.txt", NAMES_TXT)
        put(tmp_path, "ignored/classes.txt", NAMES_TXT)
    assert findings(tmp_path / "followed") == {**OF_FEW, "exif": ("notice", 6)}
    assert findings(tmp_path / "ignored") == {**OF_FEW, "exif-ignored": ("error", 6)}
    quick = {name: quick_findings({"all": read_dataset(tmp_path / name, "all")[0]}) for name in ("followed", "ignored")}
    codes = {name: [one.code for one in found if one.level == "error"] for name, found in quick.items()}
    assert codes == {"followed": [], "ignored": ["exif-ignored"]}  # before a training too


def test_a_size_that_does_not_follow_the_exif_orientation_is_named_with_it(tmp_path: Path) -> None:
    root = voc_of_drawings(tmp_path / "data", change=lambda one: on_stored(one, 6), save=lambda one: turned(one, 6))
    checkup, text = examined(root)
    assert {one.code: one.count for one in checkup.errors}["size"] == 5  # one image is square
    assert "the image is 96x72 once upright (EXIF orientation 6), its annotation says 72x96; correct it" in text


def test_missing_images_and_images_without_annotation(tmp_path: Path) -> None:
    root = voc_of_drawings(tmp_path / "data", {"train": STEMS[:4], "val": STEMS[4:]})
    (root / "JPEGImages" / "img_01.jpg").unlink()
    write_image(root / "JPEGImages" / "img_77.jpg")
    checkup, text = examined(root)
    found = {one.code: one for one in checkup.findings}
    assert (found["missing-image"].level, found["missing-image"].count) == ("error", 1)
    assert "Annotations/img_01.xml: the image 'img_01' is missing" in text
    assert (found["images-without-annotation"].level, found["images-without-annotation"].count) == ("notice", 1)
    assert "JPEGImages/img_77.jpg: no voc annotation names it" in text


def test_of_folders_that_are_joined_only_images_that_none_uses_are_said(tmp_path: Path) -> None:
    for name in ("one", "two"):
        KINDS["labelme-beside"].write(tmp_path / name)
    write_image(tmp_path / "two" / "img_77.jpg")
    checkup, text = examined(Path(f"{tmp_path}/one+two"))
    found = {one.code: one for one in checkup.findings}
    assert found["images-without-annotation"].count == 1
    assert "    two/img_77.jpg: no labelme annotation names it" in text


def test_images_of_no_split_beside_others_are_a_split_of_their_own(tmp_path: Path) -> None:
    for place in ("train/a", "val/b", "extra/c"):
        write_image(tmp_path / f"{place}.jpg")
        put(tmp_path, f"{place}.xml", voc_xml([("cat", 11, 21, 40, 50)]))
    put(tmp_path, "table.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,11,21,40,50\nd.jpg,cat,11,21,40,50\n")
    write_image(tmp_path / "d.jpg")
    checkup, text = examined(tmp_path)
    assert {name: table.image_names() for name, table in checkup.tables.items()} == {
        "train": ["train/a.jpg"],
        "val": ["val/b.jpg"],
        "all": ["extra/c.jpg"],
    }
    assert "    d.jpg: no voc annotation names it" in text
    assert "or leave them out; --format csv may read them" in text


def test_images_without_objects_and_a_split_without_any(tmp_path: Path) -> None:
    def emptied(*stems: str) -> Callable[[Drawing], Drawing]:
        return lambda one: one._replace(objects=()) if one.stem in stems else one

    some = findings(voc_of_drawings(tmp_path / "some", change=emptied("img_02")))
    assert some["images-without-objects"] == ("notice", 1)
    many = findings(voc_of_drawings(tmp_path / "many", change=emptied(*STEMS[:3])))
    assert many["images-without-objects"] == ("warning", 3)
    none = findings(voc_of_drawings(tmp_path / "none", change=emptied(*STEMS)))
    assert none["no-objects"] == ("error", 6)


def test_boxes_without_area_and_objects_that_are_there_twice(tmp_path: Path) -> None:
    boxes = [("cat", 1, 1, 20, 20), ("cat", 1, 1, 20, 20), ("cat", 9, 9, 3, 30), ("dog", -30, 1, 20, 20)]
    found = findings(write_voc_folder(tmp_path / "data", {"a": voc_xml(boxes)}), fix=tmp_path / "fixed")
    assert {code: found[code] for code in ("duplicate-object", "box-empty", "box-clipped")} == {
        "duplicate-object": ("warning", 1),
        "box-empty": ("warning", 1),
        "box-clipped": ("warning", 1),
    }
    again = findings(tmp_path / "fixed")
    assert not {"duplicate-object", "box-empty", "box-clipped"} & set(again)
    assert "duplicate-object" in (tmp_path / "fixed" / "changes.txt").read_text()


def test_a_class_that_a_split_lacks(tmp_path: Path) -> None:
    found = examined(voc_of_drawings(tmp_path / "data", {"train": [*STEMS[:4], "img_05"], "val": ["img_04"]}))[0]
    (one,) = (one for one in found.findings if one.code == "class-missing-in-split")
    assert (one.level, one.count) == ("warning", 2)
    assert [example.text for example in one.examples] == ["val has no cat", "val has no dog"]


def test_objects_that_are_small_at_the_input_of_the_detector(tmp_path: Path) -> None:
    boxes = [("cat", 1, 1, 40, 40), ("cat", 100, 100, 120, 120)]
    root = write_voc_folder(tmp_path / "data", {"a": voc_xml(boxes, size_hw=(1200, 1200))}, size_hw=(1200, 1200))
    found = {one.code: one for one in examined(root)[0].findings}
    assert (found["small-objects"].level, found["small-objects"].count) == ("warning", 1)  # 21 pixels of 1200 at 320
    assert [example.text for example in found["small-objects"].examples] == ["JPEGImages/a.jpg: cat, 5.6 px"]
    assert "small-objects" not in findings(root, detector="ssd512-vgg16")  # 9.0 px
    with pytest.raises(UserError, match="detector 'yolov5': unknown"):
        doctor(root, detector="yolov5")


def test_scaled_images_are_mended_by_rescaling_the_boxes(tmp_path: Path) -> None:
    def twice(one: Drawing) -> Drawing:
        objects = [(name, tuple(2 * side for side in box)) for name, box in one.objects]
        return one._replace(size_wh=(2 * one.size_wh[0], 2 * one.size_wh[1]), objects=tuple(objects))

    root = voc_of_drawings(tmp_path / "data", change=twice)
    checkup, text = examined(root)
    (one,) = (one for one in checkup.findings if one.code == "scale")
    assert (one.level, one.count) == ("error", 6)
    assert "--rescale-boxes" in one.mend
    assert "its annotation says 192x144" in text
    rescaled = examined(root, data_options=DataOptions(rescale_boxes=True))[0]
    assert {one.code for one in rescaled.findings} == {"few-objects"}
    table = rescaled.tables["train"]
    # VOC's first pixel 2 * x + 1 counts from 1, so it is 2 * x of the large image and x of this one
    assert table.objects(0).boxes_xyxy.tolist() == [list(map(float, box)) for _, box in DRAWINGS[0].objects]


@pytest.mark.parametrize("name", ["voc-devkit", "yolo-data-yaml", "coco", "labelme-beside"])
def test_a_copy_that_is_mended_is_found_clean(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.write(tmp_path / "data")
    image = next(path for path in sorted((tmp_path / "data").rglob("img_01.jpg")))
    image.write_bytes(image.read_bytes()[:-60])
    found = findings(tmp_path / "data", fix=tmp_path / "fixed")
    assert found["unreadable-image"] == ("error", 1)
    checkup, _ = examined(tmp_path / "fixed", strict=True)
    assert checkup.errors == []
    assert sum(map(len, checkup.tables.values())) == 5
    assert checkup.tables["train"].kind == (kind.format if kind.format in ("voc", "yolo") else "coco")
    changes = (tmp_path / "fixed" / "changes.txt").read_text()
    assert "img_01.jpg" in changes
    assert "(few-objects): not changed" in changes
    with pytest.raises(UserError, match="has files already; name a new folder with --fix"):
        examined(tmp_path / "data", fix=tmp_path / "fixed")


def test_findings_as_json_for_scripts(tmp_path: Path) -> None:
    root = voc_of_drawings(tmp_path / "data")
    (root / "JPEGImages" / "img_01.jpg").unlink()
    for seed in range(5):
        write_image(root / "JPEGImages" / f"more_{seed}.jpg", (40, 60), seed)
    examined(root, json_file=tmp_path / "findings.json")
    content = json.loads((tmp_path / "findings.json").read_text())
    assert content["splits"]["train"]["classes"] == {"bird": 4, "cat": 4, "dog": 4}
    levels = [one["level"] for one in content["findings"]]
    assert levels == sorted(levels, key=["error", "warning", "notice"].index)
    for one in content["findings"]:
        assert set(one) == {"code", "level", "count", "what", "why", "mend", "examples"}
        assert all("\n" not in one[key] for key in ("what", "why", "mend"))
        assert one["count"] >= 1
    (unused,) = (one for one in content["findings"] if one["code"] == "images-without-annotation")
    assert [f"more_{seed}.jpg" in one for seed, one in enumerate(unused["examples"])] == [True] * 5  # all of them


def test_strict_ends_with_an_error_only_where_the_data_has_errors(tmp_path: Path) -> None:
    small = voc_of_drawings(tmp_path / "small")
    assert examined(small, strict=True)[0].errors == []
    (small / "JPEGImages" / "img_01.jpg").unlink()
    assert len(examined(small)[0].errors) == 1
    with pytest.raises(UserError, match=r"small: 1 kinds? of errors?: 1 annotations? whose image is missing") as error:
        examined(small, strict=True)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- wrong labels
def labelled(*objects: tuple[int, tuple[float, float, float, float], bool]) -> Table:
    builder = TableBuilder(Path("."), "train", "voc")
    builder.add(
        path="a.jpg",
        image_id="a",
        size_hw=(100, 100),
        boxes_xyxy=np.array([box for _, box, _ in objects], dtype=np.float64).reshape(-1, 4),
        labels=[label for label, *_ in objects],
        ignored=[ignored for *_, ignored in objects],
    )
    return builder.build(Categories.from_names(["cat", "dog"]))


def detected(*rows: tuple[int, float, tuple[float, float, float, float]]) -> Detections:
    boxes = torch.tensor([box for *_, box in rows]).reshape(-1, 4)
    scores, labels = torch.tensor([score for _, score, _ in rows]), torch.tensor([label for label, *_ in rows])
    return Detections(boxes.float(), scores.float(), labels.long())


def test_nasty_names_are_text_in_findings_changes_and_pages(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in FILE_NAMES:
        write_image(data / "images" / f"{name}.png")
        (data / "labels").mkdir(exist_ok=True)
        (data / "labels" / f"{name}.txt").write_text("0 .5 .5 .5 .5\n1 .9 .5 .5 .5\n")
    put(data, "data.yaml", json.dumps({"train": "images", "names": list(NASTY_NAMES)}))
    _, text = examined(data, json_file=tmp_path / "all.json", out=tmp_path / "page")
    assert all(map(is_seen, text.splitlines()))
    assert not any(line.startswith("onestage: all good") for line in text.splitlines())
    written = json.loads((tmp_path / "all.json").read_text(encoding="ascii"))
    assert list(written["splits"]["train"]["classes"]) == list(NASTY_NAMES)
    assert all(map(is_seen, Page((tmp_path / "page/report.html").read_text(encoding="utf-8")).words))
    put(data, "data.yaml", json.dumps({"train": "images", "names": ["cat", "dog"]}))
    examined(data, fix=tmp_path / "fixed")
    changes = (tmp_path / "fixed" / "changes.txt").read_text(encoding="utf-8").splitlines()
    clipped = changes.index(next(line for line in changes if "(box-clipped)" in line))
    boxes = list(itertools.takewhile(lambda line: line.startswith("    labels/"), changes[clipped + 1 :]))
    assert len(boxes) == len(FILE_NAMES)  # a line each
    assert all(map(is_seen, changes))


A, B, C = (0.0, 0.0, 20.0, 20.0), (40.0, 0.0, 60.0, 20.0), (0.0, 60.0, 30.0, 90.0)


def test_each_kind_of_wrong_label_is_found_and_the_surest_doubted_most() -> None:
    good = ((40.0, 30.0, 55.0, 45.0), (80.0, 70.0, 98.0, 98.0))  # two dogs that are found as they are labelled
    dogs = [(1, box, False) for box in good]
    table = labelled((0, A, False), (0, B, False), (1, C, False), (0, (60, 60, 80, 80), False), *dogs)
    found = detected(
        *((1, 0.9, box) for box in good),
        (0, 0.9, A),  # right
        (1, 0.8, B),  # a dog where a cat is labelled
        (1, 0.7, (0, 60, 30, 75)),  # half of C
        (1, 0.6, (80, 20, 95, 35)),  # nothing is labelled there
        (0, 0.4, (20, 30, 35, 45)),  # nothing either, but not sure enough
    )
    candidates = sorted(candidates_of(table, "train", [found]), key=lambda one: -one.doubt)
    kinds = [(one.kind, one.objects, round(one.doubt, 2)) for one in candidates]
    # class: 0.8 for a dog, 0 for a cat; never found: 2 of 3 cats are noticed; missing: 3 of 5 sure dogs are some, so
    # 0.6 x 3/5; box: 0.5 is in the middle between what touches (0.3) and what is loose no more (0.7), so 0.7 / 2
    assert kinds == [("class", (1,), 1.0), ("never-found", (3,), 0.67), ("missing", (), 0.36), ("box", (2,), 0.35)]
    assert [one.text for one in candidates] == [
        "a.jpg: the cat looks like a dog",
        "a.jpg: the cat is never found",
        "a.jpg: a dog at 80, 20, 95, 35 is not labelled",
        "a.jpg: the box of the dog and the model's overlap by 50%",
    ]


def test_ignored_objects_and_labels_that_the_model_agrees_with_are_not_doubted() -> None:
    table = labelled((0, A, False), (1, C, True))
    assert candidates_of(table, "train", [detected((0, 0.9, A), (0, 0.9, C))]) == []
    assert candidates_of(table, "train", [detected((0, 0.9, A), (1, 0.5, A))]) == []


def test_of_a_class_that_the_model_does_not_know_no_label_is_doubted() -> None:
    (one,) = candidates_of(labelled((1, A, False)), "train", [detected()])
    assert (one.kind, one.doubt) == ("never-found", 0.0)
