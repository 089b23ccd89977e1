"""The images in a request's body: the body is one image, or a form with several (multipart/form-data, RFC 7578).

Bytes are counted as they come, before anything is parsed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from onestage.serving.limits import Limits, busy

CLOSE = {"Connection": "close"}  # the rest of the body is not worth reading
MULTIPART = b"multipart/form-data"
MAX_FIELDS_BESIDE_IMAGES = 8
MAX_NAME = 200  # characters of a file's name

# It warns of each form that can't be read, on stderr where nobody logs: strangers would fill a disk.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


class Upload(NamedTuple):
    """An encoded image, and its file name in the form."""

    name: str
    content: bytes


class BodyReader:
    """Reads the bodies of all requests, within one bound for all of them together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0  # bytes of the requests that are being read or answered
        self._parsing = asyncio.Lock()

    @asynccontextmanager
    async def images(self, request: Request) -> AsyncIterator[list[Upload]]:
        """The images of a request, whose bytes count until the end of `with`.

        Raises:
            HTTPException: the body is too large or too slow, or there is no room for it now; as `uploads`.
        """
        received = bytearray()  # one block that grows: thousands of small ones would leave holes in the memory
        size = 0
        try:
            await self._receive(request, received)
            size, body = len(received), bytes(received)
            received.clear()
            images = await self._uploads(request.headers.get("content-type", ""), body)
            del body
            yield images
        finally:
            self._held -= size or len(received)

    async def _uploads(self, content_type: str, body: bytes) -> list[Upload]:
        if parse_options_header(content_type)[0] != MULTIPART:
            return uploads(content_type, body, self._limits)
        async with self._parsing:  # one form at a time: its parts are copied
            return await run_in_threadpool(uploads, content_type, body, self._limits)

    async def _receive(self, request: Request, received: bytearray) -> None:
        limits = self._limits
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and len(announced) < 20 and int(announced) > limits.body_bytes:
            headers = CLOSE if int(announced) >= 4 * limits.body_bytes else {}
            raise self._too_large(f"{int(announced):,} bytes", headers)
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    received += chunk
                    self._held += len(chunk)
                    if len(received) > limits.body_bytes:
                        raise self._too_large("the body", CLOSE)
                    if self._held > limits.all_bodies_bytes:
                        raise busy("too much is being uploaded at this moment")
        except TimeoutError as error:
            message = f"the body took longer than {limits.body_seconds:g} seconds; send it faster"
            raise HTTPException(408, message, CLOSE) from error

    def _too_large(self, what: str, headers: dict[str, str]) -> HTTPException:
        limit = self._limits.body_bytes
        return HTTPException(413, f"{what}: more than the {limit:,} bytes that a request may have", headers)


def uploads(content_type: str, body: bytes, limits: Limits) -> list[Upload]:
    """The images of a body.

    Raises:
        HTTPException: no image, too many, or a form that can't be read.
    """
    kind, options = parse_options_header(content_type)
    found = _files_of_form(options.get(b"boundary", b""), body, limits) if kind == MULTIPART else [Upload("", body)]
    if not any(upload.content for upload in found):
        raise HTTPException(400, "the request holds no image; send one as the body, or some as multipart/form-data")
    return found


def _files_of_form(boundary: bytes, body: bytes, limits: Limits) -> list[Upload]:
    if not boundary:
        raise HTTPException(400, "multipart/form-data without a boundary; let your client set the content type")
    files: list[Upload] = []
    fields: list[None] = []
    ended: list[bool] = []

    def on_file(file: Any) -> None:
        if len(files) == limits.images:
            raise HTTPException(413, f"more than {limits.images} images; send them in several requests")
        name = (file.file_name or b"").decode("utf-8", "replace")[:MAX_NAME]
        files.append(Upload(name, file.file_object.getvalue()))  # in memory, see below
        file.close()

    def on_field(_field: Any) -> None:
        fields.append(None)
        if len(fields) > MAX_FIELDS_BESIDE_IMAGES:
            raise HTTPException(413, f"a form with more than {MAX_FIELDS_BESIDE_IMAGES} fields beside its images")

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
        raise HTTPException(400, f"the form can't be read ({error})") from error
    if not ended:
        raise HTTPException(400, "the form is cut off: its last boundary is missing")
    return files
