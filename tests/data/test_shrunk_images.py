"""Images that are shrunk once, kept in a file, and read from there. Expected values: by hand, and OpenCV's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from red_box import red_box

import onestage
import onestage.data.table as table_module
from onestage.data.generated import write_generated_voc
from onestage.data.shrunk_images import MARK
from onestage.data.table import Table, TableBuilder
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Stretch
from onestage.recipes.default import default_recipe
from onestage.recipes.shrinking import shrinking_for
from onestage.runtime.decode import decode_image
from onestage.structures import Categories
from onestage.training.recipe import Recipe

BOXES = ((100, 40, 300, 120), (10, 200, 90, 260), (20, 8, 60, 24))
SIZES = ((300, 400), (300, 400), (30, 80))  # (H, W); the last is small as it is
ROOM = 10**6


@pytest.fixture
def whole(tmp_path: Path) -> Table:
    """Black images with a red rectangle each."""
    builder = TableBuilder(tmp_path / "data", "train", "voc")
    builder.root.mkdir()
    for index, ((height, width), box) in enumerate(zip(SIZES, BOXES, strict=True)):
        cv2.imwrite(str(builder.root / f"{index}.png"), red_box(width, height, box)[..., ::-1])
        builder.add(
            path=f"{index}.png",
            image_id=str(index),
            size_hw=(height, width),
            boxes_xyxy=np.array([box], dtype=np.float32),
            labels=[0],
            ignored=[False],
        )
    return builder.build(Categories.from_names(["red"]))


def shrunk(whole: Table, folder: Path, room: int = ROOM) -> Table:
    return whole.with_smaller_images(60, folder / "run/decoded/shrunk", room)


def noted_decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Images that are decoded in their full size from now on, by path."""
    decoded: list[Path] = []

    def decode(path: Path, *, min_side: int | None = None, **options: Any) -> np.ndarray:
        if min_side is None:
            decoded.append(path)
        return decode_image(path, min_side=min_side, **options)

    monkeypatch.setattr(table_module, "decode_image", decode)
    return decoded


def test_larger_images_get_the_asked_shorter_side_and_boxes_go_with_their_pixels(whole: Table, tmp_path: Path) -> None:
    smaller = shrunk(whole, tmp_path)  # the first two to a fifth
    assert smaller.image_sizes_hw.tolist() == [[60, 80], [60, 80], [30, 80]]
    assert smaller.boxes_xyxy.tolist() == [
        [20, 8, 60, 24],
        [2, 40, 18, 52],
        [20, 8, 60, 24],
    ]
    assert smaller.areas.tolist() == pytest.approx([40 * 16, 16 * 12, 40 * 16])
    for _ in range(2):  # made, then from the file
        for index, box in enumerate([(20, 8, 60, 24), (2, 40, 18, 52), (20, 8, 60, 24)]):
            height, width = smaller.image_sizes_hw[index].tolist()
            assert np.array_equal(smaller.pixels(index), red_box(width, height, box))


