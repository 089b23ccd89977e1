"""Exported programs in torch, and strangers' programs, of which nothing runs (case `evil-torch-program`)."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_files import HEADER as HEADER_VALUES
from numpy.testing import assert_allclose
from ssd300_case import DEVICES
from torch_programs import evil_module, evil_parts, of_older_torch, small_parts, write

import onestage
from onestage.errors import UserError
from onestage.inference.exported import is_exported, read_any_exported
from onestage.inference.torch_program import TorchSession, read_torch_program
from onestage.torch_archive.archive import HEADER, pack_archive

CASES = list(evil_parts(Path("mark")))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write(tmp_path / "m.pt2", small_parts())


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_of_ours_says_its_classes_and_runs(small: Path, device: str) -> None:
    assert is_exported(small)
    assert read_any_exported(small).names == ("cat", "dog")
    session = TorchSession(small, device=device)
    found = session.run(np.full((3, 5, 7, 3), 102, dtype=np.uint8), 0.1)
    assert_allclose(found.boxes_xyxy[:, 0], [[102, 103, 104, 105]] * 3)
    assert_allclose(found.scores, [[0.2]] * 3)
    assert found.counts.tolist() == [1, 1, 1]


def test_a_device_that_is_not_there_is_named(small: Path) -> None:
    with pytest.raises(UserError, match="device 'tpu' cannot be used here"):
        TorchSession(small, device="tpu")


# ---------------------------------------------------------------------------------------------- evil files


@pytest.mark.parametrize("case", CASES)
def test_evil_torch_program_runs_no_payload(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pt2"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_enum.py").write_text(evil_module(mark))
    write(path, evil_parts(mark)[case])
    for read in (read_torch_program, onestage.load, lambda path: onestage.info(str(path))):
        with pytest.raises(UserError, match=r"evil\.pt2: holds (what|another|'archive/data).*; not (run|read)"):
            read(path)
        assert not mark.exists()
    _run_in_torch(path)
    assert mark.exists()  # so the payload is one
    sys.modules.pop("evil_enum", None)


def test_evil_torch_program_of_an_older_format_runs_no_payload(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "evil.pt2"
    of_older_torch(mark, path)
    with pytest.raises(UserError, match="not exported by onestage"):
        read_torch_program(path)
    assert not mark.exists()
    _run_in_torch(path)
    assert mark.exists()


def _run_in_torch(path: Path) -> None:
    """As a careless reader does."""
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(path.read_bytes())).module()
            program(torch.zeros((2, 3, 4, 3), dtype=torch.uint8), torch.tensor([0.5]))
    except Exception:  # the payload's, once it ran
        pass
    finally:
        logging.disable(logging.NOTSET)


def test_a_program_that_was_changed_is_refused(small: Path) -> None:
    content = small.read_bytes()
    for part in (b'"graph_module"', b"ssd300-vgg16"):
        assert content.count(part) == 1
    weights = np.arange(4, dtype=np.float32).tobytes()
    assert content.count(weights) == 1
    small.write_bytes(content.replace(weights, weights[::-1]))
    with pytest.raises(UserError, match="damaged one"):  # by the sum that each entry of a zip file has
        read_torch_program(small)
    write(small, {**small_parts(), "data/weights/weight_0": weights[::-1]})
    assert read_torch_program(small).names == ("cat", "dog")  # another file, whole
    header = json.dumps({**HEADER_VALUES, "sha256": "0" * 64}).encode()
    small.write_bytes(pack_archive({**small_parts(), HEADER: header}))
    with pytest.raises(UserError, match="was changed after its export"):
        read_torch_program(small)
