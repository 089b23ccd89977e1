"""Fetches images from web addresses that the user named. `onestage serve` never does so for its clients."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from typing import cast

from onestage.errors import UserError
from onestage.runtime.decode import MAX_FILE_BYTES, ImageError

SECONDS_TO_ANSWER = 15.0


def content_type(address: str) -> str:
    """The type of what is at an address, as `image/jpeg`; only the head of the server's answer is read.

    Raises:
        UserError: the server doesn't answer, or has nothing at the address.
    """
    try:
        with _answer(address) as answer:
            return answer.headers.get_content_type()
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(f"{address}: {_reason(error)}") from error


def fetch_image(address: str, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of the image at an http or https address.

    Raises:
        ImageError: the server doesn't answer, has nothing at the address, or the image is too large.
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
    """True for an address on the web, False for a file's name."""
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
