"""Reading weight files of strangers: cases `evil-pickle` and `evil-safetensors`."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from onestage.errors import UserError
from onestage.models.weight_files import read_safetensors, read_state_dict


class Calls:
    """Pickles as a call of a function: the classic payload."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def zipped(pickled: bytes, *, name: str = "archive/data.pkl", compression: int = zipfile.ZIP_STORED) -> bytes:
    """The bytes of a .pth since torch 1.6 with this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, pickled)
        archive.writestr("archive/version", "3")
    return file.getvalue()


def legacy(*pickles: bytes) -> bytes:
    """The bytes of a .pth before torch 1.6 whose last pickles are these."""
    start = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    return b"".join([*start, *pickles])


def evil_files(mark: Path) -> dict[str, bytes]:
    """Files that make `mark` when what they name is called."""
    shell = f"touch {mark}"
    python = f"open({str(mark)!r}, 'w')"
    call = {
        "system": Calls(os.system, shell),
        "eval": Calls(eval, python),
        "exec": Calls(exec, python),
        "open": Calls(open, str(mark), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "mkdir": Calls(os.mkdir, str(mark)),
        "torch_load": Calls(torch.load, str(mark)),
        "torch_save": Calls(torch.save, {}, str(mark)),
        "numpy_tofile": Calls(np.save, str(mark), 1),
        "in_a_state_dict": collections.OrderedDict(weight=Calls(os.system, shell)),
    }
    files = {f"zip_{name}": zipped(pickle.dumps(payload, 2)) for name, payload in call.items()}
    files |= {f"legacy_{name}": legacy(pickle.dumps(payload, 2)) for name, payload in list(call.items())[:4]}
    files["zip_protocol_4"] = zipped(pickle.dumps(call["system"], 4))
    files["bare_pickle"] = pickle.dumps(call["system"], 2)
    files["bare_protocol_5"] = pickle.dumps(call["system"], 5)
    files["first_of_legacy"] = pickle.dumps(call["system"], 2) + legacy()
    files["last_of_legacy"] = legacy(pickle.dumps({}, 2), pickle.dumps(call["system"], 2))
    files["zip_inst"] = zipped(b"\x80\x02(S'" + shell.encode() + b"'\nios\nsystem\n.")
    files["zip_obj"] = zipped(b"\x80\x02(cos\nsystem\nS'" + shell.encode() + b"'\no.")
    files["zip_second_pickle"] = zipped(pickle.dumps({}, 2), name="archive/constants.pkl")
    files["zip_compressed"] = zipped(pickle.dumps({"a": 1}, 2), compression=zipfile.ZIP_DEFLATED)
    return files


@pytest.mark.parametrize("case", list(evil_files(Path("mark"))))
def test_evil_pickle_runs_no_payload(case: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "evil.pth"
    file.write_bytes(evil_files(mark)[case])
    with pytest.raises(UserError, match=r"evil\.pth"):
        read_state_dict(file)
    assert not mark.exists()


def test_evil_pickle_is_named_by_what_it_would_call(tmp_path: Path) -> None:
    file = tmp_path / "evil.pth"
    file.write_bytes(evil_files(tmp_path / "mark")["zip_system"])
    with pytest.raises(UserError, match=r"would call posix\.system"):
        read_state_dict(file)


def test_evil_pickle_is_refused_even_where_a_library_has_allowed_its_names(tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "evil.pth"
    file.write_bytes(evil_files(mark)["zip_mkdir"])
    with torch.serialization.safe_globals([os.mkdir]), pytest.raises(UserError, match="would call"):
        read_state_dict(file)
    assert not mark.exists()


@pytest.mark.parametrize("new_format", [True, False])
def test_both_of_torchs_formats_are_read(new_format: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    state_dict = collections.OrderedDict(
        a=torch.arange(6.0).reshape(2, 3), b=torch.tensor(3), c=torch.nn.Parameter(torch.ones(2).half())
    )
    torch.save(state_dict, file, _use_new_zipfile_serialization=new_format)
    read = read_state_dict(file)
    assert list(read) == ["a", "b", "c"]
    assert all(torch.equal(read[name], state_dict[name]) for name in read)
    assert not read["c"].requires_grad


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_the_weights_in_a_training_checkpoint_are_found_and_a_parallel_prefix_taken_off(
    prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint.pth"
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    weights = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    about = {"optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict(), "iteration": 7}
    torch.save({"model": weights, **about}, file)
    assert list(read_state_dict(file)) == ["weight", "bias"]


@pytest.mark.parametrize(("plain", "averaged"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_averaged_weights_come_before_the_last_ones_and_that_is_said(
    plain: str, averaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("onestage.models.weight_files.tell", told.append)
    file, last, mean = tmp_path / "c.pth", {"a.w": torch.zeros(1)}, {"module.a.w": torch.ones(1)}
    torch.save({plain: last, averaged: mean | {"n_averaged": torch.tensor(5)}}, file)
    assert read_state_dict(file) == {"a.w": 1}
    assert told == [f"{file}: the averaged weights in it are taken ({averaged})"]
    torch.save({plain: last, averaged: {}}, file)
    assert read_state_dict(file) == {"a.w": 0}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["_codecs encode", "mmengine.logging HistoryBuffer"], "mmengine.logging.HistoryBuffer and _codecs.encode, "),
        (["__builtin__ getattr"], "__builtin__.getattr, "),
        (["collections deque", "ultralytics.nn.tasks DetectionModel"], "it is a YOLO, which has no network here"),
    ],
)
def test_a_refused_pickle_is_named_by_its_projects_class_first(names: list[str], told: str, tmp_path: Path) -> None:
    pickled = b"\x80\x02" + b"".join(b"c%s\n0" % name.replace(" ", "\n").encode() for name in names) + b"}."
    (tmp_path / "epoch_1.pth").write_bytes(zipped(pickled))
    with pytest.raises(UserError, match=rf"loading it would call {told}|{told}"):
        read_state_dict(tmp_path / "epoch_1.pth")


def test_a_file_of_our_own_is_no_other_projects(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "m.pt", metadata={"onestage": "{}"})
    with pytest.raises(UserError, match="a file of onestage, not another project's weights"):
        read_state_dict(tmp_path / "m.pt")


@pytest.mark.parametrize("payload", [[torch.ones(1)], {"a": 1.0}, {}, {1: torch.ones(1)}])
def test_what_is_not_a_state_dict_is_refused(payload: object, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(payload, file)
    with pytest.raises(UserError, match="state dict"):
        read_state_dict(file)


def test_a_safetensors_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    save_file({"a": torch.ones(2, 3)}, file, metadata={"by": "test"})
    assert torch.equal(read_state_dict(file)["a"], torch.ones(2, 3))
    tensors, metadata = read_safetensors(file)
    assert list(tensors) == ["a"]
    assert metadata == {"by": "test"}


def test_evil_safetensors_header_of_13_megabytes_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "big.safetensors"
    header = json.dumps({"__metadata__": {"a": "x" * 13_000_000}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    start = time.perf_counter()
    with pytest.raises(UserError, match="header has 130000"):
        read_state_dict(file)
    assert time.perf_counter() - start < 1


def test_evil_safetensors_fuzzed_files_end_in_one_line_each(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_file({"a": torch.ones(4, 4), "b": torch.zeros(3)}, good)
    content = good.read_bytes()
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    rng = np.random.default_rng(0)
    file = tmp_path / "fuzzed.safetensors"
    messages = []
    for _ in range(1000):
        fuzzed = bytearray(content)
        for place in rng.integers(0, header_end, size=rng.integers(1, 6)):
            fuzzed[place] = rng.integers(256)
        file.write_bytes(fuzzed[: rng.integers(0, len(fuzzed) + 1)] if rng.random() < 0.3 else fuzzed)
        try:
            read_state_dict(file)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 900
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a weight file"),
        (b"<!DOCTYPE html><html>", "not a weight file"),
        (b"PK\x03\x04 cut short", "damaged"),
        (b"\x80\x02 nonsense", "damaged"),
        (b"version https://git-lfs", "not a weight file"),
    ],
)
def test_a_file_of_another_kind_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_dict(file)


@pytest.mark.parametrize("cut", [0.2, 0.6, 0.99])
@pytest.mark.parametrize("new_format", [True, False])
def test_half_a_file_is_refused(cut: float, new_format: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.randn(100, 100)}, file, _use_new_zipfile_serialization=new_format)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * cut)])
    with pytest.raises(UserError, match="use another copy"):
        read_state_dict(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(UserError, match="no such file"):
            read_state_dict(path)
