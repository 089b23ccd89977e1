"""The page in a real browser: an image, a video or the camera in, boxes out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from browsing import BOX, choose
from films import write_film
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from red_box import CATEGORIES, RedBoxDetector
from served import red_png, running

from onestage.inference.predictor import Predictor
from onestage.serving.app import create_app


def test_an_uploaded_image_shows_its_box_at_once(page: Page) -> None:
    choose(page, "street.png", red_png(BOX))
    expect(page.locator("#found li")).to_have_count(1)
    expect(page.locator("#found li")).to_have_text("red 0.90")
    expect(page.locator("#status")).to_contain_text("1 found in street.png, 100 × 100")
    expect(page.locator("#drop")).to_be_hidden()
    drawn = np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)
    blue_line = np.abs(drawn - [46, 196, 255]).sum(axis=2) < 60  # the class's colour
    rows, columns = blue_line.any(axis=1).nonzero()[0], blue_line.any(axis=0).nonzero()[0]
    height, width = drawn.shape[:2]
    # the box is (20, 30, 80, 90) of 100 pixels; a line's half width and the tag above it are allowed for
    assert abs(columns[0] / width - 0.20) < 0.02
    assert abs(columns[-1] / width - 0.80) < 0.02
    assert abs(rows[-1] / height - 0.90) < 0.02


def test_the_slider_hides_what_scores_less_without_asking_again(page: Page) -> None:
    choose(page, "street.png", red_png(BOX))
    expect(page.locator("#found li")).to_have_count(1)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#threshold").focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#threshold-value")).to_have_text("0.90")
    expect(page.locator("#found li")).to_have_count(0)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#threshold-value")).to_have_text("0.89")
    expect(page.locator("#found li")).to_have_count(1)
    assert asked == []


def test_a_class_is_hidden_and_shown_again(page: Page) -> None:
    choose(page, "street.png", red_png(BOX))
    red = page.get_by_role("checkbox", name="red")
    expect(page.locator("#classes li").nth(1)).to_contain_text("red1")  # its name and its count
    red.uncheck()
    expect(page.locator("#found li")).to_have_count(0)
    page.get_by_role("button", name="All").click()
    expect(page.locator("#found li")).to_have_count(1)
    page.get_by_role("button", name="None").click()
    expect(page.locator("#found li")).to_have_count(0)


def test_a_bad_file_is_named_and_the_next_good_one_works(page: Page) -> None:
    choose(page, "notes.png", b"milk, bread")
    alert = page.get_by_role("alert")
    expect(alert).to_be_visible()
    expect(alert).to_contain_text("not a JPEG")
    choose(page, "street.png", red_png(BOX))
    expect(page.locator("#found li")).to_have_count(1)
    expect(alert).to_be_hidden()


def test_image_and_json_are_saved(page: Page, tmp_path: Path) -> None:
    choose(page, "street.png", red_png(BOX))
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save JSON").click()
    assert saving.value.suggested_filename == "street-detections.json"
    saving.value.save_as(tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == [
        {
            "source": "street.png",
            "width": 100,
            "height": 100,
            "detections": [{"name": "red", "label": 1, "score": 0.9, "box_xyxy": [20, 30, 80, 90]}],
        }
    ]
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save image").click()
    saving.value.save_as(tmp_path / "found.png")
    with Image.open(tmp_path / "found.png") as saved:
        assert saved.size == (700, 700)  # small images are enlarged by a whole factor


def test_an_image_is_pasted(page: Page) -> None:
    page.evaluate(
        """async (bytes) => {
            const file = new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" });
            const data = new DataTransfer();
            data.items.add(file);
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        list(red_png(BOX)),
    )
    expect(page.locator("#status")).to_contain_text("1 found in pasted.png")


def test_an_image_is_dropped(page: Page) -> None:
    page.evaluate(
        """async (bytes) => {
            const file = new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" });
            const data = new DataTransfer();
            data.items.add(file);
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        list(red_png(BOX)),
    )
    expect(page.locator("#status")).to_contain_text("1 found in dropped.png")


def test_the_page_is_used_by_keyboard_alone(page: Page) -> None:
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    choosing.value.set_files({"name": "street.png", "mimeType": "image/png", "buffer": red_png(BOX)})
    expect(page.locator("#found li")).to_have_count(1)
    reached: set[str] = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"threshold", "all", "none", "another", "save-image", "save-json", "red 0.90"} <= reached


def test_the_camera_is_looked_at_until_it_is_stopped(page: Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#status")).to_contain_text("in camera.jpg")
    expect(page.locator("#clock")).to_have_text("live")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_a_video_is_drawn_frame_by_frame(page: Page, tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", frames=5)
    choose(page, "film.mp4", film.read_bytes(), "video/mp4")
    expect(page.locator("#status")).to_contain_text("frame-0.00s.jpg")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Play")).to_be_visible()  # at the end
    expect(page.locator("#status")).not_to_contain_text("frame-0.00s.jpg")
    expect(page.locator("#canvas")).to_be_visible()


def test_the_token_is_asked_for_and_kept(browser: Browser) -> None:
    app = create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"), token="correct horse")
    with running(app) as port:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_label("Token").fill("wrong guess")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("alert")).to_contain_text("a token is needed")
        page.get_by_label("Token").fill("correct horse")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_text("red-box, 2 classes")
        page.reload()
        expect(page.locator("#model")).to_have_text("red-box, 2 classes")
        page.goto(f"http://127.0.0.1:{port}/#token=correct%20horse")
        expect(page.locator("#model")).to_have_text("red-box, 2 classes")
        assert "token" not in page.url
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_in_light_and_in_dark(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    for selector in ("body", "#model", "#drop .big", "#choose"):
        colours = page.evaluate(
            """(selector) => {
                let node = document.querySelector(selector);
                const text = getComputedStyle(node).color;
                while (getComputedStyle(node).backgroundColor === "rgba(0, 0, 0, 0)") node = node.parentElement;
                return [text, getComputedStyle(node).backgroundColor];
            }""",
            selector,
        )
        assert contrast(*map(rgb, colours)) >= 4.5, selector  # WCAG 2.1, 1.4.3
    context.close()


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(part) for part in colour[4:-1].split(","))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Of two sRGB colours (WCAG 2.1, relative luminance)."""

    def luminance(colour: tuple[int, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
