"""The validator. Reliability cases: bad-images (before training), boxes; and the real sets, where they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from folders import voc_xml, write_image, write_voc_folder
from PIL import Image

from onestage.data import choose_splits, read_dataset
from onestage.data.validate import Problem, drop_bad, errors, summary, validate_images
from onestage.data_options import DataOptions
from onestage.evaluation.voc import voc_average_precision
from onestage.structures import DetectionTable

SHARED = Path(os.environ.get("ONESTAGE_SHARED", Path(__file__).parents[2].parent / "shared")) / "data"


def test_a_clean_set_has_no_problems(tmp_path: Path) -> None:
    table, problems = read_dataset(write_voc_folder(tmp_path, {"a": voc_xml(), "b": voc_xml()}), "train")
    assert problems + validate_images(table) == []
    assert summary([]) == []


def test_bad_images_are_all_named_before_training_and_dropped_where_asked(tmp_path: Path) -> None:
    names = ("cut", "empty", "good", "gone", "half", "html", "png", "turned", "wide")
    write_voc_folder(tmp_path, {name: voc_xml([("cat", 5, 5, 20, 20)]) for name in names})
    table, problems = read_dataset(tmp_path, "train")
    assert problems == []
    images = tmp_path / "JPEGImages"
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-200])
    (images / "empty.jpg").write_bytes(b"")
    (images / "gone.jpg").unlink()
    (images / "html.jpg").write_text("<!DOCTYPE html>")
    write_image(images / "other.png")
    (images / "other.png").rename(images / "png.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(images / "turned.jpg", exif=exif)
    write_image(images / "wide.jpg", (60, 90))
    write_image(images / "half.jpg", (30, 40))
    problems = validate_images(table)
    assert [(problem.file, problem.kind, problem.severity) for problem in problems] == [
        ("JPEGImages/cut.jpg", "unreadable-image", "error"),
        ("JPEGImages/empty.jpg", "unreadable-image", "error"),
        ("JPEGImages/gone.jpg", "missing-image", "error"),
        ("JPEGImages/half.jpg", "scale", "error"),
        ("JPEGImages/html.jpg", "unreadable-image", "error"),
        ("JPEGImages/png.jpg", "extension", "notice"),
        ("JPEGImages/turned.jpg", "size", "error"),
        ("JPEGImages/wide.jpg", "size", "error"),
    ]
    assert "60x80 once upright (EXIF orientation 6), its annotation says 80x60" in problems[6].message
    assert "the image is 40x30, its annotation says 80x60: it was scaled; --rescale-boxes" in problems[3].message
    assert str(problems[0]).count("cut.jpg") == 1
    assert len(errors(problems)) == 7
    kept = drop_bad(table, problems)
    assert [kept.image_id(i) for i in range(len(kept))] == ["good", "png"]
    assert validate_images(kept) == [problems[5]]


def test_the_other_formats_are_decoded_to_prove_them_whole(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {name: voc_xml() for name in ("a", "b")})
    for name, extension in (("a", "gif"), ("b", "tiff")):
        (tmp_path / "JPEGImages" / f"{name}.jpg").unlink()
        write_image(tmp_path / "JPEGImages" / f"{name}.{extension}")
    table, _ = read_dataset(tmp_path, "train")
    assert validate_images(table) == []
    for path in (tmp_path / "JPEGImages").iterdir():
        path.write_bytes(path.read_bytes()[:1500])
    assert [problem.kind for problem in validate_images(table)] == ["unreadable-image"] * 2


def test_the_summary_counts_every_kind_and_shows_errors_first_up_to_a_limit() -> None:
    notice = Problem("n.xml", 1, "clipped", "box-border", "notice")
    many = [notice, *(Problem(f"{n}.xml", None, f"damaged {n // 3}", "annotation") for n in range(30))]
    lines = summary(many, limit=3)
    assert lines == [
        "30 errors: annotation",
        "1 notice: box-border",
        "  0.xml: damaged 0 (and 2 more like it)",
        "  3.xml: damaged 1 (and 2 more like it)",
        "  6.xml: damaged 2 (and 2 more like it)",
        "  ... and 22 more",
    ]
    assert str(notice) == "n.xml, object 1: clipped"


def test_boxes_the_ap_of_a_spoilt_set_is_the_clean_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clean, spoilt = {}, {}
    for n in range(8):
        starts, sides = rng.integers(1, 30, (4, 2)), rng.integers(5, 30, (4, 2))
        good = [("cat", *start, *end) for start, end in zip(starts.tolist(), (starts + sides).tolist(), strict=True)]
        bad = [("cat", "nan", 1, 5, 5), ("cat", 9, 9, 3, 12), ("cat", -50, 1, -10, 5), good[0]]
        clean[f"p{n}"], spoilt[f"p{n}"] = voc_xml(good), voc_xml(good + bad)
    table, problems = read_dataset(write_voc_folder(tmp_path / "clean", clean), "train")
    assert errors(problems) == []
    spoilt_table, spoilt_problems = read_dataset(write_voc_folder(tmp_path / "spoilt", spoilt), "train")
    assert len(errors(spoilt_problems)) == 8 * 2
    truth = table.ground_truth()
    rows = rng.integers(0, len(truth.labels), 60)
    boxes_xyxy = truth.boxes_xyxy[rows] + rng.normal(0, 2, (60, 4))
    found = DetectionTable(truth.image_index[rows], truth.labels[rows], rng.random(60), boxes_xyxy)
    expected = voc_average_precision(truth, found, 1).per_class[0]
    result = voc_average_precision(spoilt_table.ground_truth(), found, 1).per_class[0]
    assert (result.ap_area, result.ap_11point) == (expected.ap_area, expected.ap_11point)
    assert 0.0 < result.ap_area < 1.0


@pytest.mark.skipif(not (SHARED / "neu-det").is_dir(), reason="the real data sets are not here")
def test_neu_det_reads_whole() -> None:
    splits = choose_splits(SHARED / "neu-det")
    assert splits == ("trainval:kept", "trainval:held-out", "test", "")
    assert choose_splits(SHARED / "neu-det", hold_out=False) == ("trainval", "test", "test", "")
    tables, problems = zip(*(read_dataset(SHARED / "neu-det", split) for split in ("trainval", "test")), strict=True)
    assert [len(table) for table in tables] == [1440, 360]
    duplicates = [problem for found in problems for problem in found]
    assert {problem.kind for problem in duplicates} == {"duplicate-object"}
    assert sum(len(table.labels) for table in tables) + len(duplicates) == 4189
    assert sum(int(table.ignored.sum()) for table in tables) == 81
    assert tables[0].categories == tables[1].categories
    assert [problem for table in tables for problem in validate_images(table)] == []


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="the real data sets are not here")
def test_bccds_two_boxes_without_width_are_one_pixel_wide() -> None:
    table, problems = read_dataset(SHARED / "bccd", "trainval")
    assert (len(table), len(table.labels)) == (292, 3943)  # of 4,888 objects, 945 are in the test split
    assert problems == []
    assert ((table.boxes_xyxy[:, 2] - table.boxes_xyxy[:, 0]) == 1).sum() == 2
    assert validate_images(table) == []


def test_boxes_are_scaled_with_images_that_were_resized_after_they_were_annotated(tmp_path: Path) -> None:
    write_voc_folder(tmp_path, {"a": voc_xml([("cat", 5, 5, 20, 30)])}, size_hw=(30, 40))
    table, problems = read_dataset(tmp_path, "train", options=DataOptions(rescale_boxes=True))
    assert problems + validate_images(table) == []
    assert table.boxes_xyxy.tolist() == [[2, 2, 10, 15]]
    assert table.image_sizes_hw.tolist() == [[30, 40]]


def test_what_was_checked_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESTAGE_CACHE", str(tmp_path / "cache"))
    root = write_voc_folder(tmp_path / "set", {f"{n}": voc_xml() for n in range(70)})
    table, _ = read_dataset(root, "train")
    assert validate_images(table) == []
    with monkeypatch.context() as patch:
        patch.setattr("onestage.data.validate.check_image", lambda path: pytest.fail(f"{path} is looked at again"))
        assert validate_images(table) == []
    (root / "JPEGImages" / "7.jpg").write_text("<html>")
    assert [problem.file for problem in validate_images(table)] == ["JPEGImages/7.jpg"]
