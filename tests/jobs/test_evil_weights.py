"""Case `evil-pickle`: malicious files through every command that reads weights; no payload runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from models.test_weight_files import evil_files

from onestage import cli
from onestage.data.generated import write_generated_voc

# A file of each kind that torch reads, and one that it doesn't; `tests/models` reads every payload in them.
CASES = ("zip_system", "legacy_system", "bare_pickle", "zip_compressed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=3, train=2, test=1)
    return root


@pytest.mark.parametrize("case", CASES)
def test_evil_pickle_runs_no_payload_through_any_command(
    case: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark, evil, names = tmp_path / "mark", tmp_path / "evil.pth", tmp_path / "names.txt"
    evil.write_bytes(evil_files(mark)[case])
    names.write_text("cat\n")
    detector = ("--detector", "ssd300-test_efficientnet")
    commands = [
        ("import", evil, *detector, "--categories", names, "--out", tmp_path / "model.safetensors"),
        ("train", data, *detector, "--backbone-weights", evil, "--out", tmp_path / "run"),
        ("evaluate", evil, data),
        ("predict", evil, data / "JPEGImages", "--out", tmp_path / "predictions"),
        ("info", evil),
    ]
    for words in commands:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(word) for word in words])
        assert exit_.value.code == 1
        assert "evil.pth" in capsys.readouterr().err
        assert not mark.exists()
    assert not (tmp_path / "model.safetensors").exists()
