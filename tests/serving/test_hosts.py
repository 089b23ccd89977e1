"""Case rebinding: requests that a stranger's page sends from the user's own browser are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from red_box import CATEGORIES, RedBoxDetector
from served import ask, red_png, running

from onestage.inference.predictor import Predictor
from onestage.serving.app import create_app
from onestage.serving.hosts import THIS_MACHINE

IMAGE = red_png((20, 30, 80, 90))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """As `onestage serve --allowed-hosts boxes.example` gives it."""
    predictor = Predictor(RedBoxDetector(), CATEGORIES, device="cpu")
    with running(create_app(predictor, allowed_hosts=(*THIS_MACHINE, "boxes.example"))) as port:
        yield port


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("localhost.:{port}", 200),
        ("[::1]:{port}", 200),
        ("boxes.example", 200),
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("[::2]", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_rebinding_only_the_names_of_the_server_are_answered(port: int, host: str, status: int) -> None:
    for path in ("/", "/v1/model", "/healthz", "/nowhere"):
        answer = ask(port, path, headers={"Host": host.format(port=port)})
        assert answer.status == (404 if (status, path) == (200, "/nowhere") else status)
    if status == 403:
        assert "`onestage serve --allowed-hosts NAME` adds one" in answer.json["error"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("https://boxes.example", 200),  # a proxy with TLS, which does not hand on the host
        ("http://evil.example", 403),
        ("http://localhost:1", 403),  # another server of this machine
        ("http://127.0.0.1", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_rebinding_only_pages_of_the_server_may_ask(port: int, origin: str, status: int) -> None:
    answer = ask(port, "/v1/detect", IMAGE, {"Origin": origin.format(port=port), "Content-Type": "text/plain"})
    assert answer.status == status


def test_rebinding_an_application_in_python_has_no_names_unless_it_is_given_some() -> None:
    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port:
        assert ask(port, "/v1/detect", IMAGE, {"Host": "boxes.example"}).status == 200
        foreign = ask(port, "/v1/detect", IMAGE, {"Host": "boxes.example", "Origin": "https://evil.example"})
        assert foreign.status == 403
