"""The images in a request's body: one as it is, or several as multipart/form-data (RFC 7578).

Bytes are counted as they come, before anything is parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header
from starlette.requests import Request

from onestage.serving.limits import Limits, RefusedError, busy

CLOSE = {"Connection": "close"}  # what is left of the body is not worth reading
MULTIPART = b"multipart/form-data"
MAX_PARTS_BESIDE_IMAGES = 8  # of a form
MAX_NAME = 200  # characters of a file's name


@dataclass(frozen=True)
class Upload:
    """An encoded image and what its client calls it."""

    name: str
    content: bytes


class BodyReader:
    """Reads the bodies of all requests, within one bound for all of them together.

    Attributes:
        held: bytes of the requests that are being read or answered.
    """

    def __init__(self, limits: Limits) -> None:
        self.held = 0
        self._limits = limits

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """A request's body, counted until the end of `with`.

        Raises:
            RefusedError: too large, too slow, or there is no room for it now.
        """
        chunks: list[bytes] = []
        try:
            await self._receive(request, chunks)
            yield b"".join(chunks)
        finally:
            self.held -= sum(map(len, chunks))

    async def _receive(self, request: Request, chunks: list[bytes]) -> None:
        said, size = _said_length(request), 0
        if said is not None and said > self._limits.body_bytes:
            raise self._too_large(f"{said:,} bytes", {} if said < 4 * self._limits.body_bytes else CLOSE)
        seconds = self._limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size, self.held = size + len(chunk), self.held + len(chunk)
                    if size > self._limits.body_bytes:
                        raise self._too_large("the body", CLOSE)
                    if self.held > self._limits.all_bodies_bytes:
                        raise busy("too much is being uploaded at this moment")
        except TimeoutError as error:
            raise RefusedError(408, f"the body took longer than {seconds:g} seconds; send it faster", CLOSE) from error

    def _too_large(self, what: str, headers: dict[str, str]) -> RefusedError:
        limit = self._limits.body_bytes
        return RefusedError(413, f"{what}: more than the {limit:,} bytes that a request may have", headers)


def uploads(content_type: str, body: bytes, limits: Limits) -> list[Upload]:
    """The images of a body.

    Raises:
        RefusedError: none, too many, or no form that can be read.
    """
    kind, options = parse_options_header(content_type)
    found = _files_of_form(options.get(b"boundary", b""), body, limits) if kind == MULTIPART else [Upload("", body)]
    if not any(upload.content for upload in found):
        raise RefusedError(400, "the request holds no image; send one as the body, or some as multipart/form-data")
    return found


def _files_of_form(boundary: bytes, body: bytes, limits: Limits) -> list[Upload]:
    if not boundary:
        raise RefusedError(400, "multipart/form-data without a boundary; let your client set the content type")
    files: list[Upload] = []
    fields = 0

    def on_file(file: Any) -> None:
        if len(files) == limits.images:
            raise RefusedError(413, f"more than {limits.images} images; send them in several requests")
        file.file_object.seek(0)
        name = (file.file_name or b"").decode("utf-8", "replace")[:MAX_NAME]
        files.append(Upload(name, file.file_object.read()))
        file.close()

    def on_field(_field: Any) -> None:
        nonlocal fields
        fields += 1
        if fields > MAX_PARTS_BESIDE_IMAGES:
            raise RefusedError(413, f"a form with more than {MAX_PARTS_BESIDE_IMAGES} fields beside its images")

    ended: list[bool] = []
    try:
        parser = FormParser(
            MULTIPART.decode(),
            on_field,
            on_file,
            on_end=lambda: ended.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": limits.body_bytes},  # nothing goes to a disk
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, f"the form can't be read ({error})") from error
    if not ended:
        raise RefusedError(400, "the form is cut off: its last boundary is missing")
    return files


def _said_length(request: Request) -> int | None:
    said = request.headers.get("content-length", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else None
