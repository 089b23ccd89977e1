"""Corrections on the page, by mouse and by keys, and the VOC files that come of them, as our own reader reads them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from browsing import BOX, choose, choose_several, drag, found, saved
from nasty_names import NASTY_NAMES
from playwright.sync_api import Page, expect
from read_back import objects, read
from served import red_png

from onestage.texts import one_line


def read_saved(page: Page, folder: Path, name: str = "street.png") -> list[tuple]:
    """The objects of the open image, saved as VOC beside it."""
    (folder / name).write_bytes(red_png(BOX))
    saved(page, "Save VOC", folder)
    table, problems = read(folder, "voc")
    assert problems == []
    return objects(table)


def test_what_was_found_is_saved_as_voc_and_read_back_to_the_pixel(page: Page, tmp_path: Path) -> None:
    choose(page, "street.png", red_png(BOX))
    expect(found(page)).to_have_count(1)
    assert read_saved(page, tmp_path) == [("red", 20, 30, 80, 90)]
    written = (tmp_path / "street.xml").read_text(encoding="utf-8")
    assert "<xmin>21</xmin><ymin>31</ymin><xmax>80</xmax><ymax>90</ymax>" in written  # VOC: from 1, inclusive


def test_a_box_is_moved_resized_drawn_and_deleted_with_the_mouse(page: Page, tmp_path: Path) -> None:
    choose(page, "street.png", red_png(BOX))
    expect(found(page)).to_have_text("red 0.90")
    drag(page, (50, 60), (60, 55))  # inside: it moves
    expect(found(page)).to_have_text("red")  # a person's box has no score
    drag(page, (90, 85), (95, 95))  # its lower right corner
    drag(page, (2, 2), (12, 22))  # where nothing is: a new one
    expect(found(page)).to_have_count(2)
    assert read_saved(page, tmp_path) == [("red", 30, 25, 95, 95), ("red", 2, 2, 12, 22)]
    page.get_by_role("button", name="Delete").click()
    expect(found(page)).to_have_count(1)
    page.locator("#threshold").fill("1")
    expect(found(page)).to_have_count(1)  # it is no matter of scores
    for _ in range(4):
        page.get_by_role("button", name="Undo").click()
    page.locator("#threshold").fill("0.5")
    expect(found(page)).to_have_text("red 0.90")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_a_box_is_corrected_by_keys_alone(page: Page, tmp_path: Path) -> None:
    choose(page, "street.png", red_png(BOX))
    expect(found(page)).to_have_count(1)
    page.locator("#found button").focus()
    page.keyboard.press("Enter")  # chosen, and the keys are the image's
    expect(page.locator("#canvas")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("n")  # a new one in the middle
    expect(found(page)).to_have_count(2)
    page.evaluate("window.requestAnimationFrame = (draw) => setTimeout(draw, 100)")
    page.get_by_label("Class", exact=True).fill("blue")
    page.keyboard.press("Tab")
    page.get_by_label("Left").fill("5.5")
    expect(found(page).nth(1)).to_have_text("blue")  # the slow screen is drawn, and takes back nothing that was typed
    page.keyboard.press("Enter")
    assert read_saved(page, tmp_path) == [("red", 19, 31, 80, 91), ("blue", 5.5, 38, 63, 63)]
    page.locator("#canvas").focus()
    page.keyboard.press("Delete")
    expect(found(page)).to_have_count(1)
    page.keyboard.press("Control+z")
    expect(found(page)).to_have_count(2)
    page.keyboard.press("Tab")
    expect(page.locator("#canvas")).not_to_be_focused()  # no trap


def test_a_box_stays_in_the_image_and_keeps_its_size(page: Page, tmp_path: Path) -> None:
    choose(page, "street.png", red_png(BOX))
    expect(found(page)).to_have_count(1)
    drag(page, (50, 60), (99, 99))
    assert read_saved(page, tmp_path) == [("red", 40, 40, 100, 100)]
    page.get_by_label("Right").fill("5000")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Right")).to_have_value("100")
    page.get_by_label("Left").fill("-7")
    page.keyboard.press("Enter")
    assert read_saved(page, tmp_path) == [("red", 0, 40, 100, 100)]


def test_a_class_is_changed_to_one_that_the_model_lacks(page: Page, tmp_path: Path) -> None:
    choose(page, "street.png", red_png(BOX))
    expect(found(page)).to_have_count(1)
    page.locator("#found button").click()
    page.get_by_label("Class", exact=True).fill("a < b & c")
    page.keyboard.press("Tab")
    expect(found(page)).to_have_text("a < b & c")
    assert read_saved(page, tmp_path) == [("a < b & c", 20, 30, 80, 90)]


def test_several_images_are_saved_as_one_archive_that_is_unpacked_beside_them(page: Page, tmp_path: Path) -> None:
    names = ["a.png", "a.jpg", "A & <b>.png", "\u6f22\u5b57 \U0001f98a.png", 'it\'s "so".png', "x.y.png", "c:d.png"]
    images = {name: red_png((10, 10, 40 + 5 * n, 90)) for n, name in enumerate(names)}
    choose_several(page, images)
    expect(page.locator("#progress")).to_have_text("7 of 7")
    archive = saved(page, "Save VOC of all", tmp_path)
    folder = tmp_path / "data"
    with zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        packed.extractall(folder)
    for name, content in images.items():
        (folder / name).write_bytes(content)
    table, problems = read(folder, "voc")
    assert problems == []
    assert sorted(objects(table, n)[0] for n in range(len(table))) == [
        ("red", 10, 10, 40 + 5 * n, 90) for n in range(len(names))
    ]


def test_only_corrected_images_go_into_the_archive_where_that_is_asked(page: Page, tmp_path: Path) -> None:
    choose_several(page, {"a.png": red_png(BOX), "b.png": red_png(BOX)})
    expect(page.locator("#progress")).to_have_text("2 of 2")
    page.locator("#found button").click()
    page.keyboard.press("Delete")
    expect(page.locator("#strip li").first).to_have_text("a.png0 \u270e")
    page.get_by_label("only images that I corrected").check()
    with zipfile.ZipFile(saved(page, "Save VOC of all", tmp_path)) as packed:
        assert packed.namelist() == ["a.xml"]
        assert b"<object>" not in packed.read("a.xml")


@pytest.mark.parametrize("path", ["../../etc/x.png", "/x.png", "./a/../x.png", "..\\x.png"])
def test_no_path_in_an_archive_leads_out_of_it(page: Page, path: str) -> None:
    (name,) = page.evaluate("(path) => import('./voc.js').then((voc) => voc.xmlPaths([path]))", path)
    assert ".." not in name.split("/")
    assert not name.startswith("/")
    assert "\\" not in name


def test_nasty_class_names_are_read_back_as_training_reads_them(page: Page, tmp_path: Path) -> None:
    text = page.evaluate(
        """(names) => import("./voc.js").then((voc) => voc.vocXml("street.png", { width: 100, height: 100 },
            names.map((name, n) => ({ name, box_xyxy: [n, 1.25, 50.5, 60] }))))""",
        list(NASTY_NAMES),
    )
    (tmp_path / "street.xml").write_text(text, encoding="utf-8")
    (tmp_path / "street.png").write_bytes(red_png(BOX))
    table, problems = read(tmp_path, "voc")
    assert problems == []
    assert objects(table) == [(one_line(name), n, 1.25, 50.5, 60) for n, name in enumerate(NASTY_NAMES)]


def test_frames_of_the_camera_are_not_corrected(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#status")).to_contain_text("in camera.jpg")
    expect(page.locator("#corrections")).to_be_hidden()
