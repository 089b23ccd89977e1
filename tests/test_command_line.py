"""How a command ends that somebody no longer waits for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from onestage import cli


def test_a_reader_that_has_enough_ends_a_command_without_a_word() -> None:
    command = [sys.executable, "-m", "onestage", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `onestage --help | head` does
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


def test_ctrl_c_before_a_command_has_begun_is_one_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> type[cli.Train]:
        raise KeyboardInterrupt  # while the settings of `train` load torch

    monkeypatch.setattr(cli, "train_with_settings", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "data"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("words", [["info"], ["info", "ssd300-vgg16", "--environment"]])
def test_info_is_about_a_model_or_about_the_machine(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 1
    assert "expected a MODEL or --environment, one of the two" in capsys.readouterr().err


def test_an_empty_word_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", "model", ""])
    assert ended.value.code == 2
    said = (
        "onestage: onestage predict model '': an empty word, as of a variable that is not set; give a name, or . for "
    )
    assert capsys.readouterr().err.startswith(said)


def test_a_command_runs_where_its_streams_are_closed() -> None:
    words = f"{sys.executable} -m onestage --version >&- 2>&-"
    assert subprocess.run(words, shell=True, check=False, timeout=60).returncode == 0
    words = f"{sys.executable} -m onestage info ssd300-vgg16 >&-"
    ended = subprocess.run(words, shell=True, check=False, timeout=120, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, b"")
