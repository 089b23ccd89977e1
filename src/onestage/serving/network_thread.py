"""The network in a thread of its own: it takes what waits, a batch at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from onestage.structures import Detections

GATHER_SECONDS = 0.01  # that a batch waits at most for images that are being decoded
STUCK_SECONDS = 30.0  # after which a batch that has not come back means that the network hangs


@dataclass(frozen=True)
class Answer:
    """What came of one image.

    Attributes:
        begun: `time.monotonic` when its batch began.
        seconds: of its batch.
    """

    found: Detections
    begun: float
    seconds: float


@dataclass(frozen=True)
class _InLine:
    prepared: Any
    deadline: float
    answer: Future[Answer] = field(default_factory=Future)


class NetworkThread:
    """Runs the network in a thread of its own, on what waits together."""

    def __init__(
        self,
        detect: Callable[[Sequence[Any]], list[Detections]],
        batch_size: int,
        more_to_come: Callable[[], bool],
        on_batch: Callable[[int, float], None] | None = None,
    ) -> None:
        """`more_to_come` says whether waiting a moment may fill the batch."""
        self._detect, self._batch_size, self._more_to_come = detect, batch_size, more_to_come
        self._on_batch = on_batch or (lambda images, seconds: None)
        self._line: deque[_InLine] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="onestage-network", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the thread lives and its batch has not hung for half a minute."""
        since = self._busy_since
        return self._thread.is_alive() and (since is None or time.monotonic() - since < STUCK_SECONDS)

    def put(self, prepared: Any, deadline: float) -> Future[Answer]:
        """An image into the line; a TimeoutError comes back if its turn does not come by the deadline."""
        waiting = _InLine(prepared, deadline)
        with self._changed:
            self._line.append(waiting)
            self._changed.notify()
        return waiting.answer

    def close(self) -> None:
        """Answer what is in the line, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=STUCK_SECONDS)

    def _run(self) -> None:
        while batch := self._next_batch():
            now = time.monotonic()
            late = [one for one in batch if one.deadline < now]
            for one in late:
                _settle(one, TimeoutError())
            self._answer([one for one in batch if one.deadline >= now])

    def _next_batch(self) -> list[_InLine]:
        """What waits, at most a batch; none when there is an end to it."""
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._closed)
            give_up = time.monotonic() + GATHER_SECONDS
            while len(self._line) < self._batch_size and self._more_to_come() and not self._closed:
                if (left := give_up - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return [self._line.popleft() for _ in range(min(self._batch_size, len(self._line)))]

    def _answer(self, batch: list[_InLine]) -> None:
        if not batch:
            return
        begun = self._busy_since = time.monotonic()
        try:
            found: list[Detections] | Exception = self._detect([one.prepared for one in batch])
        except Exception as error:  # whatever the engine raises, the thread goes on
            found = error
        self._busy_since, seconds = None, time.monotonic() - begun
        if not isinstance(found, Exception):
            self._on_batch(len(batch), seconds)
            for one, detections in zip(batch, found, strict=True):
                _settle(one, Answer(detections, begun, seconds))
        elif len(batch) == 1:
            _settle(batch[0], found)
        else:  # one of them is to blame: the others get their answers
            for one in batch:
                self._answer([one])


def _settle(waiting: _InLine, outcome: Answer | Exception) -> None:
    if not waiting.answer.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    if isinstance(outcome, Exception):
        waiting.answer.set_exception(outcome)
    else:
        waiting.answer.set_result(outcome)
