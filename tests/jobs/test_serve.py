"""`onestage serve` as people start and stop it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from missing_package import remove_package
from served import ask, running

import onestage
from onestage import cli
from onestage.data.generated import KINDS
from onestage.detectors import build
from onestage.errors import UserError
from onestage.models.model_file import save_model
from onestage.structures import Categories


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    detector = build("ssd300-test_efficientnet", len(KINDS))
    save_model(path, detector, Categories.from_names(tuple(KINDS)))
    return path


def test_it_says_where_it_is_answers_and_ends_with_ctrl_c(model: Path) -> None:
    command = [sys.executable, "-m", "onestage", "serve", str(model), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ONESTAGE_TOKEN": "correct/horse"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        line = process.stdout.readline()
        address = re.search(
            r"ssd300-test_efficientnet, 6 classes: http://127\.0\.0\.1:(\d+)/#token=correct%2Fhorse ", line
        )
        assert address is not None, line
        answer = ask(int(address[1]), "/v1/model", headers={"Authorization": "Bearer correct/horse"})
        assert answer.json["names"] == list(KINDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == "stopped\n"
        assert process.stderr.read() == ""


def test_a_second_model_is_compared_with(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, apps = tmp_path / "june", []
    run.mkdir()
    (run / "model.safetensors").write_bytes(model.read_bytes())
    monkeypatch.setattr("onestage.serving.connections.run", lambda app, listening: apps.append(app))
    onestage.serve(model, compare_with=run, port=0)
    what = "ssd300-test_efficientnet, 6 classes"
    assert f"{what} and {what}: http://127.0.0.1:" in capsys.readouterr().out
    with running(apps[0]) as port:
        titles = [ask(port, f"/v1/model?model={one}").json["title"] for one in ("first", "second")]
    assert titles == [model.parent.name, "june"]


def test_stop_under_load_two_signals_end_it_at_once_with_status_0(model: Path) -> None:
    command = [sys.executable, "-m", "onestage", "serve", str(model), "--port", "0", "--allowed-hosts", "boxes.example"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        address = re.search(r":(\d+)/", process.stdout.readline())
        assert address is not None
        hosts = {"boxes.example": 200, "localhost": 200, "evil.example": 403}
        assert {host: ask(int(address[1]), "/v1/model", headers={"Host": host}).status for host in hosts} == hosts
        with socket.create_connection(("127.0.0.1", int(address[1]))) as client:
            client.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nthe first part")
            assert ask(int(address[1]), "/healthz").status == 200  # by now it has read that
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):  # it waits for the rest
                process.wait(timeout=0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_address_that_others_reach_wants_a_token(model: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONESTAGE_TOKEN", raising=False)
    with pytest.raises(UserError, match="so give a secret that clients must send: --token SECRET"):
        onestage.serve(model, host=host)


@pytest.mark.parametrize("token", ["short", "", "tränenreich", "with\nline break"])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(model: Path, token: str) -> None:
    with pytest.raises(UserError, match="token"):
        onestage.serve(model, host="0.0.0.0", token=token)


def test_a_port_that_is_taken_is_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as status:
        cli.main(["serve", str(model), "--port", str(taken.getsockname()[1])])
    assert status.value.code == 1
    assert re.fullmatch(
        r"onestage: --host 127\.0\.0\.1 --port \d+: "
        r"can't listen there \(Address already in use\); give another address\n",
        capsys.readouterr().err,
    )


def test_a_missing_package_names_the_extra(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_package(monkeypatch, "fastapi", importers="onestage.serving")
    with pytest.raises(UserError, match=r"fastapi is missing: pip install 'onestage\[serve\]'"):
        onestage.serve(model)