def test_an_image_is_decoded_once_and_shrinks_to_the_mean_of_its_pixels(
    whole: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    cv2.imwrite(str(whole.image_path(0)), noise[..., ::-1])
    decoded, smaller = noted_decodings(monkeypatch), shrunk(whole, tmp_path)
    means = noise.reshape(60, 5, 80, 5, 3).mean(axis=(1, 3))
    for _ in range(3):
        assert np.abs(smaller.pixels(0) - means).max() <= 0.5
    assert decoded == [whole.image_path(0)]
    for _ in range(2):
        smaller.pixels(2)
    assert decoded[1:] == [whole.image_path(2)] * 2  # small images are not kept


def test_what_the_room_does_not_hold_is_made_each_time(
    whole: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 1 + 3 * 60 * 80  # bytes of an image with its mark
    decoded, smaller = noted_decodings(monkeypatch), shrunk(whole, tmp_path, room=2 * one - 1)
    for index in (1, 0, 1, 0):
        x0, y0, x1, y1 = (side // 5 for side in BOXES[index])
        assert np.array_equal(smaller.pixels(index), red_box(80, 60, (x0, y0, x1, y1)))
    assert [path.name for path in decoded] == ["1.png", "0.png", "1.png"]
    assert (tmp_path / "run/decoded/shrunk").stat().st_size == one


def test_an_image_without_its_mark_is_made_again(whole: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = shrunk(whole, tmp_path)
    expected = smaller.pixels(1)
    with (tmp_path / "run/decoded/shrunk").open("r+b") as file:  # as a process leaves it that is killed on the way
        start = 1 + 3 * 60 * 80
        file.seek(start)
        assert file.read(1) == MARK
        file.seek(start)
        file.write(b"\0" + bytes(100))
    decoded = noted_decodings(monkeypatch)
    assert np.array_equal(smaller.pixels(1), expected)
    assert decoded == [whole.image_path(1)]
    assert np.array_equal(smaller.pixels(1), expected)
    assert len(decoded) == 1


def test_a_disk_that_is_full_stops_nothing(whole: Table, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    assert shrunk(whole, tmp_path).pixels(0).shape == (60, 80, 3)


def test_some_rows_of_the_table_keep_their_places(
    whole: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = shrunk(whole, tmp_path)
    second = smaller.pixels(1)
    decoded = noted_decodings(monkeypatch)
    assert np.array_equal(smaller.subset(indices=[1, 2]).pixels(0), second)
    assert not decoded


def test_an_image_of_another_size_than_its_annotation_is_refused_as_ever(whole: Table, tmp_path: Path) -> None:
    cv2.imwrite(str(whole.image_path(0)), np.zeros((400, 300, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"0\.png: the image is 300x400, its annotation says 400x300; correct it"):
        shrunk(whole, tmp_path).pixels(0)


def of_size(height: int, width: int) -> Table:
    builder = TableBuilder(Path("nowhere"), "train", "voc")
    box = np.array([[0, 0, width / 2, height / 2]], dtype=np.float32)
    for index in range(20):
        name = str(index)
        builder.add(path=name, image_id=name, size_hw=(height, width), boxes_xyxy=box, labels=[0], ignored=[False])
    return builder.build(Categories.from_names(["thing"]))


@pytest.mark.parametrize(
    ("size_hw", "resize", "side"),
    [
        ((3000, 4000), Stretch(320), 640),  # an input's pixels in a crop of half the side
        ((1080, 1920), Stretch(320), 640),
        ((3000, 4000), KeepRatio(800, 1333), 1600),
        ((960, 1280), Stretch(320), None),  # 1.2 megapixels
        ((700, 9000), Stretch(320), None),  # hardly smaller
        ((1080, 1920), KeepRatio(800, 1333), None),
    ],
)
def test_images_are_shrunk_where_decoding_them_takes_long(
    size_hw: tuple[int, int], resize: Stretch | KeepRatio, side: int | None
) -> None:
    chosen, reasons = shrinking_for(of_size(*size_hw), resize)
    assert (chosen, len(reasons)) == (side, int(side is not None))


def test_the_made_recipe_shrinks_large_images_and_says_so_unless_asked_otherwise() -> None:
    table = of_size(3000, 4000)
    recipe, reasons = default_recipe("ssd300-test_efficientnet", table, pretrained=True)
    assert recipe.shrink_images == 600
    assert [reason for reason in reasons if "shrunk" in reason] == [
        "images of 12.0 megapixels are shrunk once, to a shorter side of 600 px, and kept while they train: 0.029 GB "
        "(--cache-tiles is the most)"
    ]
    for asked in ({"shrink_images": "none"}, {"shrink_images": 900}):
        recipe, reasons = default_recipe("ssd300-test_efficientnet", table, pretrained=True, settings=asked)
        assert recipe.shrink_images is None  # the caller has what was asked for
        assert not any("shrunk" in reason for reason in reasons)
    recipe, _ = default_recipe("ssd300-test_efficientnet", table, pretrained=True, tile=800)
    assert (recipe.tile, recipe.shrink_images) == (800, None)


def test_tiles_and_shrunk_images_exclude_each_other() -> None:
    with pytest.raises(UserError, match="tile is 400 and shrink_images 600; tiles are cut from whole images"):
        Recipe(tile=400, shrink_images=600)


def test_a_run_learns_from_shrunk_images_and_removes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_generated_voc(tmp_path / "data", seed=1, train=6, test=2, size=200)
    decoded = noted_decodings(monkeypatch)
    names = (tmp_path / "data/ImageSets/Main/trainval.txt").read_text().split()
    result = onestage.train(
        str(tmp_path / "data"),
        detector="ssd300-test_efficientnet",
        backbone_weights="none",
        steps=4,
        out=tmp_path / "run",
        train_split="trainval",
        settings={"batch_size": 3, "workers": 0, "evaluations": 1, "keep": "last", "shrink_images": 100},
    )
    decodings = Counter(path.stem for path in decoded)
    assert {name: decodings[name] for name in names} == dict.fromkeys(names, 1)  # in two epochs
    assert not (result.folder / "decoded").exists()
