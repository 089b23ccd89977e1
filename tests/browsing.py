"""The page in a real browser: what its tests do with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Locator, Page
from served import red_png

BOX = (20, 30, 80, 90)


def choose(page: Page, name: str, content: bytes, kind: str = "image/png") -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def choose_several(page: Page, images: Mapping[str, bytes]) -> None:
    page.locator("#file").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in images.items()]
    )


def red_images(count: int) -> dict[str, bytes]:
    return {f"{n:04}.png": red_png((10, 10, 30 + n % 60, 90)) for n in range(count)}


def found(page: Page) -> Locator:
    return page.locator("#found li")


def saved(page: Page, button: str, path: Path) -> Path:
    """The file that a button saves, under its suggested name in a folder."""
    with page.expect_download() as saving:
        page.get_by_role("button", name=button, exact=True).click()
    saving.value.save_as(path / saving.value.suggested_filename)
    return path / saving.value.suggested_filename


def drag(page: Page, start: tuple[float, float], end: tuple[float, float], size: int = 100) -> None:
    """With the mouse, between two places in pixels of a square image."""
    frame = page.locator("#canvas").bounding_box()
    assert frame is not None
    places = [
        (frame["x"] + x / size * frame["width"], frame["y"] + y / size * frame["height"]) for x, y in (start, end)
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=3)
    page.mouse.up()
