"""Object storage on this machine: as much of the S3 protocol as pyarrow needs, with the objects in a dictionary."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class ObjectStore(ThreadingHTTPServer):
    """A server of objects, which are in `objects` by `bucket/key`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}

    def uri(self, path: str) -> str:
        """The address of `bucket/key` as a user types it."""
        return f"s3://KEY:SECRET@{path}?scheme=http&region=here&endpoint_override=127.0.0.1:{self.server_port}"


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A server, while in `with`."""
    with ObjectStore() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, query = self._asked()
        bucket, _, key = path.partition("/")
        if not key and self.command == "GET":
            self._list(bucket, query)
        elif not key:
            self._answer(200 if any(name.startswith(f"{bucket}/") for name in self.server.objects) else 404)
        elif path not in self.server.objects:
            self._answer(404)
        else:
            content = self.server.objects[path]
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked:
                content = content[int(asked[1]) : int(asked[2]) + 1]
            self._answer(206 if asked else 200, content)

    def do_PUT(self) -> None:
        path, query = self._asked()
        if "partNumber" in query:
            self.server.parts[query["uploadId"]][int(query["partNumber"])] = self._body()
        else:
            self.server.objects[path] = self._body()
        self._answer(200, headers={"ETag": '"x"'})

    def do_POST(self) -> None:
        path, query = self._asked()
        self._body()
        if "uploads" in query:
            self.server.parts[path] = {}
            self._answer(
                200, f"<InitiateMultipartUploadResult><UploadId>{path}</UploadId></InitiateMultipartUploadResult>"
            )
        elif "uploadId" in query:
            parts = self.server.parts.pop(query["uploadId"])
            self.server.objects[path] = b"".join(parts[number] for number in sorted(parts))
            self._answer(200, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
        else:
            self._answer(501)

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._asked()[0], None)
        self._answer(204)

    def _asked(self) -> tuple[str, dict[str, str]]:
        address = urlsplit(self.path)
        query = parse_qs(address.query, keep_blank_values=True)
        return unquote(address.path).lstrip("/"), {name: values[0] for name, values in query.items()}

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = _chunks(self.rfile)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return _chunks(io.BytesIO(body)) if "aws-chunked" in self.headers.get("Content-Encoding", "") else body

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys, folders = [], set()
        for name in sorted(self.server.objects):
            inside, _, key = name.partition("/")
            if inside != bucket or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                keys.append(key)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key in keys[: int(query.get("max-keys", 1000))]
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        )
        count = f"<KeyCount>{len(keys) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._answer(200, f"<ListBucketResult>{count}{contents}{common}</ListBucketResult>")

    def _answer(self, status: int, content: bytes | str = b"", headers: dict[str, str] | None = None) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _chunks(body: IO[bytes]) -> bytes:
    """The content of a chunked body: each chunk follows its length; the trailer is passed over."""
    content = []
    while length := int(body.readline().partition(b";")[0], 16):
        content.append(body.read(length))
        body.readline()
    while body.readline().strip():
        pass
    return b"".join(content)
