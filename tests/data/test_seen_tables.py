"""The table of a folder is remembered as long as none of its files changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from folders import write_image
from labelling_tools import put

from onestage.data import read_dataset, rows, seen_tables
from onestage.data.table import Table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A YOLO set of two images; every folder is large enough to be remembered."""
    monkeypatch.setattr(seen_tables, "MIN_FILES", 1)
    monkeypatch.setenv("ONESTAGE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for stem in ("a", "b"):
        write_image(root / f"{stem}.jpg", (100, 100))
    put(root, "a.txt", "0 0.5 0.5 0.2 0.4\n0 1.4 1.4 0.1 0.1\n")
    put(root, "classes.txt", "kät\ndog\n")
    return root


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for each time that an image's objects are looked at."""
    found: list[int] = []
    into = rows.ImageObjects.into

    def counted(self: Any, builder: Any) -> None:
        found.append(1)
        into(self, builder)

    monkeypatch.setattr(rows.ImageObjects, "into", counted)
    return found


def all_columns(table: Table) -> dict[str, object]:
    found = {name: getattr(table, name) for name in ("root", "split", "kind", "categories", "bits", "max_pixels")}
    return found | {name: getattr(table, name).tolist() for name in seen_tables.COLUMNS}


def test_the_second_reading_is_the_first_one_again(folder: Path, readings: list[int]) -> None:
    table, problems = read_dataset(folder, "all")
    again, problems_again = read_dataset(folder, "all")
    assert len(readings) == len(table) == 2
    assert again.boxes_xyxy.tolist() == [[40, 30, 60, 70]]
    assert all_columns(again) == all_columns(table)
    assert problems_again == problems
    assert {problem.kind for problem in problems} == {"box-outside", "background"}


@pytest.mark.parametrize("change", ["label", "new label", "image", "classes", "cache", "readers"])
def test_what_has_changed_is_read_again(
    change: str, folder: Path, tmp_path: Path, readings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_dataset(folder, "all")
    if change == "label":
        status = os.stat(folder / "a.txt")
        (folder / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n0 1.4 1.4 0.1 0.1\n")  # of the same size
        os.utime(folder / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "new label":
        put(folder, "b.txt", "0 0.5 0.5 0.2 0.4\n")
    elif change == "image":
        write_image(folder / "a.jpg", (200, 100))
    elif change == "classes":
        put(folder, "classes.txt", "cat\ndog\n")
    elif change == "cache":
        (file,) = (tmp_path / "cache/tables").iterdir()
        file.write_bytes(file.read_bytes()[:-100])
    else:
        monkeypatch.setattr(seen_tables, "_version_of_readers", lambda: "another")
    table, _ = read_dataset(folder, "all")
    assert len(readings) == 4
    assert table.image_sizes_hw[0].tolist() == [200 if change == "image" else 100, 100]
    assert table.categories.names[0] == ("cat" if change == "classes" else "kät")
    assert len(table.labels) == (2 if change == "new label" else 1)
    assert table.labels[0] == (1 if change == "label" else 0)


def test_another_question_of_the_same_files_has_its_own_answer(folder: Path, readings: list[int]) -> None:
    named = read_dataset(folder, "all")[0].categories
    other = type(named).from_names(("dog", "kät"))
    assert read_dataset(folder, "all", other)[0].labels.tolist() == [1]
    assert read_dataset(folder, "all")[0].labels.tolist() == [0]
    assert len(readings) == 4
