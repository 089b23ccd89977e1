"""The images of a part and what comes of them, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import object_store
from red_box import CATEGORIES, RedBoxDetector, red_box

from onestage.errors import UserError
from onestage.inference.collection import part as collection_part
from onestage.inference.collection.part import Outcome, StoredImage, images_of, predict_images, readers_for
from onestage.inference.collection.plan import Columns, Piece, find_pieces
from onestage.inference.collection.storage import Storage
from onestage.inference.predictor import Predictor
from onestage.runtime.decode import ImageError
from onestage.structures import Detections


def png(box_xyxy: tuple[int, int, int, int]) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(red_box(100, 50, box_xyxy), cv2.COLOR_RGB2BGR))[1].tobytes()


def write_rows(path: Path, rows: int = 100, group: int = 40) -> Path:
    table = pa.table({"bytes": [b"%d" % row for row in range(rows)], "id": list(range(1000, 1000 + rows))})
    pq.write_table(table, path, row_group_size=group)
    return path


def read(pieces: list[Piece], columns: Columns | None = None) -> list[StoredImage]:
    return list(images_of(pieces, Storage(), columns or Columns()))


def contents(images: list[StoredImage]) -> list[int]:
    return [int(image.content or b"-1") for image in images]


def test_rows_are_read_from_the_middle_of_a_row_group_to_its_end(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.parquet"))
    images = read([Piece(path, 1, 17, 23)])
    assert contents(images) == list(range(57, 80))
    assert [image.source for image in images] == [f"{path}#{row}" for row in range(57, 80)]


def test_the_pieces_of_a_file_give_every_row_once(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.parquet"))
    pieces = list(find_pieces([path], Columns()))
    assert len(pieces) == 5
    assert contents(read(pieces)) == list(range(100))


def test_a_column_of_names_and_columns_in_structs(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.parquet", rows=3))
    assert [image.source for image in read([Piece(path, 0, 1, 2)], Columns("bytes", "id"))] == ["1001", "1002"]
    column = [{"bytes": b"x", "path": "x.jpg"}, {"bytes": None, "path": None}, None]
    pq.write_table(pa.table({"image": column}), tmp_path / "b.parquet")
    nested = read([Piece(f"{tmp_path}/b.parquet", 0, 0, 3)], Columns("image.bytes", "image.path"))
    assert nested[0] == StoredImage("x.jpg", b"x")
    assert [image.source for image in nested[1:]] == [f"{tmp_path}/b.parquet#1", f"{tmp_path}/b.parquet#2"]
    assert [str(image.error) for image in nested[1:]] == [
        f"{tmp_path}/b.parquet#{row}: null, not an image" for row in (1, 2)
    ]


def test_every_row_of_a_damaged_parquet_file_has_its_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56  # the first page of the first row group
    path.write_bytes(bytes(content))
    images = read([Piece(str(path), 0, 0, 40), Piece(str(path), 1, 0, 40)])
    assert len(images) == 80
    assert all(f"{path}: can't be read (" in str(image.error) for image in images[:40])
    assert contents(images[40:]) == list(range(40, 80))


@pytest.mark.parametrize("change", ["gone", "shorter"])
def test_rows_that_were_listed_and_are_not_there_have_their_error(tmp_path: Path, change: str) -> None:
    path = write_rows(tmp_path / "a.parquet", group=100)
    path.unlink()
    if change == "shorter":
        write_rows(path, rows=10)
    images = read([Piece(str(path), 0, 5, 95)])
    assert len(images) == 95
    assert contents(images[:5]) == (list(range(5, 10)) if change == "shorter" else [-1] * 5)
    assert {image.error is not None for image in images[5:]} == {True}


def test_a_read_from_storage_that_failed_goes_on_with_the_row_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "a.parquet")
    whole, pauses, begun = collection_part._stream, [], []

    def failing(*arguments: Any) -> Iterator[Any]:
        begun.append(arguments[2])  # the row to begin with
        for number, row in enumerate(whole(*arguments)):
            if number == 7 and len(begun) <= 3:
                raise OSError("the network is gone")
            yield row

    monkeypatch.setattr(collection_part, "_stream", failing)
    monkeypatch.setattr("onestage.inference.collection.part.time.sleep", pauses.append)
    with object_store() as store:
        store.objects["street/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
        storage = Storage.of([store.uri("street")])
        images = list(images_of([Piece("s3://street/a.parquet", 0, 3, 37)], storage, Columns()))
    assert contents(images) == list(range(3, 40))
    assert begun == [3, 10, 17, 24]
    assert pauses == [1.0, 1.0, 1.0]  # each failure came after rows


def outcomes(images: list[StoredImage], batch_size: int = 2) -> list[Outcome]:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    return list(predict_images(predictor, iter(images), Storage(), batch_size=batch_size, readers=2))


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_outcomes_come_in_order_with_the_errors_among_them(tmp_path: Path, batch_size: int) -> None:
    (tmp_path / "a.png").write_bytes(png((10, 5, 20, 40)))
    broken = ImageError("b: null, not an image")
    images = [
        StoredImage(str(tmp_path / "a.png")),
        StoredImage("b", error=broken),
        StoredImage("c", png((0, 0, 30, 50))),
        StoredImage(str(tmp_path / "none.png")),
        StoredImage("e", b"<html>"),
    ]
    found = outcomes(images, batch_size)
    assert [outcome.source for outcome in found] == [image.source for image in images]
    assert [outcome.size_hw for outcome in found] == [(50, 100), None, (50, 100), None, None]
    boxes = [outcome.found.boxes_xyxy.tolist() for outcome in found if isinstance(outcome.found, Detections)]
    assert boxes == [[[10.0, 5.0, 20.0, 40.0]], [[0.0, 0.0, 30.0, 50.0]]]
    errors = [str(outcome.found) for outcome in found if isinstance(outcome.found, ImageError)]
    assert errors[0] == "b: null, not an image"
    assert errors[1] == f"{tmp_path}/none.png: no such image"
    assert errors[2].startswith("image: not a JPEG, PNG, WebP")


def test_no_images_give_no_outcomes_and_only_some_are_read_ahead() -> None:
    assert outcomes([]) == []
    read_so_far = []

    def endless() -> Iterator[StoredImage]:
        while True:
            read_so_far.append(1)
            yield StoredImage("a", png((0, 0, 9, 9)))

    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    line = predict_images(predictor, endless(), Storage(), batch_size=4, readers=2)
    for _ in range(4):
        next(line)
    assert len(read_so_far) <= 4 + 2 * (4 + 2) + 2  # a batch, two waiting lines of 6, one under way in each
    line.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_storage_is_read_by_more_threads_than_disks() -> None:
    assert readers_for([Piece("/a.jpg"), Piece("s3://street/a.parquet", 0, 0, 9)], threads=1) == 2
    assert readers_for([Piece("/a.jpg")], threads=8) == 8
    assert readers_for([Piece("/a.jpg"), Piece("s3://street/a.jpg")], threads=8) == 16


def test_a_column_that_is_gone_by_now_is_an_error_of_every_row(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", rows=2)
    (lost, _) = read([Piece(str(path), 0, 0, 2)], Columns("image"))
    assert isinstance(lost.error, UserError)
    assert "no column 'image'" in str(lost.error)
