"""Debian's Chromium, headless, driven by Playwright, and the page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from red_box import CATEGORIES, RedBoxDetector
from served import running

from onestage.inference.predictor import Predictor
from onestage.serving.app import create_app

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--use-fake-device-for-media-stream"]
CHROMIUM = os.environ.get("ONESTAGE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


expect.set_options(timeout=30_000)  # milliseconds: the machines that run this are slow and shared


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:  # .ci/run installs it and names it, so there this never happens
        pytest.skip("the tests of the page need Chromium: apt-get install chromium, or its path in ONESTAGE_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(accept_downloads=True, permissions=["camera"])
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if _is_elsewhere(request.url, address) else None)
    page.goto(address)
    expect(page.locator("#model")).to_contain_text("red-box, 2 classes")
    yield page
    context.close()
    assert problems == []  # no error in a script, nothing asked of another server


def _is_elsewhere(url: str, address: str) -> bool:
    return not url.startswith((address, "blob:", "data:"))
