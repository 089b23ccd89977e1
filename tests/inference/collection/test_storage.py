"""Files by path or address, as a cluster's workers open them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from object_store import object_store

from onestage.errors import UserError
from onestage.inference.collection.storage import Storage, named
from onestage.runtime.decode import ImageError


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the pauses, which are passed over."""
    waited: list[float] = []
    monkeypatch.setattr("onestage.inference.collection.storage.time.sleep", waited.append)
    return waited


@pytest.mark.parametrize(
    ("word", "name", "roots"),
    [
        ("/data/street", "/data/street", {}),
        ("file:///data/a%20b.jpg", "/data/a b.jpg", {}),
        ("s3://street/2026/", "s3://street/2026", {}),
        ("https://host/a.jpg?size=2", "https://host/a.jpg?size=2", {}),
        ("s3://street/a?region=x", "s3://street/a", {"s3://street": "s3://street?region=x"}),
        ("s3://KEY:SECRET@street/a", "s3://street/a", {"s3://street": "s3://KEY:SECRET@street"}),
        ("gs://anonymous@street/a", "gs://anonymous@street/a", {}),
    ],
)
def test_what_a_user_types_becomes_a_name_without_credentials(word: str, name: str, roots: dict[str, str]) -> None:
    assert named(word) == (name, roots)


def test_a_relative_path_means_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named("street/../a.jpg") == (str(tmp_path / "a.jpg"), {})


def test_a_file_in_storage_is_read_whole_and_one_that_is_not_there_is_named() -> None:
    with object_store() as store:
        store.objects["street/a b?.jpg"] = b"whole file"
        storage = Storage.of([store.uri("street")])
        assert storage.read("s3://street/a b?.jpg") == b"whole file"
        with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
            storage.read("s3://street/none.jpg")
        with pytest.raises(ImageError, match=r"^s3://street/a b\?\.jpg: 10 bytes, more than the 4 allowed"):
            storage.read("s3://street/a b?.jpg", max_bytes=4)


def test_storage_that_fails_is_asked_again_at_growing_intervals(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [OSError("slow down"), OSError("slow down"), pa.BufferReader(b"content")]

    def answer(self: Storage, name: str) -> pa.NativeFile:
        following = answers.pop(0)
        if isinstance(following, OSError):
            raise following
        return following

    monkeypatch.setattr(Storage, "open", answer)
    assert Storage().read("s3://street/a.jpg") == b"content"
    assert pauses == [1.0, 2.0]
    answers[:] = [OSError("down for long")] * 5
    with pytest.raises(OSError, match="down for long"):
        Storage().read("s3://street/a.jpg")
    assert pauses == [1.0, 2.0, 1.0, 2.0, 4.0, 8.0]
    assert answers == []


def test_what_is_written_to_storage_is_there() -> None:
    with object_store() as store:
        storage = Storage.of([store.uri("street")])
        storage.write("s3://street/found/a.json", b"{}")
        assert store.objects == {"street/found/a.json": b"{}"}


def test_an_address_that_nothing_opens_is_named_without_its_password() -> None:
    with pytest.raises(UserError, match=r"^ftp://host: .+; give a path, or an address as s3://bucket/folder") as raised:
        Storage.of(["ftp://me:secret@host/a"]).locate("ftp://host/a")
    assert "secret" not in str(raised.value)
