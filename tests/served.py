"""The server in this process, and requests to it."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from fastapi import FastAPI
from PIL import Image
from red_box import red_box

from onestage.serving.connections import http_server

SECONDS_TO_START = 30.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in small letters
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def running(app: FastAPI) -> Iterator[int]:
    """The port at which the application answers, inside of `with`."""
    server = http_server(app)
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        give_up = time.monotonic() + SECONDS_TO_START
        while not server.started and time.monotonic() < give_up:
            time.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=SECONDS_TO_START)
            assert not thread.is_alive()


def ask(
    port: int,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    method: str | None = None,
    timeout: float = 30.0,
) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def form(
    images: Mapping[str, bytes], field: str = "images", boundary: str = "b0undary"
) -> tuple[bytes, dict[str, str]]:
    """A multipart body (RFC 7578, written by hand) and its content type."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'.encode()
        + b"Content-Type: application/octet-stream\r\n\r\n"
        + content
        + b"\r\n"
        for name, content in images.items()
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def png(image: np.ndarray, **more: Any) -> bytes:
    """An image as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", **more)
    return file.getvalue()


def red_png(box_xyxy: tuple[int, int, int, int], size: int = 100) -> bytes:
    """An image in which the red-box detector finds exactly that box."""
    return png(red_box(size, size, box_xyxy))
