"""What raw connections get: cases never-reads, trailers, stop-under-load, h2c."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from red_box import CATEGORIES, RedBoxDetector
from served import ask, png, red_png, running
from starlette.exceptions import HTTPException

from onestage.inference.predictor import Predictor
from onestage.serving import connections
from onestage.serving.app import create_app
from onestage.serving.connections import HELD_BYTES, PIPELINE_SECONDS, DeadlineProtocol, StoppableServer, http_server
from onestage.serving.drawn_images import DrawnImages
from onestage.serving.limits import REFUSAL_SECONDS, Limits

IMAGE = red_png((20, 30, 80, 90))
CHUNKED = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port:
        yield port


@pytest.fixture(scope="module")
def guarded_port() -> Iterator[int]:
    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"), token="correct horse")) as port:
        yield port


def head(*lines: str, length: int = len(IMAGE)) -> bytes:
    return "\r\n".join(["POST /v1/detect HTTP/1.1", "Host: x", *lines, f"Content-Length: {length}", "", ""]).encode()


def answers(port: int, *parts: bytes, half_close: bool = False) -> bytes:
    """All that comes until the server closes the connection, or nothing comes for 2 seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        received = b""
        with suppress(OSError):
            for part in parts:
                client.sendall(part)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            while part := client.recv(1 << 16):
                received += part
        return received


