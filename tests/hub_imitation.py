"""A hub on this machine: as much of Hugging Face's protocol as its client needs to push and to fetch models."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

TOKEN = "hf_of_the_owner"
LARGE = (".safetensors", ".jpg")  # files that are kept by their SHA-256


@dataclass
class Repository:
    """Its commits, the oldest first, with all of their files."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"commit {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        return oid

    def resolved(self, revision: str) -> str | None:
        return list(self.commits)[-1] if revision == "main" else revision if revision in self.commits else None


class Hub(ThreadingHTTPServer):
    """A server of repositories, which are in `repositories` by USER/NAME; only the user `me` may write, with TOKEN."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []  # requests
        self.damaged = False  # whether the last byte of files changes on its way
        self.address = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def local_hub(cache: Path) -> Iterator[Hub]:
    """The hub of this process while in `with`, without a login; the client's cache is in a folder of its own."""
    with Hub() as server, pytest.MonkeyPatch.context() as patch:
        url = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        constants = {"ENDPOINT": server.address, "HUGGINGFACE_CO_URL_TEMPLATE": url, "HF_HUB_CACHE": str(cache)}
        constants |= {"HF_HUB_OFFLINE": False, "HF_TOKEN_PATH": str(cache / "no-login")}
        constants |= {"HF_HUB_DISABLE_XET": True}  # its own protocol, by a library in Rust
        set_constants(patch, **constants)
        patch.delenv("HF_TOKEN", raising=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        if hasattr(huggingface_hub, "close_session"):  # releases since 1.0
            huggingface_hub.close_session()


def set_constants(patch: pytest.MonkeyPatch, **constants: object) -> None:
    """Set what the client reads from the environment when it is imported; older releases copy it into many modules."""
    for module in [module for name, module in sys.modules.items() if name.startswith("huggingface_hub")]:
        for name in constants.keys() & vars(module).keys():
            patch.setattr(module, name, constants[name])


class _Requests(BaseHTTPRequestHandler):
    server: Any

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self._parts()
        if parts[:2] == ["api", "models"]:
            repository = self._readable("/".join(parts[2:4]))
            if repository is not None:
                head = repository.resolved("main")
                files = [{"rfilename": name} for name in repository.commits.get(head or "", {})]
                about = {"id": "/".join(parts[2:4]), "sha": head, "private": repository.private, "siblings": files}
                self._answer(200, about)
            return
        repository = self._readable("/".join(parts[:2]))
        if repository is not None:
            self._file(repository, parts[3], "/".join(parts[4:]))

    def do_PUT(self) -> None:
        self.server.uploads[self._parts()[-1]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        parts, body = self._parts(), self._body()
        if parts[1] == "validate-yaml":
            self._answer(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif parts[1:] == ["repos", "create"]:
            self._create(json.loads(body))
        elif "preupload" in parts:
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False} for one in files]
            self._answer(200, {"files": modes})
        elif parts[-1] == "batch":
            objects = json.loads(body)["objects"]
            where = f"{self.server.address}/uploads"
            actions = [{**one, "actions": {"upload": {"href": f"{where}/{one['oid']}"}}} for one in objects]
            self._answer(200, {"transfer": "basic", "objects": actions})
        else:
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in body.splitlines()])

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.address}/{name}"}
        if asked["organization"] != "me":
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif name in self.server.repositories:
            self._answer(409, url)
        else:
            private = asked.get("private", asked.get("visibility") == "private")
            self.server.repositories[name] = Repository(private)
            self.server.repositories[name].commit({".gitattributes": b""})
            self._answer(200, url)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.server.repositories[name]
        files = dict(repository.commits[repository.resolved("main")])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.server.uploads[value["oid"]]
                assert (hashlib.sha256(content).hexdigest(), len(content)) == (value["oid"], value["size"])
                files[value["path"]] = content
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files)
        self._answer(200, {"commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"})

    def _readable(self, name: str) -> Repository | None:
        """The repository, or an answer that there is none; who has no login is told to log in, as Hugging Face does."""
        repository = self.server.repositories.get(name)
        logged_in = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is not None and (logged_in or not repository.private):
            return repository
        if logged_in:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer(401, {"error": "Invalid username or password."})
        return None

    def _file(self, repository: Repository, revision: str, name: str) -> None:
        oid = repository.resolved(revision)
        if oid is None:
            self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        elif name not in repository.commits[oid]:
            self._answer(404, {}, {"X-Error-Code": "EntryNotFound"})
        else:
            content = repository.commits[oid][name]
            etag = (
                hashlib.sha256(content) if _mode(name) == "lfs" else hashlib.sha1(b"blob %d\0" % len(content) + content)
            )
            content = content[:-1] + b"x" if self.server.damaged else content
            self._answer(200, content, {"X-Repo-Commit": oid, "ETag": f'"{etag.hexdigest()}"'})

    def _parts(self) -> list[str]:
        self.server.asked.append(f"{self.command} {self.path}")
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(content, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _mode(name: str) -> str:
    return "lfs" if name.endswith(LARGE) else "regular"
