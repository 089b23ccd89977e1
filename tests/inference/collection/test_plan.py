"""Finding the images that a user names, piece by piece, and dividing the pieces into parts."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_store import object_store

from onestage.errors import UserError
from onestage.inference.collection import plan as collection_plan
from onestage.inference.collection.plan import Part, Piece, find_pieces, open_parquet, parts_of, pieces_of, write_plan
from onestage.inference.collection.storage import Storage


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def write_parquet(path: Path, rows: int, group: int = 1000, **columns: list) -> Path:
    table = pa.table({"bytes": [b"%d" % row for row in range(rows)], **columns})
    pq.write_table(table, path, row_group_size=group)
    return path


def found(*words: object, columns: tuple[str, ...] = ("bytes",)) -> list[Piece]:
    return list(find_pieces([str(word) for word in words], columns))


def plan_of(pieces: list[Piece]) -> pq.ParquetFile:
    file = io.BytesIO()
    assert write_plan(pieces, pa.PythonFile(file), lambda images: None) == sum(piece.rows for piece in pieces)
    return pq.ParquetFile(pa.BufferReader(file.getvalue()))


def test_a_folder_gives_its_images_and_those_below_but_nothing_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a.jpg", "deep/er/c.webp", ".hidden.jpg", ".git/d.jpg", "notes.txt", "film.mp4")
    assert found(tmp_path) == [Piece(str(tmp_path / name)) for name in ("a.jpg", "b.PNG", "deep/er/c.webp")]


def test_a_folder_that_is_named_twice_is_found_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    assert len(found(tmp_path, tmp_path)) == 1


def test_globs_lists_files_and_web_addresses(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jpg", "x/b.jpg", "x/y/c.png", "noname")
    (tmp_path / "list.txt").write_text(f"# all\n\n{tmp_path}/x/b.jpg\n{tmp_path}/x/y\nhttps://host/d.jpg?size=3\n")
    sources = {piece.source for piece in found(f"{tmp_path}/x/*.jpg")}
    assert sources == {f"{tmp_path}/x/a.jpg", f"{tmp_path}/x/b.jpg"}
    assert [piece.source for piece in found(f"@{tmp_path}/list.txt")] == [
        f"{tmp_path}/x/b.jpg",
        f"{tmp_path}/x/y/c.png",
        "https://host/d.jpg?size=3",
    ]
    assert found(tmp_path / "noname") == [Piece(str(tmp_path / "noname"))]
    assert sorted(piece.source for piece in found(f"{tmp_path}/x*")) == sorted(
        f"{tmp_path}/x/{name}" for name in ("a.jpg", "b.jpg", "y/c.png")
    )


def test_a_folder_in_object_storage_is_walked_like_one_on_a_disk() -> None:
    with object_store() as store:
        names = ("2026/a.jpg", "2026/deep er/b?.png", "2026/.hidden.jpg", "2026/notes.txt", "2027/c.jpg")
        store.objects.update({f"street/{name}": b"" for name in names})
        sources = [piece.source for piece in found(store.uri("street/2026"))]
        assert sources == ["s3://street/2026/a.jpg", "s3://street/2026/deep er/b?.png"]
        assert found(store.uri("street/2027/c.jpg")) == [Piece("s3://street/2027/c.jpg")]
        assert len(found(store.uri("street"))) == 3


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("film.mp4", "film.mp4: a video; predict it without --engine ray"),
        ("camera:0", "camera:0: not a collection; predict it without --engine ray"),
        ("-", "-: not a collection; predict it without --engine ray"),
        ("rtsp://host/live", "rtsp://host/live: not a collection"),
        ("nowhere", "nowhere: no such file or folder; name images, Parquet files, a folder or a glob"),
        ("empty", "empty: no image and no Parquet file in it; name another"),
        ("empty/*.jpg", r"empty/\*.jpg: no image and no Parquet file in it"),
        ("@none.txt", "@none.txt: the list can't be read"),
        ("@nested.txt", "@nested.txt: @other.txt in a list; give it by itself"),
    ],
)
def test_words_that_name_no_images_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested.txt").write_text("@other.txt\n")
    with pytest.raises(UserError, match=f"^{message}"):
        found(word)


def test_a_name_that_is_not_utf8_is_still_a_row(tmp_path: Path) -> None:
    (Path(bytes(tmp_path).decode()) / b"\xff.jpg".decode("utf-8", "surrogateescape")).write_bytes(b"")
    assert found(tmp_path) == [Piece(f"{tmp_path}/\\xff.jpg")]


def test_a_row_group_is_cut_into_pieces_that_many_workers_can_share(tmp_path: Path) -> None:
    path = str(write_parquet(tmp_path / "a.parquet", rows=1040, group=1000))
    pieces = found(path)
    assert pieces[:2] == [Piece(path, 0, 0, 63), Piece(path, 0, 63, 63)]
    assert pieces[15:] == [Piece(path, 0, 945, 55), Piece(path, 1, 1000, 32), Piece(path, 1, 1032, 8)]


def test_parquet_files_of_a_folder_without_rows_give_no_pieces(tmp_path: Path) -> None:
    pq.write_table(pa.table({"bytes": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("image",), r"no column 'image'; expected binary.*; the file has .*parts\.x \(double\); name one by --column"),
        (("bytes", "id"), r"no column 'id'; expected strings or whole numbers.*; name one by --source-column"),
        (("name",), "column 'name' is string; expected binary, the bytes of image files"),
        (("bytes", "parts.x"), r"column 'parts\.x' is double; expected strings or whole numbers"),
        (("bytes", "bytes"), "column 'bytes' is binary; expected strings or whole numbers"),
    ],
)
def test_parquet_files_without_the_columns_are_named(tmp_path: Path, columns: tuple[str, ...], message: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", 1, name=["x"], parts=[{"x": 0.5}])
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        found(path, columns=columns)


def test_a_file_that_only_claims_to_be_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"<html>" * 10)
    with pytest.raises(UserError, match=r"a\.parquet: no Parquet file, or a damaged one"):
        found(tmp_path / "a.parquet")
    with pytest.raises(OSError, match="none"):
        open_parquet(str(tmp_path / "none.parquet"), Storage(), ["bytes"])


def test_parts_are_of_the_asked_size_where_pieces_are_images() -> None:
    pieces = [Piece(f"{i}.jpg") for i in range(7)]
    plan = plan_of(pieces)
    assert parts_of(plan, 3) == [Part(0, 0, 3, 3), Part(1, 3, 3, 3), Part(2, 6, 1, 1)]
    assert pieces_of(plan, Part(1, 3, 3, 3)) == pieces[3:6]
    assert parts_of(plan_of([]), 3) == []


def test_neighbouring_rows_of_a_row_group_are_read_in_one_go() -> None:
    pieces = [Piece("a", 0, 0, 40), Piece("a", 0, 40, 40), Piece("a", 1, 80, 40), Piece("b", 1, 0, 40), Piece("c.jpg")]
    plan = plan_of(pieces)
    assert pieces_of(plan, Part(0, 0, 5, 161)) == [Piece("a", 0, 0, 80), *pieces[2:]]
    assert parts_of(plan, 50) == [Part(0, 0, 2, 80), Part(1, 2, 1, 40), Part(2, 3, 1, 40), Part(3, 4, 1, 1)]


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100), st.integers(1, 7))
def test_parts_hold_every_piece_once_however_the_plan_is_stored(rows: list[int], size: int, together: int) -> None:
    pieces = [Piece(f"{i}", i, 0, count) for i, count in enumerate(rows)]
    before = collection_plan.PIECES_TOGETHER
    collection_plan.PIECES_TOGETHER = together
    try:
        plan = plan_of(pieces)
        parts = parts_of(plan, size)
        assert [piece for part in parts for piece in pieces_of(plan, part)] == pieces
    finally:
        collection_plan.PIECES_TOGETHER = before
    numbers = [part.number for part in parts]
    assert numbers == sorted(set(numbers))
    assert [part.images for part in parts] == [
        sum(rows[part.first_piece : part.first_piece + part.pieces]) for part in parts
    ]
    assert all(part.images < size + max(rows) for part in parts)
