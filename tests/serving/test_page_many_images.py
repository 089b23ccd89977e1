"""Several images and folders on the page: the strip, its order, its keys, its errors."""

from __future__ import annotations

from pathlib import Path

from browsing import BOX, choose_several, found, red_images
from playwright.sync_api import Page, expect
from served import red_png


def test_several_files_get_a_strip_with_counts_and_arrows_lead_through_it(page: Page) -> None:
    choose_several(page, red_images(3))
    items = page.locator("#strip li")
    expect(items).to_have_text(["0000.png1", "0001.png1", "0002.png1"])
    expect(page.locator("#progress")).to_have_text("3 of 3")
    expect(page.locator("#status")).to_contain_text("1 found in 0000.png")
    page.locator("#stage").click(position={"x": 5, "y": 5})
    page.keyboard.press("ArrowRight")
    expect(page.locator("#status")).to_contain_text("1 found in 0001.png")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # there is no further one
    expect(page.locator("#status")).to_contain_text("in 0002.png")
    page.get_by_role("button", name="Previous image").click()
    expect(page.locator("#strip [aria-current]")).to_have_attribute("aria-label", "0001.png: 1 found")
    page.locator("#threshold").fill("0.95")
    expect(items).to_have_text(["0000.png0", "0001.png0", "0002.png0"])


def test_an_image_that_cannot_be_read_says_so_at_its_place_and_the_others_go_on(page: Page) -> None:
    choose_several(page, {"a.png": red_png(BOX), "bad.png": b"milk, bread", "c.png": red_png(BOX)})
    expect(page.locator("#strip li")).to_have_text(["a.png1", "bad.pngerror", "c.png1"])
    expect(page.locator("#progress")).to_have_text("3 of 3, 1 failed")
    expect(page.get_by_role("alert")).to_be_hidden()
    page.locator("#strip li").nth(1).click()
    expect(page.get_by_role("alert")).to_contain_text("bad.png: not a JPEG")
    expect(found(page)).to_have_count(0)
    page.locator("#strip li").nth(2).click()
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(found(page)).to_have_text("red 0.90")


def test_a_folder_is_taken_with_its_images_and_without_the_rest(page: Page, tmp_path: Path) -> None:
    (tmp_path / "night" / "deep").mkdir(parents=True)
    (tmp_path / "night" / "a.png").write_bytes(red_png(BOX))
    (tmp_path / "night" / "deep" / "b.png").write_bytes(red_png(BOX))
    (tmp_path / "night" / "notes.txt").write_text("milk")
    page.locator("#folder").set_input_files(tmp_path / "night")
    expect(page.locator("#strip button")).to_have_count(2)
    titles = [one.get_attribute("title") for one in page.locator("#strip button").all()]
    assert sorted(map(str, titles)) == ["night/a.png", "night/deep/b.png"]
    expect(page.locator("#progress")).to_contain_text("2 of 2; other files passed over: 1")


def test_a_dropped_folder_is_read_to_its_depths(page: Page) -> None:
    page.evaluate(
        """async (bytes) => {
            const file = (path) => {
                const name = path.split("/").at(-1);
                const content = new File([new Uint8Array(bytes)], name, { type: "image/png" });
                return { isDirectory: false, fullPath: path, name, file: (done) => done(content) };
            };
            const folder = (path, entries) => {
                const parts = [entries.slice(0, 1), entries.slice(1), []];  // a browser gives them in parts
                const createReader = () => ({ readEntries: (done) => done(parts.shift()) });
                return { isDirectory: true, fullPath: path, name: path.split("/").at(-1), createReader };
            };
            const deep = folder("/day/x", [file("/day/x/1.png")]);
            const top = folder("/day", [file("/day/10.png"), file("/day/9.png"), deep]);
            const event = new DragEvent("drop", { bubbles: true, cancelable: true });
            const dataTransfer = { items: [{ webkitGetAsEntry: () => top }], files: [] };
            Object.defineProperty(event, "dataTransfer", { value: dataTransfer });
            document.body.dispatchEvent(event);
        }""",
        list(red_png(BOX)),
    )
    expect(page.locator("#strip li")).to_have_text(["9.png1", "10.png1", "1.png1"])


def test_requests_are_few_at_a_time_and_stop_and_go_on(page: Page) -> None:
    held: list = []
    page.route("**/v1/detect**", lambda route: held.append(route))
    choose_several(page, red_images(8))
    expect(page.locator("#progress")).to_have_text("0 of 8")
    page.wait_for_timeout(300)
    assert len(held) == 3
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#progress")).to_have_text("0 of 8, stopped")
    page.unroute("**/v1/detect**")
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#progress")).to_have_text("8 of 8")


def test_the_image_that_is_open_is_asked_for_before_those_in_line(page: Page) -> None:
    asked: list = []
    page.route("**/v1/detect**", lambda route: asked.append(route))
    choose_several(page, red_images(20))
    expect(page.locator("#strip li")).to_have_count(20)
    page.locator("#strip li").nth(15).click()
    for _ in range(4):
        while not asked:
            page.wait_for_timeout(20)
        asked.pop(0).continue_()
    expect(page.locator("#status")).to_contain_text("1 found in 0015.png")
    assert page.locator("#strip .count", has_text="1").count() <= 5


def test_a_busy_server_is_asked_again_and_failures_can_be_tried_again(page: Page) -> None:
    answers = [503, 500]

    def answer(route) -> None:
        if not answers:
            route.continue_()
            return
        headers = {"Retry-After": "0", "Content-Type": "application/json"}
        route.fulfill(status=answers.pop(0), headers=headers, body='{"error": "not now"}')

    page.route("**/v1/detect**", answer)
    choose_several(page, {"a.png": red_png(BOX), "b.png": red_png(BOX)})
    expect(page.locator("#progress")).to_have_text("2 of 2, 1 failed")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#progress")).to_have_text("2 of 2")
    expect(page.locator("#stop")).to_be_hidden()


def test_a_thousand_images_leave_the_page_quick_and_thumbnails_undrawn_until_they_are_seen(page: Page) -> None:
    page.route("**/v1/detect**", lambda route: None)  # no answer comes: what the page does by itself counts
    page.evaluate(
        """(bytes) => {
            window.decoded = 0;
            const decode = window.createImageBitmap;
            window.createImageBitmap = (...how) => { window.decoded++; return decode(...how); };
            const data = new DataTransfer();
            const file = (n) => new File([new Uint8Array(bytes)], `${n}.png`, { type: "image/png" });
            for (let n = 0; n < 1000; n++) data.items.add(file(n));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        list(red_png(BOX)),
    )
    expect(page.locator("#progress")).to_have_text("0 of 1000")
    page.get_by_role("button", name="Next image").click()
    expect(page.locator("#strip [aria-current]")).to_have_attribute("title", "1.png")
    page.wait_for_function("document.querySelector('#strip canvas').width === 72 && window.decoded > 3")
    assert page.evaluate("window.decoded") < 60
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#strip li")).to_have_count(0)
    expect(page.locator("#drop")).to_be_visible()
    expect(page.locator("#images")).to_be_hidden()
