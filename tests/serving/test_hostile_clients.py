"""The cases server-bombs, server-load and server-slow, against the server as people start it."""

from __future__ import annotations

import asyncio
import io
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from red_box import CATEGORIES, RedBoxDetector
from served import ask, red_png, running

from onestage.data.generated import KINDS, draw_image
from onestage.detectors import build
from onestage.inference.predictor import Predictor
from onestage.models.model_file import save_model
from onestage.serving.app import create_app
from onestage.serving.connections import DeadlineProtocol
from onestage.serving.limits import Limits
from onestage.structures import Categories

SIDE = 12_000  # 432 MB of RGB
MEMORY_FOR_BOMBS = 100 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Port and process id of `onestage serve`."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    detector = build("ssd300-test_efficientnet", len(KINDS))
    save_model(path, detector, Categories.from_names(tuple(KINDS)))
    command = [sys.executable, "-m", "onestage", "serve", str(path), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    with process.stdout:
        port = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        try:
            assert port is not None
            yield int(port[1]), process.pid
        finally:
            process.terminate()
            process.wait(timeout=30)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb() -> bytes:
    """All of its pixels are there, packed to half a megabyte."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * SIDE)
    rows = b"".join(packer.compress(row) for _ in range(SIDE)) + packer.flush()
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def webp_bomb() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(file, format="WebP", quality=0, method=0)
    return file.getvalue()


def saved_bomb(kind: str, **more: object) -> bytes:
    file = io.BytesIO()
    Image.new("L" if kind == "TIFF" else "P", (SIDE, SIDE)).save(file, format=kind, **more)
    return file.getvalue()


def peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def test_server_bombs_are_refused_in_little_memory_and_the_next_good_image_is_answered(
    served: tuple[int, int],
) -> None:
    port, pid = served
    good = io.BytesIO()
    Image.fromarray(draw_image(np.random.default_rng(0), 300).image).save(good, format="JPEG")
    assert ask(port, "/v1/detect", good.getvalue()).status == 200
    before = peak_memory(pid)
    bombs = {
        "png": png_bomb(),
        "webp": webp_bomb(),
        "tiff": saved_bomb("TIFF", compression="tiff_deflate"),
        "gif": saved_bomb("GIF"),
    }
    for name, bomb in bombs.items():
        assert len(bomb) < Limits().body_bytes, name
        answer = ask(port, "/v1/detect", bomb)
        assert answer.status in (413, 422), name
        assert ask(port, "/v1/detect", good.getvalue()).status == 200, name
    assert peak_memory(pid) - before < MEMORY_FOR_BOMBS


async def detected(port: int, box: tuple[int, int, int, int]) -> tuple[int, bytes, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = red_png(box)
    writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
    writer.write(body)
    head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), head, rest


class SlowDetector(RedBoxDetector):
    def forward(self, images):
        time.sleep(0.05)
        return super().forward(images)


def test_server_load_a_thousand_requests_at_once_get_their_answers_or_503() -> None:
    async def all_at_once(port: int) -> list[tuple[int, bytes, bytes]]:
        return await asyncio.gather(*(detected(port, box_of(n)) for n in range(1000)))

    def box_of(n: int) -> tuple[int, int, int, int]:
        return 1 + n % 30, 2 + n // 30, 60 + n % 30, 50 + n // 30

    with running(create_app(Predictor(SlowDetector(), CATEGORIES, device="cpu"))) as port:
        answers = asyncio.run(all_at_once(port))
        assert ask(port, "/healthz").status == 200
    assert {status for status, _, _ in answers} == {200, 503}
    assert all(b"retry-after: 1" in head.lower() for status, head, _ in answers if status == 503)
    answered = [n for n, (status, _, _) in enumerate(answers) if status == 200]
    assert len(answered) >= Limits().waiting
    for n in answered:
        assert b'"box_xyxy":[%d.0,%d.0,%d.0,%d.0]' % box_of(n) in answers[n][2], n


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def slow_head(port: int) -> float:
    """A byte every tenth of a second, until the server hangs up: after how many seconds?"""
    async with connected(port) as (reader, writer):
        begun = time.monotonic()
        for byte in b"POST /v1/detect HTTP/1.1\r\nHost: somewhere\r\n" + b"X-Filler: " + 1000 * b"a":
            writer.write(bytes([byte]))
            try:
                if await asyncio.wait_for(reader.read(1), timeout=0.1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        return time.monotonic() - begun


async def slow_body(port: int) -> bytes:
    """The head says 1,000 bytes, of which one comes every tenth of a second: what does the server say?"""
    async with connected(port) as (reader, writer):
        writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        answer = b""
        while not answer:
            writer.write(b"a")
            try:
                answer = await asyncio.wait_for(reader.read(12), timeout=0.1) or b"hung up"
            except TimeoutError:
                continue
            except ConnectionError:  # a byte that came after the server's end took the answer with it
                answer = b"reset"
        return answer


def slow_clients(port: int) -> tuple[list[asyncio.Task[float]], list[asyncio.Task[bytes]]]:
    heads = [asyncio.create_task(slow_head(port)) for _ in range(50)]
    return heads, [asyncio.create_task(slow_body(port)) for _ in range(50)]


def test_server_slow_clients_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeadlineProtocol, "seconds", 4.0)  # far from the 1.0 of bodies: the machine may be slow
    limits = Limits(body_seconds=1.0)

    async def scene(port: int) -> tuple[list[float], list[bytes]]:
        heads, bodies = slow_clients(port)
        return await asyncio.gather(*heads), await asyncio.gather(*bodies)

    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"), limits=limits)) as port:
        heads, bodies = asyncio.run(scene(port))
    assert max(heads) < 10
    assert set(bodies) - {b"reset"} == {b"HTTP/1.1 408"}


def test_server_slow_clients_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had to wait for one of them would be answered after the last of its 60 seconds, on any machine."""
    monkeypatch.setattr(DeadlineProtocol, "seconds", 60.0)

    async def scene(port: int) -> tuple[set[int], int]:
        heads, bodies = slow_clients(port)
        await asyncio.sleep(0.5)  # by now they are connected
        statuses = {(await detected(port, (10, 10, 20 + n, 90)))[0] for n in range(10)}
        still_slow = sum(not one.done() for one in (*heads, *bodies))
        for one in (*heads, *bodies):
            one.cancel()
        await asyncio.gather(*heads, *bodies, return_exceptions=True)
        return statuses, still_slow

    limits = Limits(body_seconds=60.0)
    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"), limits=limits)) as port:
        assert asyncio.run(scene(port)) == ({200}, 100)


def test_server_slow_a_body_of_ten_gigabytes_is_refused_before_it_is_sent() -> None:
    async def scene(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), timeout=5)  # to the end: the server hangs up
        writer.close()
        return answer

    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port:
        assert asyncio.run(scene(port)).startswith(b"HTTP/1.1 413 ")


def test_server_slow_a_lying_length_hurts_nobody() -> None:
    """More bytes come than were announced; the rest is not taken for a request."""

    async def scene(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = red_png((20, 30, 80, 90))
        writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n" + body)
        answer = await asyncio.wait_for(reader.read(), timeout=5)
        writer.close()
        return answer

    with running(create_app(Predictor(RedBoxDetector(), CATEGORIES, device="cpu"))) as port:
        assert asyncio.run(scene(port))[:12] in (b"HTTP/1.1 422", b"HTTP/1.1 400")
        assert ask(port, "/v1/detect", red_png((20, 30, 80, 90))).status == 200
