"""Images at web addresses that the user named. A server never fetches an address for its clients."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import cast

from onestage.errors import UserError
from onestage.runtime.decode import MAX_FILE_BYTES, ImageError

SECONDS_TO_ANSWER = 15.0


def content_type(address: str) -> str:
    """What the server says there is, as `image/jpeg`; nothing beyond the head of its answer is read.

    Raises:
        UserError: it doesn't answer, or has no such thing.
    """
    try:
        with _answer(address) as answer:
            return answer.headers.get_content_type()
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{address}: {_reason(error)}") from error


def fetch_image(address: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of the image at an http or https address.

    Raises:
        ImageError: the server doesn't answer, has no such thing, or the image is too large.
    """
    try:
        with _answer(address) as answer:
            data = answer.read(max_bytes + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise ImageError(f"{address}: {_reason(error)}") from error
    if len(data) > max_bytes:
        raise ImageError(f"{address}: more than the {max_bytes:,} bytes allowed for an image")
    return data


def is_address(text: str) -> bool:
    """Whether it names an image on the web and not a file."""
    return text.lower().startswith(("http://", "https://"))


def _answer(address: str) -> HTTPResponse:
    if not is_address(address):
        raise ValueError("addresses of images begin with http:// or https://")
    request = urllib.request.Request(address, headers={"User-Agent": "onestage"})
    return cast(HTTPResponse, urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER))


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
        return f"the server answers {error.code} {error.reason}"
    reason = getattr(error, "reason", error)
    return f"no answer ({getattr(reason, 'strerror', None) or reason})"
