"""Case `hostile-clients`: a good client of `onestage serve`, alone and beside 40 hostile ones.

    python benchmarks/reliability/hostile_clients.py --seconds 30 [--large]

The good client sends one photo after another. The hostile ones, of eight kinds, begin again as soon as they are
refused: images that say one size and hold another, JPEGs of 3,000 scans, trailers, chunk headers and small chunks
without an end, bodies that drip, requests in a row whose answers nobody reads, and drawn images that nobody reads. They
are a process that yields the processor to the server, as on a machine of their own. The server's peak memory may grow
by 300 MB, and the good client's p99 double.

`--large` adds what is allowed and costs most, images of 25 million pixels and bodies of 30 MB: it is measured without a
bound, since the processor is shared with them. Linux only.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
import statistics
import struct
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import tyro
from fuzzed_forms import Server, started
from PIL import Image

MOST_GROWTH_MB, MOST_P99 = 300.0, 2.0  # p99: of that without them
KINDS = (
    *("trailers", "chunk-headers", "small-chunks", "drips", "pipelines", "never-reads", "two-sizes", "scans"),
    *("bodies", "large-png", "large-webp"),
)
LARGE = KINDS[-3:]  # allowed
PAUSE_SECONDS = 0.01  # of a hostile client between two attempts


@dataclass(frozen=True)
class Options:
    """How many, and how long."""

    clients: int = 40
    seconds: float = 30.0
    kinds: tuple[str, ...] = ()  # of hostile clients; none: all that are forbidden
    large: bool = False


def photo(height: int, width: int, kind: str, **options: object) -> bytes:
    """Noise of 20 pixels a patch, encoded."""
    patches = np.random.default_rng(0).integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def png_of_two_sizes() -> bytes:
    """A PNG whose first header says 10 x 10, and the second 9,000 x 9,000."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    headers = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)) for size in (10, 9000))
    pixels = zlib.compress(bytes(9000 * (3 * 9000 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + headers + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_of_scans(count: int) -> bytes:
    """A gray progressive JPEG whose last scan comes again and again: some hundred kilobytes."""
    file = io.BytesIO()
    Image.new("L", (2000, 2000)).save(file, format="JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + whole[-2:]


def requested(length: int | None, *more: str) -> bytes:
    """The head of a request with a body of so many bytes, or of chunks."""
    body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join(["POST /v1/detect HTTP/1.1", "Host: 127.0.0.1", body, *more, "", ""]).encode()


class Hostile:
    """The kinds of hostile clients of one server; each of their functions is one attempt."""

    def __init__(self, port: int) -> None:
        self._port = port
        big = photo(2000, 2000, "JPEG")
        files = {
            "two-sizes": png_of_two_sizes(),
            "scans": jpeg_of_scans(3000),
            "large-png": photo(5000, 5000, "PNG"),
            "large-webp": photo(5000, 5000, "WebP", lossless=True, method=0),
        }
        self.kinds: dict[str, Callable[[], None]] = {
            "trailers": lambda: self._endless(requested(None) + b"0\r\n", b"a:b\r\n" * 10_000),
            "chunk-headers": lambda: self._endless(requested(None) + b"1;", b"a" * 60_000),
            "small-chunks": lambda: self._endless(requested(None), b"1\r\na\r\n" * 10_000),
            "drips": lambda: self._endless(requested(1_000_000), b"a", pause=1.0),
            "pipelines": lambda: self._endless(b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000),
            "bodies": lambda: self._endless(requested(30 << 20), bytes(1 << 16)),
            "never-reads": lambda: self._unread(requested(len(big), "Accept: image/png") + big),
        }
        for name, content in files.items():
            self.kinds[name] = lambda content=content: self._asked(content)

    def run(self, kind: str) -> None:
        while True:
            with suppress(OSError):
                self.kinds[kind]()
            time.sleep(PAUSE_SECONDS)

    def _connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=60)

    def _endless(self, begin: bytes, block: bytes, pause: float = 0.0) -> None:
        with self._connection() as connection:
            connection.sendall(begin)
            while True:
                connection.sendall(block)
                time.sleep(pause)

    def _asked(self, content: bytes) -> None:
        with self._connection() as connection:
            connection.sendall(requested(len(content), "Connection: close") + content)
            while connection.recv(1 << 16):
                pass

    def _unread(self, request: bytes) -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(60)
            connection.connect(("127.0.0.1", self._port))
            connection.sendall(request)
            connection.recv(16)
            time.sleep(25)


def hostile_process(begun: SimpleQueue[bool], port: int, clients: int, kinds: tuple[str, ...]) -> None:
    os.nice(19)
    hostile = Hostile(port)
    threads = [
        threading.Thread(target=hostile.run, args=(kinds[number % len(kinds)],), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    begun.put(True)
    threading.Event().wait()


def good_client(server: Server, content: bytes, seconds: float) -> tuple[list[float], Counter[int]]:
    """Seconds of each answer, and their statuses."""
    times, statuses, end = [], Counter[int](), time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        statuses[server.answer(content, {})[0]] += 1
        times.append(time.monotonic() - begun)
    return times, statuses


def described(times: list[float], statuses: Counter[int]) -> str:
    p50 = statistics.median(times)
    return f"{len(times)} answers {dict(statuses)}, p50 {1e3 * p50:.0f} ms, p99 {1e3 * p99(times):.0f} ms"


def p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))]


def main(options: Options) -> None:
    content = photo(375, 500, "JPEG")
    with tempfile.TemporaryDirectory() as folder:
        server = started(Path(folder))
        try:
            good_client(server, content, 3.0)  # warm-up
            alone = good_client(server, content, options.seconds)
            print(f"alone: {described(*alone)}", flush=True)
            before = server.peak_mb()
            processes = multiprocessing.get_context("spawn")
            begun = processes.SimpleQueue()
            kinds = options.kinds or tuple(kind for kind in KINDS if options.large or kind not in LARGE)
            arguments = begun, server.port, options.clients, kinds
            hostile = processes.Process(target=hostile_process, args=arguments, daemon=True)
            hostile.start()
            begun.get()  # it has made its images
            time.sleep(2.0)
            beside = good_client(server, content, options.seconds)
            grown = server.peak_mb() - before
            hostile.kill()
            print(f"beside {options.clients} hostile clients: {described(*beside)}, +{grown:.0f} MB at the peak")
        finally:
            server.process.terminate()
            code = server.process.wait(30)
    ratio = p99(beside[0]) / p99(alone[0])
    print(f"p99 {ratio:.2f} of that alone; exit status {code}")
    bounded = not (options.large or set(options.kinds) & set(LARGE))
    if code or set(beside[1]) != {200} or (bounded and (grown > MOST_GROWTH_MB or ratio > MOST_P99)):
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
