"""Two models on the same image, and thresholds a class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from browsing import BOX, choose, choose_several, found, red_images
from playwright.sync_api import Browser, Page, expect
from red_box import CATEGORIES, RedBoxDetector
from served import red_png, running

from onestage.inference.predictor import Predictor
from onestage.serving.app import create_app
from onestage.structures import Categories

MANY = Categories.from_names([f"class {n}" for n in range(30)])


class ShiftedDetector(RedBoxDetector):
    """Finds the red rectangle 30 pixels further left, so that half of it is shared, and surer."""

    def detect(self, predictions, selection, input_hw):
        (found,) = super().detect(predictions, selection, input_hw)
        return [replace(found, boxes_xyxy=found.boxes_xyxy - found.boxes_xyxy.new_tensor([30, 0, 30, 0]))]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    first, second = (Predictor(one, CATEGORIES, device="cpu") for one in (RedBoxDetector(), ShiftedDetector()))
    with running(create_app(first, second=second, titles=("may", "june"))) as port:
        yield f"http://127.0.0.1:{port}/"


def test_both_models_are_seen_and_what_one_alone_found_is_marked(page: Page) -> None:
    expect(page.locator("#model")).to_have_text("may: red-box, 2 classes \u00b7 june: red-box, 2 classes")
    choose(page, "street.png", red_png(BOX))
    expect(page.locator("#canvas")).to_be_visible()
    expect(page.locator("#canvas-second")).to_be_visible()
    expect(page.locator("#status")).to_contain_text("0 found by both, 1 by may only, 1 by june only, in street.png")
    expect(found(page)).to_have_text(["red 0.90 \u00b7 may only", "red 0.90 \u00b7 june only"])
    page.get_by_label("june", exact=True).check()
    expect(page.locator("#canvas")).to_be_hidden()
    expect(found(page)).to_have_text(["red 0.90 \u00b7 june only"])
    expect(page.locator("#corrections")).to_be_hidden()
    page.keyboard.press("ArrowLeft")  # radio buttons: the one before
    expect(page.locator("#canvas-second")).to_be_hidden()
    expect(page.locator("#canvas")).to_be_visible()


def test_each_model_has_its_own_threshold(page: Page) -> None:
    choose(page, "street.png", red_png(BOX))
    page.get_by_label("Score above, june", exact=True).fill("0.95")
    expect(page.locator("#status")).to_contain_text("0 found by both, 1 by may only, 0 by june only")
    page.get_by_label("Score above for red, may").fill("0.95")
    expect(page.locator("#threshold-value")).to_have_text("0.50 to 0.95")
    expect(page.locator("#status")).to_contain_text("0 found by both, 0 by may only, 0 by june only")


def test_a_box_of_the_second_model_is_taken_over(page: Page) -> None:
    choose(page, "street.png", red_png(BOX))
    page.locator("#found button").nth(1).click()
    page.get_by_role("button", name="Take over").click()
    expect(page.locator("#status")).to_contain_text("1 found by both, 1 by may only, 0 by june only")


def test_several_images_are_compared(page: Page) -> None:
    choose_several(page, red_images(3))
    expect(page.locator("#progress")).to_have_text("3 of 3")
    page.get_by_role("button", name="Next image").click()
    expect(page.locator("#status")).to_contain_text("only, in 0001.png")


def test_many_classes_are_folded_in_and_searched(browser: Browser) -> None:
    detector = RedBoxDetector()
    detector.num_classes = len(MANY)
    with running(create_app(Predictor(detector, MANY, device="cpu"))) as port:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        choose(page, "street.png", red_png(BOX))
        expect(found(page)).to_have_text("class 1 0.90")
        expect(page.locator("#classes")).to_be_hidden()
        page.get_by_text("Classes and their scores (30)").click()
        page.get_by_label("Search").fill("class 1")
        expect(page.locator("#classes li:visible")).to_have_count(11)
        page.get_by_role("button", name="None").click()
        page.get_by_label("Search").fill("")
        expect(page.locator("#classes input:checked")).to_have_count(19)
        expect(found(page)).to_have_count(0)
        page.get_by_role("button", name="All").click()
        page.get_by_label("Score above for class 1", exact=True).fill("0.91")
        expect(found(page)).to_have_count(0)
        page.get_by_label("Score above for class 1", exact=True).fill("0.89")
        expect(found(page)).to_have_count(1)
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_narrow_screen(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    choose_several(page, {f"{n}-{'long-name-' * 8}.png": content for n, content in enumerate(red_images(12).values())})
    expect(page.locator("#progress")).to_have_text("12 of 12")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, canvas[tabindex], progress")]
            .filter((one) => one.checkVisibility())
            .filter((one) => !one.labels?.length && !one.ariaLabel && !one.textContent.trim())
            .map((one) => one.id)"""
    )
    assert unnamed == []
    context.close()
