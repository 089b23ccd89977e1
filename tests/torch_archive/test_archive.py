"""Archives of torch.export, read without trusting them (case `evil-torch-program`)."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch_programs import small_parts, write

from onestage.errors import UserError
from onestage.torch_archive.archive import (
    ALWAYS,
    FOLDER,
    HEADER,
    MAX_PARTS,
    PROGRAM,
    pack_archive,
    parts_digest,
    read_archive,
)


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, names: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return path


def test_what_is_packed_is_read_back(tmp_path: Path) -> None:
    parts = read_archive(write(tmp_path / "m.pt2", small_parts()))
    assert {name: content for name, content in parts.items() if name != HEADER} == small_parts()


def test_the_same_parts_give_the_same_file_and_one_digest(tmp_path: Path) -> None:
    first, second = (pack_archive(small_parts()) for _ in range(2))
    assert first == second
    other = {**small_parts(), PROGRAM: b"{}"}
    assert parts_digest(small_parts()) != parts_digest(other)
    assert parts_digest({**other, HEADER: b"any"}) == parts_digest(other)
    assert parts_digest({"a": b"b", "c": b""}) != parts_digest({"a": b"", "b": b"c"})


def test_torch_writes_what_is_said_to_be_always_the_same() -> None:
    program = torch.export.export(nn.ReLU(), (torch.zeros(2),))
    program.example_inputs = None
    content = io.BytesIO()
    torch.export.save(program, content)
    with zipfile.ZipFile(content) as archive:
        written = {name: archive.read(name) for name in archive.namelist()}
    for part, value in ALWAYS.items():
        assert written[FOLDER + part] == value


@pytest.mark.parametrize(
    "extra",
    [
        "archive/data/aotinductor/model/evil.so",
        "archive/extra/../../secret",
        "/etc/passwd",
        "archive/data/weights/weight_0/",
        "archive/data/constants/custom_obj_0",
        "archive/MODELS/model.json",
        "archive/models/other.json",
        "other/models/model.json",
        "models/model.json",
        "version",
    ],
)
def test_evil_torch_program_with_any_other_entry_is_refused(tmp_path: Path, extra: str) -> None:
    path = write(tmp_path / "m.pt2", small_parts())
    zipped(path, {**entries(path), extra: b"x"})
    with pytest.raises(UserError, match="which no export of onestage does; not read"):
        read_archive(path)


def test_evil_torch_program_that_has_an_entry_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", small_parts())
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(FOLDER + PROGRAM, b"{}")
    with pytest.raises(UserError, match=r"holds 'archive/models/model\.json'"):
        read_archive(path)


def test_evil_torch_program_that_unpacks_to_more_is_refused_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", small_parts())
    bomb = {**entries(path), FOLDER + "data/weights/weight_1": bytes(1 << 27)}
    zipped(path, bomb, zipfile.ZIP_DEFLATED)
    started = time.perf_counter()
    with pytest.raises(UserError, match="unpacks to more than it holds"):
        read_archive(path)
    assert time.perf_counter() - started < 0.1
    zipped(path, {f"archive/data/weights/weight_{n}": b"" for n in range(MAX_PARTS + 1)})
    with pytest.raises(UserError, match="unpacks to more than it holds"):
        read_archive(path)


def test_evil_torch_program_that_is_compressed_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.pt2", {f"{FOLDER}{HEADER}": b"{}"}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"holds 'archive/extra/onestage'"):
        read_archive(path)


def test_a_strangers_program_is_told_from_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with pytest.raises(UserError, match="no such file"):
        read_archive(path)
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(2),)), path)
    with pytest.raises(UserError, match="not exported by onestage"):
        read_archive(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="no exported program of torch, or a damaged one"):
        read_archive(path)
    zipped(path, {f"{FOLDER}{HEADER}": b"{}"})
    with pytest.raises(UserError, match=r"models/model\.json is missing"):
        read_archive(path)


@given(data=st.data())
def test_damage_gives_one_line_in_under_a_second(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "m.pt2"
    content = bytearray(pack_archive({HEADER: b"{}", "data/weights/weight_0": bytes(64)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    said, started = "", time.perf_counter()
    try:
        read_archive(path)
    except UserError as error:  # anything else fails the test
        said = str(error)
    assert "\n" not in said
    assert time.perf_counter() - started < 1
