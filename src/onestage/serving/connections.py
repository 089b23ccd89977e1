"""The HTTP server under the application: uvicorn with h11, and a deadline wherever a client is waited for.

h11 takes a request in small parts, bounds each of them (head, chunk header, trailers), and reads on when the answer to
the request before is out. uvicorn itself waits without limit for a request, and for a client that reads no answer.
"""

import asyncio
import contextlib
import os
import socket
import sys
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from onestage.compute.memory import share_freed_memory
from onestage.serving.limits import REFUSAL_SECONDS, Limits

KEEP_ALIVE_SECONDS = 20  # a connection may stay idle so long between two requests
SHUTDOWN_SECONDS = 10.0  # requests that are being answered have so long when the server is stopped
MAX_HEAD_BYTES = 1 << 15  # of a request's line and headers, of a chunk's header, of the headers behind the body
MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES = 256, 64  # of a body; each costs as much as a thousand bytes
HELD_BYTES = 1 << 12  # of a body; smaller parts are parsed together: each costs as much as ten thousand bytes
SYSTEM_BUFFER_BYTES = 1 << 17  # of an answer; the system tells of room when a third of its buffer has been read
LEAST_READ_BYTES = 1 << 16  # of an answer, at each look at it
PIPELINE_SECONDS = 0.1  # between an answer and a request that came before it
MAX_OPEN_FILES = 65_536
# A network gives up the interpreter at each of its operations, and waits so long (5 ms by Python's default) for it
# where requests keep another thread busy.
SWITCH_SECONDS = 0.0005


def run(app: FastAPI, listening: socket.socket) -> None:
    """Answer requests at an open socket until Ctrl-C or SIGTERM.

    Requests that have begun are answered first, for SHUTDOWN_SECONDS at most: then, or at a second signal, the process
    ends at once, with status 0.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # of open files: each connection is one
        wanted = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MAX_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    share_freed_memory()
    sys.setswitchinterval(SWITCH_SECONDS)
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
    )
    return StoppableServer(config)


class StoppableServer(uvicorn.Server):
    """Ends by signals with status 0, in time, and whatever its threads do.

    A decoder or a network can't be interrupted, and an interpreter waits for its threads before it ends, so a process
    that is late is not ended by the interpreter.
    """

    _signalled = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets the requests that have begun come to their end; the second is the end."""
        if self._signalled:
            os._exit(0)
        self._signalled = self.should_exit = True  # uvicorn would raise the signal again afterwards

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the requests that have begun, then for the application's threads."""
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await super().shutdown(sockets)
        except TimeoutError:
            if self._signalled:
                os._exit(0)
            raise


class CountedConnection(h11.Connection):
    """h11's parser, which refuses a body in too many small chunks: while it reads them nobody is served.

    Attributes:
        missing: bytes of a body of known length that are still to come.
    """

    missing = _chunks = _bytes = 0

    def next_event(self) -> Any:  # an h11.Event, or one of its marks
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            headers = dict(event.headers)
            self.missing = 0 if b"transfer-encoding" in headers else int(headers.get(b"content-length", 0))
        elif isinstance(event, h11.Data):
            self._chunks, self._bytes = self._chunks + 1, self._bytes + len(event.data)
            self.missing -= len(event.data)
            if self._chunks > MAX_SMALL_CHUNKS + self._bytes // SMALL_CHUNK_BYTES:
                raise h11.RemoteProtocolError("too many small chunks")
        return event


class DeadlineProtocol(H11Protocol):
    """A connection, closed where its client does not send the rest of a request, or does not read its answer, in time.

    The application itself answers a slow body with 408; this is for heads, and for what is sent after an answer.
    """

    seconds = 1.5 * Limits().body_seconds  # for a head, and then for its body
    unread_seconds = 10.0  # between two looks at how much of an answer has been read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.conn = CountedConnection(h11.SERVER, MAX_HEAD_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BUFFER_BYTES)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` tells of every answer that waits
        self._half_closed = self._refused = self._answered = False
        self._held = b""
        self._request_timer = self.loop.call_later(self.seconds, transport.close)
        self._answer_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        data, self._held = self._held + data, b""
        if len(data) < min(HELD_BYTES, self.conn.missing):
            self._held = data
            return
        before = self.cycle, self.conn.their_state
        super().data_received(data)
        if before != (self.cycle, self.conn.their_state):  # a head or a body is whole
            self._request_timer.cancel()
        if self._request_timer.cancelled() and self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._request_timer = self.loop.call_later(self.seconds, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and close the connection, after a moment: who sends it comes again at once."""
        self._refused = True
        self.transport.pause_reading()
        self.loop.call_later(REFUSAL_SECONDS, self._refuse, msg)

    def _refuse(self, msg: str) -> None:
        with contextlib.suppress(h11.LocalProtocolError):  # an answer has begun, so there is no room for another
            super().send_400_response(msg)
        self.transport.close()

    def eof_received(self) -> bool:
        """A client that has closed its side gets the answer to a request that is whole."""
        self._half_closed = self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)
        return self._half_closed  # else the connection is closed

    def handle_events(self) -> None:
        """Read on; after an answer, what the client has sent before it came waits for others to have their turn."""
        if self._answered and self.conn.trailing_data[0]:
            self.flow.pause_reading()
            self.loop.call_later(PIPELINE_SECONDS, self._handle_next)
        else:
            super().handle_events()

    def _handle_next(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()
            super().handle_events()
            self._close_if_done()

    def on_response_complete(self) -> None:
        self._answered = True
        super().on_response_complete()
        self._answered = False
        if not self.conn.trailing_data[0]:
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._half_closed and self.cycle.response_complete:  # no other request was waiting
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again_at_answer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_answer_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_timer.cancel()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def _look_again_at_answer(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._answer_timer = self.loop.call_later(self.unread_seconds, self._look_at_answer, unread)

    def _look_at_answer(self, unread_before: int) -> None:
        if unread_before - self.transport.get_write_buffer_size() < LEAST_READ_BYTES:
            self.transport.abort()
        else:
            self._look_again_at_answer()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
