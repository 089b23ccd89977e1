"""Case `forms`: spoilt forms and images, sent to `onestage serve`, each of which must get an answer, soon.

    python benchmarks/reliability/fuzzed_forms.py --forms 2000

A form of one to four images of all formats is made and spoilt: bytes changed, cut or doubled, other boundaries, odd
headers, with a length or in chunks. The server must answer each by 200 or a 4xx with one line, in little memory, print
next to nothing (decoders have a line for some damage), and find what it found before in a good image afterwards.
Linux only.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from onestage.data.generated import KINDS, draw_image
from onestage.detectors import build
from onestage.models.model_file import save_model
from onestage.structures import Categories

FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000")
BOUNDARIES = ("x", "-" * 60, "a b", "é", "'", "0" * 200)
DISPOSITIONS = ('form-data; name="a"; filename="a.png"', "form-data", "attachment", "", "form-data; name")
CONTENT_TYPES = (
    *("multipart/form-data; boundary={}", 'multipart/form-data;boundary="{}"', "multipart/form-data"),
    *("image/png", "multipart/mixed; boundary=x"),
)
MOST_SECONDS, MOST_GROWTH_MB = 5.0, 300.0


@dataclass(frozen=True)
class Options:
    """How many, and which."""

    forms: int = 2_000
    seed: int = 0


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]
    said: Path

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024

    def answer(self, body: bytes, headers: dict[str, str], *, chunked: bool = False) -> tuple[int, bytes]:
        """Status and body; (0, b"") where the connection was closed without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
            content = pieces if chunked else body
            connection.request("POST", "/v1/detect", content, headers, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()


def started(folder: Path) -> Server:
    torch.manual_seed(0)
    save_model(
        folder / "model.safetensors", build("ssd300-test_efficientnet", len(KINDS)), Categories.from_names(KINDS)
    )
    command = [sys.executable, "-m", "onestage", "serve", str(folder / "model.safetensors"), "--port", "0"]
    said = folder / "stderr"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    assert process.stdout is not None
    found = re.search(rb":(\d+)/", process.stdout.readline())
    assert found is not None, "the server did not start"
    return Server(int(found[1]), process, said)


def images() -> list[bytes]:
    """A drawn image in each format."""
    files = []
    for kind in FORMATS:
        file = io.BytesIO()
        Image.fromarray(draw_image(np.random.default_rng(0), 120).image).save(file, format=kind)
        files.append(file.getvalue())
    return files


def spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, cut out, or doubled."""
    changed = bytearray(data)
    for _ in range(rng.integers(0, 6)):
        where, length = int(rng.integers(0, len(changed) + 1)), int(rng.integers(0, 40))
        kind = rng.integers(3)
        if kind == 0:
            changed[where : where + length] = rng.bytes(length)
        elif kind == 1:
            del changed[where : where + length]
        else:
            changed[where:where] = changed[where : where + length]
    return bytes(changed)


def form(files: list[bytes], rng: np.random.Generator) -> tuple[bytes, dict[str, str]]:
    boundary, disposition = str(rng.choice(BOUNDARIES)), str(rng.choice(DISPOSITIONS))
    parts = b""
    for number in rng.integers(0, len(files), rng.integers(1, 5)):
        content = spoilt(files[number], rng) if rng.random() < 0.7 else files[number]
        parts += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    body = parts + f"--{boundary}--\r\n".encode()
    content_type = str(rng.choice(CONTENT_TYPES)).format(boundary)
    headers = {"Content-Type": content_type.encode().decode("latin-1")}
    if rng.random() < 0.2:
        headers["Accept"] = "image/png"
    return (spoilt(body, rng) if rng.random() < 0.6 else body), headers


def main(options: Options) -> None:
    rng, files = np.random.default_rng(options.seed), images()
    statuses: Counter[int] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        server = started(Path(folder))
        try:
            good = server.answer(files[0], {})
            before = server.peak_mb()
            for number in range(options.forms):
                body, headers = form(files, rng)
                begun = time.perf_counter()
                status, content = server.answer(body, headers, chunked=bool(rng.integers(2)))
                slowest = max(slowest, time.perf_counter() - begun)
                statuses[status] += 1
                if status not in (200, 400, 413, 422):
                    raise SystemExit(f"form {number}: status {status}, {content[:200]!r}")
                if status != 200 and "\n" in json.loads(content)["error"]:
                    raise SystemExit(f"form {number}: more than a line: {content[:200]!r}")
            grown, said = server.peak_mb() - before, server.said.read_bytes()
            if server.answer(files[0], {}) != good:
                raise SystemExit("a good image is answered in another way than before")
        finally:
            server.process.terminate()
            code = server.process.wait(30)
    print(
        f"{options.forms:,} forms: statuses {dict(sorted(statuses.items()))}, the slowest {slowest:.2f} s, "
        f"+{grown:.0f} MB at the peak, {len(said):,} bytes on stderr, exit status {code}"
    )
    if slowest > MOST_SECONDS or grown > MOST_GROWTH_MB or code:
        raise SystemExit(1)


if __name__ == "__main__":
    main(tyro.cli(Options))
