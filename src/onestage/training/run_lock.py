"""One run a folder: a lock that the system releases when its process ends, however that is."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from onestage.errors import UserError


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Inside of `with`, no other process trains into the folder.

    If one does, a UserError names its number, machine and start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / ".lock"), folder / ".running"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = "another process"
        with suppress(OSError):  # it starts or ends at this moment
            who = holder.read_text() or who
        line = f"{folder}: {who} trains into it; wait for its end, stop it, or choose another --out"
        raise UserError(line) from error
    except OSError as error:
        raise UserError(f"{folder}: can't be locked ({error.strerror}); choose another --out") from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError):  # the disk is full: the lock holds without it
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()} (since {since})")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
