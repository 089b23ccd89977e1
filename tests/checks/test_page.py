"""The page of a checkup: complete, self-contained, and readable whatever is in the data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from folders import write_image
from html_pages import Page

from onestage.checks import Checkup, Example, Finding
from onestage.checks.all_objects import all_objects
from onestage.checks.page import write_page
from onestage.checks.plots import heat_map, objects_histogram, ratio_histogram, size_histogram
from onestage.checks.shown import CROPS, MARKED, MAX_DRAWN, TILE, choose_crops, choose_examples
from onestage.data import read_dataset
from onestage.data.generated import write_generated_voc
from onestage.data.table import Table, TableBuilder
from onestage.input_size import Stretch
from onestage.structures import Categories

EVIL = "<script>alert(1)</script>"


def table_of(
    root: Path,
    boxes_of_images: Sequence[Sequence[tuple[float, float, float, float]]],
    names: Sequence[str] = ("cat",),
    size_hw: tuple[int, int] = (60, 80),
) -> Table:
    """A table of images that are there; the objects have the classes in turn."""
    builder, next_label = TableBuilder(root, "train", "voc"), 0
    for index, boxes in enumerate(boxes_of_images):
        write_image(root / f"{index}.png", size_hw, seed=index)
        builder.add(
            path=f"{index}.png",
            image_id=str(index),
            size_hw=size_hw,
            boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            labels=[(next_label + i) % len(names) for i in range(len(boxes))],
            ignored=[False] * len(boxes),
        )
        next_label += len(boxes)
    return builder.build(Categories.from_names(names))


def checkup_of(tables: dict[str, Table], findings: Sequence[Finding] = ()) -> Checkup:
    sizes = {split: table.box_sizes_hw(Stretch(300)) for split, table in tables.items()}
    return Checkup("my-data", ["my-data: VOC"], tables, "ssd300-vgg16", sizes, findings, {})


def found(examples: Sequence[Example], code: str = "odd-box", level: str = "warning") -> Finding:
    return Finding(code, level, len(examples), f"{len(examples)} of {code}", "it matters", "do this", examples)


def written(folder: Path, checkup: Checkup) -> Page:
    write_page(folder / "page.html", checkup)
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def is_close(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """True where an image that went through JPEG has a colour."""
    return np.abs(image.astype(int) - color).max(axis=2) < 40


def test_the_page_of_a_data_set_shows_tables_findings_sheets_and_plots(tmp_path: Path) -> None:
    write_generated_voc(tmp_path / "demo", train=10, test=4)
    tables = {split: read_dataset(tmp_path / "demo", split)[0] for split in ("trainval", "test")}
    notice = found([Example("an image", "test", 2), Example("a file")], "empty-image", "notice")
    error = found([Example("the first object", "trainval", 0, (0,))], "bad-box", "error")

    page = written(tmp_path, checkup_of(tables, [notice, error]))

    objects = sum(len(table.labels) for table in tables.values())
    classes = len(np.unique(np.concatenate([table.labels for table in tables.values()])))
    for words in ("Checkup of my-data: 1 error, 1 notice", "my-data: VOC", "trainval", "14", str(objects), "ladder",
                  "1 of bad-box", "it matters", "do this", "the first object", "a file", "an image",
                  "Is this what you labelled?", "Where the centres of objects lie"):  # fmt: skip
        assert words in page.words, words
    assert page.words.index("1 of bad-box") < page.words.index("2 of empty-image")  # errors come first
    assert page.tags.count("img") == 2 + classes
    assert page.tags.count("svg") == 4


def test_the_page_needs_nothing_beside_it_and_names_cannot_add_markup(tmp_path: Path) -> None:
    long = "a name without end " * 20
    table = table_of(tmp_path, [[(5, 5, 40, 30), (10, 10, 50, 50)]], (EVIL, long))
    finding = found([Example(EVIL, "train", 0, (0,)), Example(EVIL)])

    page = written(tmp_path, checkup_of({EVIL: table, "train": table}, [finding]))

    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert EVIL not in text
    assert EVIL in page.words
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_the_marked_object_of_an_example_lies_on_its_pixels(tmp_path: Path) -> None:
    table = table_of(tmp_path, [[(10, 20, 40, 50), (50, 5, 70, 55)]], size_hw=(60, 90))

    page = written(tmp_path, checkup_of({"train": table}, [found([Example("one", "train", 0, (0,))])]))

    image = page.images()[0]
    assert image.shape[:2] == (240, 360)  # four times as large
    rows, columns = np.nonzero(is_close(image[100:180], MARKED))  # below the tag
    assert abs(columns.min() - 40) <= 1
    assert abs(columns.max() + 1 - 160) <= 1
    assert rows.max() == 79
    assert np.nonzero(is_close(image, MARKED).any(axis=1))[0].max() + 1 in (199, 200, 201)


def test_an_image_without_marked_objects_is_framed(tmp_path: Path) -> None:
    table = table_of(tmp_path, [[(10, 20, 40, 50)]])

    image = written(tmp_path, checkup_of({"train": table}, [found([Example("one", "train", 0)])])).images()[0]

    marked = is_close(image, MARKED)
    assert marked[0].all()
    assert marked[-1].all()
    assert marked[:, 0].all()
    assert marked[:, -1].all()
    assert not marked[10:-10, 10:-10].any()


def test_drawn_examples_are_spread_over_the_findings() -> None:
    many = [found([Example("", "train", image, (0,)) for image in range(20)], f"finding-{n}") for n in range(5)]

    chosen = choose_examples(many)

    assert len(chosen) == MAX_DRAWN == 16
    assert [sum(key[0] == number for key in chosen) for number in range(5)] == [4, 3, 3, 3, 3]


def test_examples_without_an_image_are_not_chosen() -> None:
    assert choose_examples([found([Example("text"), Example("of a split", "test")])]) == {}


def test_an_image_that_cannot_be_decoded_is_left_out_but_not_its_text(tmp_path: Path) -> None:
    table = table_of(tmp_path, [[(5, 5, 40, 30)], []])
    (tmp_path / "0.png").write_bytes(b"no image")
    examples = [Example("the damaged one", "train", 0, (0,)), Example("the good one", "train", 1)]

    page = written(tmp_path, checkup_of({"train": table}, [found(examples)]))

    assert "the damaged one" in page.words
    assert "the good one" in page.words
    assert "its images can't be read" in page.words
    assert page.tags.count("img") == 1


def test_a_data_set_without_objects_has_a_page(tmp_path: Path) -> None:
    empty = TableBuilder(tmp_path, "train", "voc").build(Categories.from_names(()))

    page = written(tmp_path, checkup_of({"train": empty}))

    for words in ("Checkup of my-data: nothing found", "Nothing was found.", "no class", "There are no objects."):
        assert words in page.words, words
    assert page.words.count("nothing to show") == 4


def test_of_many_classes_the_largest_have_sheets(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(200)]
    table = table_of(tmp_path, [[(5, 5, 40, 30)] * 200, [(5, 5, 40, 30)] * 3], names)

    page = written(tmp_path, checkup_of({"train": table}))

    assert page.tags.count("img") == 40
    assert any("The 40 largest classes are shown; there are 160 more." in words for words in page.words)
    assert page.words.count("2 objects") == 3
    assert page.words.count("class 199") == 1  # in the table


def test_the_sheet_of_a_class_shows_its_crops_with_their_boxes(tmp_path: Path) -> None:
    table = table_of(tmp_path, [[(20, 20, 40, 40)]] * 8, size_hw=(60, 80))

    (sheet,) = written(tmp_path, checkup_of({"train": table})).images()

    assert sheet.shape[:2] == (2 * TILE + 4, 6 * TILE + 5 * 4)
    # A box of 20 pixels with a margin of 4: 94 pixels for 28, so its sides are at 13.4 and 80.6 of the tile's inside.
    yellow = is_close(sheet[:TILE, :TILE], (255, 230, 60))
    rows, columns = np.nonzero(yellow)
    assert (columns.min(), rows.min()) == (13, 13)
    assert (columns.max(), rows.max()) == (82, 82)


def test_crops_come_from_as_many_images_as_possible(tmp_path: Path) -> None:
    box = (5.0, 5.0, 40.0, 30.0)
    table = table_of(tmp_path, [[box] * 100, *[[box]] * 10])
    objects = all_objects(checkup_of({"train": table}))

    rows = choose_crops(objects, 0)

    assert len(rows) == len(set(rows.tolist())) == CROPS
    assert sorted(set(objects.images[rows].tolist())) == list(range(11))
    assert (rows == choose_crops(objects, 0)).all()


def test_plots_count_what_they_show() -> None:
    boxes_xyxy = np.array([[0.0, 0.0, 10.0, 10.0]] * 3 + [[90.0, 90.0, 100.0, 100.0]])
    heat = heat_map(boxes_xyxy, np.full((4, 2), 100.0))
    assert re.findall(r"<title>(.*?)</title>", str(heat)) == ["3 objects", "1 object"]
    assert re.findall(r'opacity="(.*?)"', str(heat)) == ["1.0", "0.4"]

    sizes = size_histogram(np.array([1.0, 7.9, 100.0, 5000.0, np.nan]))
    assert "8 px: 2 objects smaller" in str(sizes)
    assert len(re.findall(r'class="bar"', str(sizes))) == 4

    ratios = ratio_histogram(np.array([[0.0, 0.0, 100.0, 1.0], [0.0, 0.0, 1.0, 100.0], [0.0, 0.0, 0.0, 0.0]]))
    assert len(re.findall(r'class="bar"', str(ratios))) == 3

    images = objects_histogram(np.array([0] * 500 + [1] * 499 + [1000]))
    assert re.findall(r"<title>(.*?)</title>", str(images)) == [
        "500 images with 0 objects",
        "500 images with 1 or more objects",
    ]