def taken(port: int, beginning: bytes, block: bytes, most: int) -> int:
    """How many bytes of endless blocks are taken before the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        sent = 0
        with suppress(OSError):
            client.sendall(beginning)
            while sent < most:
                client.sendall(block)
                sent += len(block)
        return sent


ENDLESS = {
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n" * 10_000),
    "a trailer": (CHUNKED + b"0\r\na:", b"b" * 50_000),
    "a chunk's extension": (CHUNKED + b"1;", b"a" * 50_000),
    "a chunk's length": (CHUNKED, b"0" * 50_000),
    "small chunks": (CHUNKED, b"1\r\na\r\n" * 10_000),
    "headers": (b"POST /v1/detect HTTP/1.1\r\n", b"a:b\r\n" * 10_000),
    "an address": (b"GET /", b"a" * 50_000),
}


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("guarded", [False, True])
def test_trailers_and_whatever_else_has_no_end_is_cut(what: str, guarded: bool, port: int, guarded_port: int) -> None:
    most = 64 << 20  # far more than the buffers of both systems
    assert taken(guarded_port if guarded else port, *ENDLESS[what], most=most) < most


def test_hostile_clients_what_is_no_http_is_answered_after_a_moment(port: int) -> None:
    """Or who sends it would come again at once, and the others wait."""
    begun = time.monotonic()
    assert answers(port, b"nonsense\r\n\r\n")[:12] == b"HTTP/1.1 400"
    assert time.monotonic() - begun > 0.9 * REFUSAL_SECONDS


def test_hostile_clients_requests_that_wait_for_no_answer_are_read_one_by_one(port: int) -> None:
    begun = time.monotonic()
    requests = 5 * b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert answers(port, requests + last).count(b"HTTP/1.1 200") == 6
    assert time.monotonic() - begun > 0.9 * 5 * PIPELINE_SECONDS


def test_trailers_that_are_short_and_extensions_do_no_harm(port: int) -> None:
    body = b"%x;name=value\r\n%b\r\n0\r\nX-Checksum: 1\r\n\r\n" % (len(IMAGE), IMAGE)
    assert ask(port, "/healthz").status == 200
    assert answers(port, CHUNKED.replace(b"Host: x", b"Host: x\r\nConnection: close"), body)[:12] == b"HTTP/1.1 200"


def test_h2c_the_offer_to_go_on_in_http_2_is_passed_over(port: int) -> None:
    offer = head("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    assert answers(port, offer + IMAGE)[:12] == b"HTTP/1.1 200"


def test_h2c_a_client_that_closes_its_side_gets_its_answer(port: int) -> None:
    answer = answers(port, head() + IMAGE, half_close=True)
    assert answer[:12] == b"HTTP/1.1 200"
    assert b'"box_xyxy":[20.0,30.0,80.0,90.0]' in answer
    assert answers(port, 3 * (head() + IMAGE), half_close=True).count(b"HTTP/1.1 200") == 3
    assert answers(port, head() + IMAGE[:-1], half_close=True) == b""  # the request is not whole


@pytest.mark.parametrize("size", [1, 100, HELD_BYTES - 1, HELD_BYTES + 1])
def test_a_body_may_come_in_parts_of_any_size(size: int, port: int) -> None:
    image = noise_png(60)  # 11 kB
    both = 2 * (head(length=len(image)) + image)  # the second request begins in the middle of a part
    parts = [both[start : start + size] for start in range(0, len(both), size)]
    assert answers(port, *parts, half_close=True).count(b"HTTP/1.1 200") == 2


def test_a_chunked_body_is_not_waited_for_by_a_length_that_it_does_not_have(port: int) -> None:
    both_lengths = CHUNKED.replace(b"Host: x", b"Host: x\r\nContent-Length: 100000\r\nConnection: close")
    assert answers(port, both_lengths, b"%x\r\n%b\r\n0\r\n\r\n" % (len(IMAGE), IMAGE))[:12] == b"HTTP/1.1 200"


def unread(port: int, request: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.settimeout(10)
    client.sendall(request)
    return client


def noise_png(side: int) -> bytes:
    return png(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))


def test_never_reads_an_answer_that_nobody_reads_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeadlineProtocol, "unread_seconds", 0.2)
    image, received = noise_png(1000), 1  # 3 MB, more than the systems' buffers take
    with (
        running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port,
        unread(port, head("Accept: image/png", length=len(image)) + image) as client,
    ):
        assert client.recv(12) == b"HTTP/1.1 200"
        time.sleep(1)
        begun = time.monotonic()
        with suppress(ConnectionError):
            while received:
                received = len(client.recv(1 << 20))
        assert time.monotonic() - begun < 5  # closed, or 20 seconds would be waited for another request


def test_never_reads_a_slow_reader_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeadlineProtocol, "unread_seconds", 1.0)
    image, length = noise_png(1000), 0
    with (
        running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port,
        unread(port, head("Accept: image/png", "Connection: close", length=len(image)) + image) as client,
    ):
        while part := client.recv(1 << 16):
            length += len(part)
            time.sleep(0.005)
    assert length > 2_900_000


def test_never_reads_drawn_images_that_wait_are_bounded_together() -> None:
    drawn = DrawnImages(Limits(all_drawn_bytes=100))
    unread = asyncio.Event()

    async def send(message: dict) -> None:
        if message == {"type": "http.response.body"}:  # which uvicorn sends when the client has read the rest
            await unread.wait()

    async def scene() -> None:
        drawn.check_room()
        first = asyncio.create_task(drawn.answer(bytes(200), {})({}, None, send))  # as large as it likes
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="waiting to be read"):
            drawn.check_room()
        with pytest.raises(HTTPException) as refused:
            drawn.answer(bytes(1), {})
        assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "1"})
        unread.set()
        await first
        drawn.answer(bytes(1), {})

    asyncio.run(scene())


class StuckDetector(RedBoxDetector):
    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()

    def forward(self, images):
        self.begun.set()
        assert self.go.wait(timeout=30)
        return super().forward(images)


class Ended(BaseException):
    """In the place of the process's end."""


@pytest.mark.parametrize("signals", [1, 2])
def test_stop_under_load_ends_the_process_whatever_its_threads_do(
    signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One signal: at the deadline. Two: at once. With status 0."""
    detector, statuses = StuckDetector(), []

    def end(status: int) -> None:
        statuses.append(status)
        detector.go.set()
        raise Ended

    monkeypatch.setattr(connections.os, "_exit", end)
    monkeypatch.setattr(connections, "SHUTDOWN_SECONDS", 0.5 if signals == 1 else 30.0)
    server = http_server(create_app(Predictor(detector, CATEGORIES, device="cpu")))
    assert isinstance(server, StoppableServer)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def run() -> None:
            with suppress(Ended):
                server.run(sockets=[listening])

        thread = threading.Thread(target=run)
        thread.start()
        client = threading.Thread(target=lambda: answers(port, head() + IMAGE))
        client.start()
        assert detector.begun.wait(timeout=30)
        server.handle_exit(15, None)
        if signals == 2:
            with pytest.raises(Ended):
                server.handle_exit(2, None)
        thread.join(timeout=30)
        client.join()
    assert statuses[0] == 0
