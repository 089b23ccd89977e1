"""The HTTP server under the application: uvicorn, with deadlines for slow clients.

uvicorn itself waits without limit for the head of a request, of any length: clients that send a byte a second could
hold connections for ever. Here a request must be whole in time, and its head short, or its connection is closed.
"""

import asyncio
import contextlib
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onestage.serving.limits import Limits

KEEP_ALIVE_SECONDS = 20  # a connection may stay idle so long between two requests
SHUTDOWN_SECONDS = 10  # requests that are being answered have so long when the server is stopped
MAX_HEAD_BYTES = 1 << 19  # of a request's line and headers, with whatever came in one piece before them
MAX_OPEN_FILES = 65_536


def run(app: FastAPI, listening: socket.socket) -> None:
    """Answer requests at an open socket until Ctrl-C or SIGTERM; requests that have begun are answered first."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # of open files: each connection is one
        wanted = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MAX_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    with contextlib.suppress(KeyboardInterrupt):
        http_server(app).run(sockets=[listening])


def http_server(app: FastAPI) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` answers requests until its `should_exit` is set or a signal comes."""
    config = uvicorn.Config(
        app,
        http=DeadlineProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


class DeadlineProtocol(HttpToolsProtocol):
    """Closes a connection whose request is not whole in time, or whose head is too long.

    This is for heads, and for what is still sent after an answer: the application itself answers a slow body with 408.
    """

    seconds = 1.5 * Limits().body_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._in_head, self._head_bytes = True, 0
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(self.seconds, self._hang_up)

    def data_received(self, data: bytes) -> None:
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._timer = self.loop.call_later(self.seconds, self._hang_up)
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._hang_up()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        self._timer = None
        self.transport.close()
