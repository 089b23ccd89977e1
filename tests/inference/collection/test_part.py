"""Reading the images of a part and detecting in them, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nasty_names import FILE_NAMES, NASTY_NAMES
from object_store import object_store
from red_box import CATEGORIES, RedBoxDetector, red_box

from onestage.inference.collection import plan as collection_plan
from onestage.inference.collection import workers as collection_workers
from onestage.inference.collection.plan import Content, Piece, find_pieces, images_of
from onestage.inference.collection.results import RESULT_SCHEMA
from onestage.inference.collection.storage import Storage
from onestage.inference.collection.workers import predict_pieces
from onestage.inference.predictor import Predictor
from onestage.runtime.decode import ImageError
from onestage.structures import Categories
from onestage.texts import as_unicode


def png(box_xyxy: tuple[int, int, int, int]) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(red_box(100, 50, box_xyxy), cv2.COLOR_RGB2BGR))[1].tobytes()


def write_rows(path: Path, rows: int = 100, group: int = 40) -> Path:
    table = pa.table({"bytes": [b"%d" % row for row in range(rows)], "id": list(range(1000, 1000 + rows))})
    pq.write_table(table, path, row_group_size=group)
    return path


def read(pieces: list[Piece], *columns: str, storage: Storage | None = None) -> list[tuple[str, Content]]:
    return list(images_of(pieces, storage or Storage(), columns or ("bytes",)))


def contents(images: list[tuple[str, Content]]) -> list[int]:
    return [int(content) if isinstance(content, bytes) else -1 for _, content in images]


def names(images: list[tuple[str, Content]]) -> list[str]:
    return [name for name, _ in images]


def test_nasty_names_are_text_in_parquet(tmp_path: Path) -> None:
    for name in FILE_NAMES:
        (tmp_path / f"{name}.png").write_bytes(png((10, 10, 40, 40)))
    categories = Categories.from_names([*NASTY_NAMES[:2]])
    predictor = Predictor(RedBoxDetector(), categories, device="cpu", precision="fp32")
    pieces = list(find_pieces([str(tmp_path)], ["bytes"]))
    rows = pa.Table.from_pylist([*predict_pieces(predictor, pieces, Storage(), ["bytes"], 4, 1)], RESULT_SCHEMA)
    assert sorted(rows["source"].to_pylist()) == sorted(f"{tmp_path}/{as_unicode(name)}.png" for name in FILE_NAMES)
    unread = {row["source"]: row["error"] for row in rows.to_pylist() if row["error"] is not None}
    assert list(unread) == [rf"{tmp_path}/caf\xe9.png"]  # which names no file
    found = [row["detections"] for row in rows.to_pylist() if row["error"] is None]
    assert {one["name"] for detections in found for one in detections} == {NASTY_NAMES[1]}


def test_rows_are_read_from_the_middle_of_a_row_group_to_its_end(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.parquet"))
    images = read([Piece(path, row_group=1, row=57, rows=23)])
    assert contents(images) == list(range(57, 80))
    assert names(images) == [f"{path}#{row}" for row in range(57, 80)]


def test_the_pieces_of_a_file_give_every_row_once(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.parquet"))
    pieces = list(find_pieces([path], ["bytes"]))
    assert len(pieces) == 5
    assert contents(read(pieces)) == list(range(100))


def test_a_column_of_names_and_columns_in_structs(tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "a.parquet", rows=3))
    assert names(read([Piece(path, 0, 1, 2)], "bytes", "id")) == ["1001", "1002"]
    column = [{"bytes": b"x", "path": "x.jpg"}, {"bytes": None, "path": None}, None]
    pq.write_table(pa.table({"image": column}), tmp_path / "b.parquet")
    nested = read([Piece(f"{tmp_path}/b.parquet", 0, 0, 3)], "image.bytes", "image.path")
    assert nested[0] == ("x.jpg", b"x")
    assert names(nested[1:]) == [f"{tmp_path}/b.parquet#1", f"{tmp_path}/b.parquet#2"]
    assert [str(error) for _, error in nested[1:]] == [
        f"{tmp_path}/b.parquet#{row}: null, not an image" for row in (1, 2)
    ]


def test_every_row_of_a_damaged_parquet_file_has_its_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet")
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56  # the first page of the first row group
    path.write_bytes(bytes(content))
    images = read([Piece(str(path), 0, 0, 40), Piece(str(path), 1, 40, 40)])
    assert len(images) == 80
    assert all(f"{path}: can't be read (" in str(error) for _, error in images[:40])
    assert contents(images[40:]) == list(range(40, 80))


@pytest.mark.parametrize("change", ["gone", "shorter"])
def test_rows_that_were_listed_and_are_not_there_have_their_error(tmp_path: Path, change: str) -> None:
    path = write_rows(tmp_path / "a.parquet", group=100)
    path.unlink()
    if change == "shorter":
        write_rows(path, rows=10)
    images = read([Piece(str(path), 0, 5, 45), Piece(str(path), 1, 50, 50)])
    assert names(images) == [f"{path}#{row}" for row in range(5, 100)]
    assert contents(images[:5]) == (list(range(5, 10)) if change == "shorter" else [-1] * 5)
    assert all(isinstance(error, ImageError) for _, error in images[5:])


def test_a_read_from_storage_that_failed_goes_on_with_the_row_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "a.parquet")
    whole, pauses, begun = collection_plan._read_rows, [], []

    def failing(file: pq.ParquetFile, group: int, row: int, *rest: Any) -> Iterator[Any]:
        begun.append(row)
        for number, content in enumerate(whole(file, group, row, *rest)):
            if number == 7 and len(begun) <= 3:
                raise OSError("the network is gone")
            yield content

    monkeypatch.setattr(collection_plan, "_read_rows", failing)
    monkeypatch.setattr("onestage.inference.collection.plan.time.sleep", pauses.append)
    with object_store() as store:
        store.objects["street/a.parquet"] = (tmp_path / "a.parquet").read_bytes()
        storage = Storage.of([store.uri("street")])
        images = read([Piece("s3://street/a.parquet", 0, 3, 37)], storage=storage)
    assert contents(images) == list(range(3, 40))
    assert begun == [3, 10, 17, 24]
    assert pauses == [1.0, 1.0, 1.0]  # each failure came after rows


def test_a_column_that_is_gone_by_now_is_an_error_of_every_row(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", rows=2)
    images = read([Piece(str(path), 0, 0, 2)], "image")
    assert names(images) == [f"{path}#0", f"{path}#1"]
    assert all("no column 'image'" in str(error) for _, error in images)


def rows_of(pieces: list[Piece], batch_size: int = 2, storage: Storage | None = None) -> list[dict[str, Any]]:
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    return list(predict_pieces(predictor, pieces, storage or Storage(), ["bytes"], batch_size, cores=2))


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_rows_come_in_order_with_the_errors_among_them(tmp_path: Path, batch_size: int) -> None:
    (tmp_path / "a.png").write_bytes(png((10, 5, 20, 40)))
    pq.write_table(pa.table({"bytes": [None, png((0, 0, 30, 50)), b"<html>"]}), tmp_path / "b.parquet")
    pieces = [Piece(f"{tmp_path}/a.png"), Piece(f"{tmp_path}/none.png"), Piece(f"{tmp_path}/b.parquet", 0, 0, 3)]
    rows = rows_of(pieces, batch_size)
    sources = [f"{tmp_path}/{name}" for name in ("a.png", "none.png", "b.parquet#0", "b.parquet#1", "b.parquet#2")]
    assert [row["source"] for row in rows] == sources
    assert [(row["width"], row["height"]) for row in rows] == [
        (100, 50),
        (None, None),
        (None, None),
        (100, 50),
        (None, None),
    ]
    boxes = [[found["box_xyxy"] for found in row["detections"]] for row in rows if row["error"] is None]
    assert boxes == [[[10.0, 5.0, 20.0, 40.0]], [[0.0, 0.0, 30.0, 50.0]]]
    errors = [row["error"] for row in rows if row["detections"] is None]
    assert errors[0] == f"{tmp_path}/none.png: no such image"
    assert errors[1] == f"{tmp_path}/b.parquet#0: null, not an image"
    assert errors[2].startswith("image: not a JPEG, PNG, WebP")
    assert pa.Table.from_pylist(rows, RESULT_SCHEMA).to_pylist() == rows


def test_images_in_storage_that_are_not_there_are_named() -> None:
    with object_store() as store:
        store.objects["street/a.png"] = png((0, 0, 30, 50))
        storage = Storage.of([store.uri("street")])
        found, lost = rows_of([Piece("s3://street/a.png"), Piece("s3://street/none.png")], storage=storage)
    assert found["detections"][0]["box_xyxy"] == [0.0, 0.0, 30.0, 50.0]
    assert lost["error"] == "s3://street/none.png: no such image"


def test_an_error_of_several_lines_becomes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(source: str) -> Any:
        raise ImageError("b.jpg: cut\noff")

    monkeypatch.setattr(collection_workers, "read_image", cut_off)
    (row,) = rows_of([Piece("/b.jpg")])
    assert row["error"] == "b.jpg: cut off"


def test_a_part_without_images_has_no_rows_and_only_some_images_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows_of([]) == []
    (tmp_path / "a.png").write_bytes(png((0, 0, 9, 9)))
    read_so_far, decode = [], collection_workers.read_image

    def counted(source: str) -> Any:
        read_so_far.append(1)
        return decode(source)

    monkeypatch.setattr(collection_workers, "read_image", counted)
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")
    rows = predict_pieces(predictor, [Piece(f"{tmp_path}/a.png")] * 200, Storage(), ["bytes"], batch_size=4, cores=2)
    for _ in range(4):
        next(rows)
    assert len(read_so_far) <= 4 + (4 + 2) + 1  # a batch, a waiting line of 6, one under way
    rows.close()  # pyright: ignore[reportAttributeAccessIssue]
