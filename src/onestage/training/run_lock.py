"""One run a folder: a lock that the system releases when its process ends, however that is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from onestage.errors import UserError

LOCK, HOLDER = ".lock", ".running.json"


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Inside of `with`, no other process trains into the folder.

    Raises:
        UserError: another process does; its number, machine and start are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"{folder}: {_holder(folder)} trains into it; wait for its end, stop it, or choose another --out"
        ) from error
    except OSError as error:
        raise UserError(f"{folder}: can't be locked ({error.strerror}); choose another --out") from error
    holder = folder / HOLDER
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # it starts or ends at this moment
        return "another process"
