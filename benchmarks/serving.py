"""`onestage serve` under load, compared with the same predictor without a server, in one run.

    python benchmarks/serving.py MODEL IMAGES [--clients 64] [--seconds 60] [--slow 500]

MODEL is a model that `onestage serve` takes; IMAGES is a folder. Each client keeps its connection and sends one image
after the other. --slow adds so many connections that send a byte a second. Clients and server share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

import onestage
from onestage.inference.sources import ImageSource, open_sources

BATCH_SIZE = 8
BARE_SECONDS = 15.0  # the predictor alone runs so long, before and after


@dataclass
class Tally:
    """Seconds and statuses of the clients' answers."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


def bare_rate(model: Path, images: list[Path], seconds: float) -> float:
    """Images a second of `predict_files`, from files to detections."""
    predictor = onestage.load(model)
    predictor.selection = replace(predictor.selection, score_threshold=0.05)
    endless = predictor.predict_files(cycle(images), BATCH_SIZE)
    for _ in islice(endless, 4 * BATCH_SIZE):  # warm-up
        pass
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        count += sum(1 for _ in islice(endless, BATCH_SIZE))
    return count / (time.monotonic() - begun)


@contextmanager
def served(model: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "onestage", "serve", str(model), "--port", "0", "--batch-size", str(BATCH_SIZE)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = re.search(r":(\d+)/", process.stdout.readline())
        assert address is not None, "the server did not start"
        try:
            yield int(address[1])
        finally:
            process.terminate()


async def client(port: int, bodies: list[bytes], until: float, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for body in cycle(bodies):
        begun = time.monotonic()
        if begun >= until:
            break
        writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length is not None
        await reader.readexactly(int(length[1]))
        status = int(head.split()[1])
        tally.statuses[status] = tally.statuses.get(status, 0) + 1
        tally.seconds.append(time.monotonic() - begun)
    writer.close()


async def slow_client(port: int, until: float) -> None:
    """Send a byte a second of a body that is announced as large; begin again when the server hangs up."""
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
        answer = asyncio.create_task(reader.read(1))
        while not answer.done() and time.monotonic() < until:
            writer.write(b"a")
            await asyncio.wait([answer], timeout=1)
        answer.cancel()
        writer.close()


async def load(port: int, bodies: list[bytes], clients: int, slow: int, seconds: float) -> Tally:
    tally, until = Tally(), time.monotonic() + seconds
    shifted = [bodies[n % len(bodies) :] + bodies[: n % len(bodies)] for n in range(clients)]
    await asyncio.gather(
        *(client(port, shifted[n], until, tally) for n in range(clients)),
        *(slow_client(port, until) for _ in range(slow)),
    )
    return tally


def report(what: str, tally: Tally, seconds: float) -> float:
    """Print a line; return the answers a second."""
    ms = sorted(1e3 * value for value in tally.seconds)
    rate = tally.statuses.get(200, 0) / seconds
    errors = sum(count for status, count in tally.statuses.items() if status != 200)
    p99 = ms[int(0.99 * (len(ms) - 1))]
    print(f"{what}: {rate:.1f} images/s, p50 {statistics.median(ms):.0f} ms, p99 {p99:.0f} ms, {errors} errors")
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--slow", type=int, default=0)
    arguments = parser.parse_args()
    sources = open_sources([str(arguments.images)])
    files = [source.content for source in sources if isinstance(source, ImageSource)]
    images = [file for file in files if isinstance(file, Path)][:200]
    bodies = [image.read_bytes() for image in images]

    rates = [bare_rate(arguments.model, images, BARE_SECONDS)]
    with served(arguments.model) as port:
        asyncio.run(load(port, bodies, arguments.clients, 0, 5.0))  # warm-up
        tally = asyncio.run(load(port, bodies, arguments.clients, 0, arguments.seconds))
        slow = Tally()
        if arguments.slow:
            slow = asyncio.run(load(port, bodies, arguments.clients, arguments.slow, arguments.seconds))
    rates.append(bare_rate(arguments.model, images, BARE_SECONDS))

    bare = statistics.mean(rates)
    print(f"the predictor alone, batches of {BATCH_SIZE}: {rates[0]:.1f} before, {rates[1]:.1f} images/s after")
    rate = report(f"{arguments.clients} clients, {arguments.seconds:g} s", tally, arguments.seconds)
    print(f"the server's share of the predictor's rate: {rate / bare:.3f}")
    if arguments.slow:
        report(f"the same beside {arguments.slow} slow clients", slow, arguments.seconds)


if __name__ == "__main__":
    main()
