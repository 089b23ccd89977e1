"""Models on a hub: Hugging Face's, or another with its protocol (the environment variable HF_ENDPOINT).

A name is `hf://USER/NAME`, or with a branch, a tag or a commit `hf://USER/NAME@REVISION`. Files are kept in the cache
of `huggingface_hub`, and found there without a network. Nothing is loaded from it but safetensors and JSON.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onestage.errors import PassingError, UserError
from onestage.terminal import tell

MODEL_FILE = "model.safetensors"
LARGEST_MODEL = 4 << 30  # bytes; the largest network of ours has 0.6 GB
_NAME = re.compile(r"hf:/{1,2}(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NETWORK_PACKAGES = ("httpx", "httpx2", "httpcore", "requests", "urllib3")  # that releases of the client speak HTTP by


class UnreachableError(PassingError):
    """The hub can't be asked: no network, a hub that is down, or HF_HUB_OFFLINE."""


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, at a branch, a tag or a commit; None is the newest commit of its main branch."""

    repository: str  # USER/NAME
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}" + (f"@{self.revision}" if self.revision else "")


def hub_name(model: str | os.PathLike[str]) -> HubName | None:
    """The repository that a model's name means; None for a path of this machine.

    Raises:
        UserError: it begins as a name of a hub, and is none.
    """
    text = os.fspath(model)
    if not text.startswith("hf:/"):
        return None
    parts = _NAME.fullmatch(text)
    if parts is None or ".." in text or len(text) > 300:
        raise UserError(f"{text}: expected hf://USER/NAME, or hf://USER/NAME@REVISION with a branch, a tag or a commit")
    return HubName(parts[1], parts[2])


def local_model(model: str | os.PathLike[str]) -> Path:
    """The path of a model; of a hub's model that of its file in the cache, which is fetched if need be.

    Raises:
        UserError: see `fetch`.
    """
    name = hub_name(model)
    return Path(model) if name is None else fetch(name, MODEL_FILE, LARGEST_MODEL)[0]


def fetch(name: HubName, file: str, largest: int) -> tuple[Path, HubName]:
    """The path of a repository's file in the cache, and the name with the commit that it is of.

    A commit whose file is in the cache asks nobody. Without a network, a branch is what it was when it was last asked
    for. The command's display tells which commit it is.

    Args:
        largest: number of bytes above which it is not downloaded.

    Raises:
        UserError: no such repository, revision or file, no right to read it, a file that is too large or not the one
            whose SHA-256 the hub tells (it is removed from the cache), or neither a network nor a copy.
    """
    cached, why = _in_cache(name, file), "in the cache"
    sha256 = None
    if cached is not None and _COMMIT.fullmatch(name.revision or ""):
        path = cached
    else:
        try:
            path, sha256, why = _asked_for(name, file, largest, cached)
        except UnreachableError as error:
            if cached is None:
                raise UserError(f"{error}; no copy of {file} is in the cache") from error
            path, why = cached, f"the copy in the cache, because {error}"
    pinned = replace(name, revision=path.parent.name)  # CACHE/models--USER--NAME/snapshots/COMMIT/FILE
    if path.is_symlink():
        sha256 = sha256 or Path(os.readlink(path)).name  # the file lies under its hash
    _check_content(path, sha256, pinned)
    pin = "" if pinned == name else "; this name stays with these weights"
    tell(f"{pinned}: {file}, {path.stat().st_size / 1e6:.1f} MB, {why}{pin}")
    return path, pinned


def _in_cache(name: HubName, file: str) -> Path | None:
    import huggingface_hub

    with client_errors_of(str(name)):
        found = huggingface_hub.try_to_load_from_cache(name.repository, file, revision=name.revision)
    return Path(found) if isinstance(found, str) else None


def _asked_for(name: HubName, file: str, largest: int, cached: Path | None) -> tuple[Path, str | None, str]:
    """The path of the file that the hub has now, its SHA-256 where the hub tells it, and where it comes from."""
    import huggingface_hub

    with client_errors_of(str(name)):
        address = huggingface_hub.hf_hub_url(name.repository, file, revision=name.revision)
        about = huggingface_hub.get_hf_file_metadata(address)
    if about.commit_hash is None or about.size is None:
        raise UserError(f"{name}: the server does not tell the commit and the size of {file}; is it a hub?")
    if about.size > largest:
        raise UserError(f"{name}: {file} has {about.size:,} bytes; expected at most {largest:,}")
    if cached is not None and cached.parent.name == about.commit_hash:
        return cached, about.etag, "in the cache"
    tell(f"{name}: fetching {file}, {about.size / 1e6:.1f} MB")
    with client_errors_of(str(name)):
        path = Path(huggingface_hub.hf_hub_download(name.repository, file, revision=name.revision))
    if path.parent.name != about.commit_hash:
        raise PassingError(f"{name}: changed while {file} was fetched; try again")
    return path, about.etag, "fetched"


def _check_content(path: Path, sha256: str | None, name: HubName) -> None:
    """Remove a file that has not the SHA-256 which the hub told, and raise a UserError.

    Small files have none: the hub keeps them in git.
    """
    if sha256 is None or not _SHA256.fullmatch(sha256):
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        for one in (path.resolve(), path):
            one.unlink(missing_ok=True)
        raise UserError(
            f"{name}: {path.name} has the SHA-256 {found}, the hub's has {sha256}; it was removed from the cache, so "
            "try again"
        )


@contextmanager
def client_errors_of(what: str) -> Iterator[None]:
    """Turn what the hub's client raises into a UserError that begins with `what`. Its classes differ by release.

    Its progress bars are for terminals alone.
    """
    from huggingface_hub import utils

    hide_bars = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if hide_bars:
        utils.disable_progress_bars()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _for_user(what, error) from error
    finally:
        if hide_bars:
            utils.enable_progress_bars()


def _for_user(what: str, error: Exception) -> UserError:
    from huggingface_hub.constants import ENDPOINT

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of a thread that uploads
        error = error.__cause__
    response: Any = getattr(error, "response", None)
    if type(error).__name__ == "OfflineModeIsEnabled":
        return UnreachableError(f"{what}: HF_HUB_OFFLINE is set")
    if response is None:
        lines = str(error).split("\n") or [type(error).__name__]
        reason = " ".join(line.strip() for line in lines if line.strip())[:300]
        modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if modules.intersection(_NETWORK_PACKAGES) or isinstance(error, ConnectionError | TimeoutError):
            return UnreachableError(f"{what}: {ENDPOINT} can't be reached ({reason})")
        return UserError(f"{what}: {reason}")
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if status >= 500 or status == 429:
        return UnreachableError(f"{what}: {ENDPOINT} answers with HTTP {status}, so try again later")
    login = "`hf auth login`, or a token in the environment variable HF_TOKEN"
    reasons = {
        "RevisionNotFound": "it has no such revision; give a branch, a tag or a commit",
        "EntryNotFound": "the file is not in it; `onestage push` makes repositories of models",
        "GatedRepo": f"its owner has to let you in; ask on its page, then log in: {login}",
    }
    by_status = {
        401: f"the hub wants a login for it, as for names that it does not know; check the name, and log in: {login}",
        403: f"your login may not do that ({getattr(error, 'server_message', None) or 'forbidden'}); log in: {login}",
        404: f"no such repository, or one that your login may not see; check the name, or log in: {login}",
    }
    said = getattr(error, "server_message", None) or str(error).strip().partition("\n")[0]
    return UserError(f"{what}: {reasons.get(code) or by_status.get(status) or said}")
