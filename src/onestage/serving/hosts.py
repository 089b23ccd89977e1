"""Refuses requests that a stranger's page sends from the user's own browser.

Such a page can send requests to 127.0.0.1, and read the answers under a name of its own that it points there (DNS
rebinding). Its requests name it, in `Host` or in `Origin`.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class HostCheck:
    """ASGI middleware: the host that a request names is one of ours, and so is the page that it comes from."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str] | None) -> None:
        """`allowed_hosts` are names and addresses without ports, "*" or None any.

        A page may come from under the host that its request names, or from one that is allowed: a proxy may have
        changed the former. This machine's names alone don't say which of its servers a page comes from.
        """
        self._app = app
        self._hosts = {_name(_in_brackets(host)) for host in allowed_hosts or ("*",)}
        self._origins = self._hosts - set(THIS_MACHINE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(Headers(scope=scope)) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await JSONResponse({"error": problem}, 403)(scope, receive, send)

    def _problem(self, headers: Headers) -> str | None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if "*" not in self._hosts and _name(host) not in self._hosts:
            return f"Host {host[:100]!r}: not a name of this server; `onestage serve --allowed-hosts NAME` adds one"
        if origin is not None:
            place = origin.lower().partition("://")[2]  # empty for "null", the origin of files and sandboxes
            if place != host and _name(place) not in self._origins - {""}:
                return f"Origin {origin[:100]!r}: this server answers to pages of its own only"
        return None


def _name(host: str) -> str:
    """The name or address in HOST or HOST:PORT; empty where there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _in_brackets(host: str) -> str:
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
