"""Files by path or address, as a cluster's workers open them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from object_store import object_store

from onestage.errors import UserError
from onestage.inference.collection import storage as storage_module
from onestage.inference.collection.storage import Storage, named
from onestage.runtime.decode import ImageError


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited; nobody waits."""
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
def test_what_a_person_types_becomes_a_name_that_may_be_shown(word: str, name: str, roots: dict[str, str]) -> None:
    assert named(word) == (name, roots)


def test_a_relative_path_means_the_same_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named("street/../a.jpg") == (str(tmp_path / "a.jpg"), {})


def test_a_image_in_storage_is_fetched_and_one_on_a_disk_is_left_there(tmp_path: Path) -> None:
    with object_store() as store:
        store.objects["street/a b?.jpg"] = b"whole file"
        storage = Storage.of([store.uri("street")])
        assert storage.image("s3://street/a b?.jpg") == b"whole file"
    assert Storage().image(str(tmp_path / "a.jpg")) == tmp_path / "a.jpg"


def test_images_that_are_not_there_or_too_large_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "MAX_FILE_BYTES", 4)
    with object_store() as store:
        store.objects["street/large.jpg"] = b"12345"
        storage = Storage.of([store.uri("street")])
        with pytest.raises(ImageError, match=r"^s3://street/none\.jpg: no such image$"):
            storage.image("s3://street/none.jpg")
        with pytest.raises(ImageError, match=r"^s3://street/large\.jpg: 5 bytes, more than the 4 allowed"):
            storage.image("s3://street/large.jpg")


def test_storage_that_fails_is_asked_again_at_growing_intervals(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [OSError("slow down"), OSError("slow down"), b"content"]

    def read(self: Storage, name: str, max_bytes: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(Storage, "_read", read)
    assert Storage().image("s3://street/a.jpg") == b"content"
    assert pauses == [1.0, 2.0]
    answers[:] = [OSError("down\nfor long")] * 5
    with pytest.raises(ImageError, match=r"^s3://street/a\.jpg: can't be read \(down\)$"):
        Storage().image("s3://street/a.jpg")
    assert pauses == [1.0, 2.0, 1.0, 2.0, 4.0, 8.0]
    assert answers == []


def test_what_is_written_to_storage_is_there() -> None:
    with object_store() as store:
        storage = Storage.of([store.uri("street")])
        storage.write("s3://street/found/a.json", b"{}")
        assert store.objects == {"street/found/a.json": b"{}"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "a.json"
    Storage().write(str(path), b"old")
    assert path.read_bytes() == b"old"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Storage().write(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_an_address_that_nothing_opens_is_named_without_its_password() -> None:
    with pytest.raises(UserError, match=r"^ftp://host: .+; give a path, or an address as s3://bucket/folder"):
        Storage.of(["ftp://me:secret@host/a"]).locate("ftp://host/a")
