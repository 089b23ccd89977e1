"""A sign of life from each rank, so that one that hangs (stopped, a machine without network) is noticed.

A dead process is torchrun's business: it ends the other ranks and starts them all again. It does not see one that
hangs, and the others would wait for that without end; so the first rank that misses another's beats ends itself.
"""

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from typing import Any

BEAT_S = 2.0
MISSED_S = 24.0  # without a beat


class Heartbeat:
    """A thread that writes this rank's beats into a store and looks for those of the others.

    It counts looks, not seconds: a process that was itself stopped and goes on has then missed nobody.
    """

    def __init__(self, store: Any, rank: int, world_size: int, *, launcher_has_store: bool = False) -> None:
        """Start to beat in a `torch.distributed.Store`: a connection of this rank's own, with keys of this run alone.

        `launcher_has_store`: the store is in torchrun's process, so when it is gone torchrun is.
        """
        self._rank, self._world_size, self._store = rank, world_size, store
        self._launcher_has_store = launcher_has_store
        self._store.set_timeout(timedelta(seconds=MISSED_S))
        self._store.set(f"{rank}/who", f"{os.getpid()} on {socket.gethostname()}")
        self._store_lost, self._ended = False, threading.Event()
        self._thread = threading.Thread(target=self._beat, name="onestage-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and let the others know that this rank is done."""
        self._ended.set()
        self._thread.join(MISSED_S)
        if not self._store_lost and not self._thread.is_alive():  # else the store does not answer
            with suppress(RuntimeError):  # it is lost now, and with it those that would ask
                self._store.add(f"{self._rank}/done", 1)

    def _beat(self) -> None:
        counts, missed = [-1] * self._world_size, [0] * self._world_size
        try:
            while not self._ended.wait(BEAT_S):
                self._store.add(f"{self._rank}/beats", 1)
                for rank in range(self._world_size):
                    count = self._store.add(f"{rank}/beats", 0)
                    missed[rank] = missed[rank] + 1 if count == counts[rank] else 0
                    counts[rank] = count
                    if missed[rank] * BEAT_S >= MISSED_S and not self._store.add(f"{rank}/done", 0):
                        who = self._store.get(f"{rank}/who").decode()
                        line = (
                            f"rank {rank} of the run (pid {who}) has given no sign of life for {MISSED_S:.0f} s; "
                            "ending, so that torchrun can start them again (--max-restarts) from the last checkpoint"
                        )
                        print(f"onestage: {line}", file=sys.stderr, flush=True)
                        os._exit(1)
        except RuntimeError:  # the store can't be reached
            self._store_lost = True
            if not self._launcher_has_store or self._ended.is_set():
                return
            if self._rank == 0:
                print("onestage: torchrun is gone; saving and stopping", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)  # as torchrun would: nobody else ends this process now
            if not self._ended.wait(MISSED_S):  # it waits for a rank that is gone too
                os._exit(1)
