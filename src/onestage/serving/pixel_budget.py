"""How many pixels are decoded at a time, whatever the number of requests: the memory that decoding takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """So many pixels at a time; who asks for more waits, the first to come first."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def taken(self, pixels: int, deadline: float) -> Iterator[None]:
        """Wait for room, and hold it inside of `with`. More than the whole budget counts as the whole.

        Raises:
            TimeoutError: no room by the deadline (of `time.monotonic`).
        """
        wanted = min(pixels, self._all)
        with self._turn, self._changed:  # in turn, or small images would overtake a large one for ever
            if not self._changed.wait_for(lambda: self._free >= wanted, timeout=deadline - time.monotonic()):
                raise TimeoutError
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()
