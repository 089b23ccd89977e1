"""Ctrl-C and SIGTERM end a run between two steps."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

ONE_PRESS_S = 1.0  # torchrun hands Ctrl-C on, so its processes get it once or twice


@contextmanager
def stop_signals() -> Iterator[list[float]]:
    """Collect the times of SIGINT and SIGTERM in a list, which is empty until one comes; the second interrupts at once.

    Under torchrun, signals within a second of the first count as the same one.
    """
    received: list[float] = []

    def receive(number: int, frame: object) -> None:
        if received and ("TORCHELASTIC_RUN_ID" not in os.environ or time.monotonic() - received[0] > ONE_PRESS_S):
            raise KeyboardInterrupt
        received.append(time.monotonic())

    try:
        before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever started the thread stops it
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
