"""Drawn images on their way to clients, which may take their time to read them: all of them together are bounded."""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from onestage.serving.limits import Limits, busy

PNG = "image/png"


class DrawnImages:
    """Answers with drawn images, within one bound for those that are not read yet."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.unread_bytes = 0

    def check_room(self) -> None:
        """503 where the answer would likely have no room, before the work is done for it."""
        if 2 * self.unread_bytes > self._limits.all_drawn_bytes:
            raise _no_room()

    def answer(self, png: bytes, headers: Mapping[str, str]) -> Response:
        """The answer with an image. One is always taken, however large; it is a 503 where others leave no room."""
        if self.unread_bytes and self.unread_bytes + len(png) > self._limits.all_drawn_bytes:
            raise _no_room()
        return _DrawnImage(self, png, headers)


def _no_room() -> HTTPException:
    return busy("too many drawn images are waiting to be read")


class _DrawnImage(Response):
    media_type = PNG

    def __init__(self, all_of_them: DrawnImages, png: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(png, headers=dict(headers))
        self._all, self._bytes = all_of_them, len(png)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._all.unread_bytes += self._bytes
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            body: dict[str, Any] = {"type": "http.response.body", "body": self.body, "more_body": True}
            self.body = b""
            await send(body)
            body.clear()
            await send({"type": "http.response.body"})  # which waits until the client has taken what came before
        finally:
            self._all.unread_bytes -= self._bytes
