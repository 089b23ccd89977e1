"""Images and streams from a server on this machine."""

from __future__ import annotations

import io
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from red_box import CATEGORIES, RedBoxDetector, red_box

from onestage.errors import UserError
from onestage.inference.predictor import Predictor
from onestage.inference.sources import fetch_image, open_sources, open_video
from onestage.inference.video import VideoReader
from onestage.runtime.decode import ImageError

BOX = (20, 30, 80, 90)
STREAMED = 25


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(red_box(100, 100, BOX)).save(file, format=kind)
    return file.getvalue()


class Answers(BaseHTTPRequestHandler):
    """An image, a camera's motion JPEG, or 404."""

    def do_GET(self) -> None:
        if self.path == "/snapshot":
            self._head("image/png", len(encoded("PNG")))
            self.wfile.write(encoded("PNG"))
        elif self.path == "/live":
            self._head("multipart/x-mixed-replace; boundary=frame", None)
            for _ in range(STREAMED):
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + encoded("JPEG") + b"\r\n")
            self.wfile.write(b"--frame--\r\n")
        else:
            self.send_error(404)

    def _head(self, kind: str, length: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(RedBoxDetector(), CATEGORIES, device="cpu", precision="fp32")


def test_an_image_is_fetched(server: str, predictor: Predictor) -> None:
    (source,) = open_sources([f"{server}/snapshot"])
    assert source.output_name == "snapshot.png"
    found = predictor(f"{server}/snapshot")
    np.testing.assert_allclose(found.boxes_xyxy[0].numpy(), BOX, atol=0.01)


def test_a_cameras_motion_jpeg_is_a_stream(server: str, predictor: Predictor) -> None:
    predictions = list(predictor.predict_video(f"{server}/live"))
    assert 1 <= len(predictions) <= STREAMED  # frames that come while the network works are dropped
    for one in predictions:
        np.testing.assert_allclose(one.found.boxes_xyxy[0].numpy(), BOX, atol=2.0)


def test_frames_of_a_motion_jpeg_are_at_the_times_when_they_come(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no times, and 25 frames a second would be made up: a track would be kept for frames, not for a second."""
    clock = itertools.count(5.0, 0.4)
    monkeypatch.setattr("onestage.inference.video.monotonic", lambda: next(clock))
    frames = list(VideoReader(open_video(f"{server}/live"), report=lambda line: None).frames())
    assert [frame.index for frame in frames] == list(range(STREAMED))
    np.testing.assert_allclose(np.diff([float(frame.time) for frame in frames]), 0.4)


def test_what_is_not_there_is_named(server: str, predictor: Predictor) -> None:
    with pytest.raises(ImageError, match=r"/gone\.jpg: the server answers 404"):
        predictor(f"{server}/gone.jpg")
    (file,) = predictor.predict_files([f"{server}/gone.jpg"])
    assert isinstance(file.outcome, ImageError)
    with pytest.raises(UserError, match="/gone: the server answers 404"):
        open_sources([f"{server}/gone"])


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ImageError, match=r"127.0.0.1:9/a.jpg: no answer"):
        fetch_image("http://127.0.0.1:9/a.jpg")


@pytest.fixture
def slow() -> Iterator[str]:
    """A server that answers the first bytes of its path's name, and then a byte every 50 ms, without end."""
    over = threading.Event()

    def drip(client: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\n" if b"/head" in client.recv(1 << 16) else b"HTTP/1.1 200 OK\r\n\r\n"
        try:
            client.sendall(head)
            while not over.wait(0.05):
                client.sendall(b"x")
        except OSError:
            pass
        client.close()

    def serve() -> None:
        while not over.is_set():
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(client,)).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        over.set()
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("path", ["/head.jpg", "/body.jpg"])
def test_predict_http_drip_has_an_end(slow: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onestage.inference.sources.SECONDS_TO_ANSWER", 0.6)
    begun = time.monotonic()
    with pytest.raises(ImageError, match=rf"{path}: no answer \(only [\d,]+ bytes came in 1 s\)"):
        fetch_image(f"{slow}{path}")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("302 Found\r\nLocation: ftp://127.0.0.1:9/a.jpg", "a.jpg: "),
        ("302 Found\r\nLocation: http://127.0.0.1:99999/a.jpg", "a.jpg: "),
        ("404 \x1b[31mRED\x1b[0m", "a.jpg: the server answers 404 Not Found"),
        ("799 \x1b[31mRED\x1b[0m", "a.jpg: the server answers 799$"),
        ("\x1b[31mRED", "a.jpg: no answer"),
    ],
)
def test_predict_http_to_ftp_and_escapes_are_a_plain_line(
    answer: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.FTPHandler.ftp_open", lambda *_: pytest.fail("opened by ftp"))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            client.recv(1 << 16)
            client.sendall(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
            client.close()

        threading.Thread(target=serve).start()
        with pytest.raises(ImageError, match=message) as refused:
            fetch_image(f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg")
    assert str(refused.value).isprintable()


def test_a_file_too_large_for_an_image_is_refused(server: str) -> None:
    with pytest.raises(ImageError, match="more than the 100 bytes allowed"):
        fetch_image(f"{server}/snapshot", max_bytes=100)


def test_only_the_web_is_fetched_from() -> None:
    with pytest.raises(ImageError, match="begin with http"):
        fetch_image("file:///etc/passwd")
