"""A sign of life from each process of a run, so that one that hangs (stopped, a machine without network) is noticed.

A dead process is the launcher's business: torchrun ends the others and starts them all again. A hanging one it does not
see, and the others would wait for it without end; so the first that misses it ends itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Protocol, runtime_checkable

BEAT_S = 2.0
MISSED_S = 24.0  # without a beat


@runtime_checkable
class Store(Protocol):
    """What is used of a `torch.distributed.Store`; its calls raise RuntimeError once it can't be reached."""

    def add(self, key: str, amount: int, /) -> int: ...

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...

    def set_timeout(self, timeout: timedelta, /) -> None: ...


class Heartbeat:
    """A thread that tells the others that this process lives, and looks whether they do.

    What is counted is looks, not seconds: a process that was stopped itself and goes on has then missed nobody.
    """

    def __init__(self, store: Store, rank: int, size: int, *, launcher_has_store: bool = False) -> None:
        """Begin to beat.

        Args:
            store: a connection of its own to the store of the run, with keys that no other run has.
            rank: the number of this process.
            size: how many processes there are.
            launcher_has_store: the store is the launcher's, so when it is gone the launcher is.
        """
        self._rank, self._size, self._store, self._launcher_has_store = rank, size, store, launcher_has_store
        self._store.set_timeout(timedelta(seconds=MISSED_S))
        self._store.set(f"{rank}/who", f"{os.getpid()} on {socket.gethostname()}")
        self._store_lost, self._ended = False, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="onestage-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The process is done: it says so, so that nobody misses it."""
        self._ended.set()
        self._thread.join(MISSED_S)
        if not self._store_lost and not self._thread.is_alive():  # else the store does not answer
            with suppress(RuntimeError):  # it is lost now, and with it those that would ask
                self._store.add(f"{self._rank}/done", 1)

    def _beat(self) -> None:
        counts, missed = [-1] * self._size, [0] * self._size
        try:
            while not self._ended.wait(BEAT_S):
                self._store.add(f"{self._rank}/beats", 1)
                for one in range(self._size):
                    count = self._store.add(f"{one}/beats", 0)
                    missed[one] = missed[one] + 1 if count == counts[one] else 0
                    counts[one] = count
                    if missed[one] * BEAT_S >= MISSED_S and not self._store.add(f"{one}/done", 0):
                        self._give_up(one)
        except RuntimeError:
            self._store_lost = True
            if self._launcher_has_store and not self._ended.is_set():
                self._stop_alone()

    def _give_up(self, one: int) -> None:
        who = self._store.get(f"{one}/who").decode()
        _say(
            f"process {one} of the run (pid {who}) has given no sign of life for {MISSED_S:.0f} s; ending, so that "
            "torchrun can start them again (--max-restarts) from the last checkpoint"
        )
        os._exit(1)

    def _stop_alone(self) -> None:
        """Save and stop as by a signal of the launcher, which is gone: nobody else would end this process."""
        if self._rank == 0:
            _say("torchrun is gone; saving and stopping")
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._ended.wait(MISSED_S):  # it waits for a process that is gone too
            os._exit(1)


def _say(line: str) -> None:
    print(f"onestage: {line}", file=sys.stderr, flush=True)
