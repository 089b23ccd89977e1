"""Ctrl-C, SIGTERM and a terminal that closes end a run between two steps."""

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ONE_PRESS_S = 1.0  # torchrun hands Ctrl-C on, so its processes get it once or twice


@contextmanager
def stop_signals() -> Iterator[list[float]]:
    """Collect the times of SIGINT and SIGTERM in a list, which is empty until one comes; the second interrupts at once.

    Under torchrun, signals within a second of the first count as the same one. SIGHUP, by which a terminal says that it
    closes, is collected too, but interrupts nothing: shells send it again. Where it is ignored (nohup), it stays so.
    """
    received: list[float] = []

    def receive(number: int, frame: object) -> None:
        if received and ("TORCHELASTIC_RUN_ID" not in os.environ or time.monotonic() - received[0] > ONE_PRESS_S):
            raise KeyboardInterrupt
        received.append(time.monotonic())

    def hang_up(number: int, frame: object) -> None:
        _write_to_files_only()
        received.append(time.monotonic())

    handlers = {signal.SIGINT: receive, signal.SIGTERM: receive}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
        handlers[signal.SIGHUP] = hang_up
    try:
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # not in the main thread: whoever started the thread stops it
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_to_files_only() -> None:
    """Write no more to a terminal, which is gone, or into a pipe, whose reader (`tee`) the signal ended."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        with suppress(OSError):  # of an output that was closed before
            if not stat.S_ISREG(os.fstat(output).st_mode):
                os.dup2(nowhere, output)
    os.close(nowhere)
