"""Work side by side: reading ahead of the network, writing behind it, and live sources, of which the newest counts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

_END: Any = object()


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], depth: int, threads: int
) -> Iterator[Result]:
    """`map`, in order, in threads that work at most `depth` items ahead of what is asked for."""
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="onestage-read") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the caller stopped early, or an item failed
                future.cancel()


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, made in one thread of their own at most `depth` ahead of what is asked for."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="onestage-read") as pool:
        waiting = deque(pool.submit(next, items, _END) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, items, _END))
                yield cast(Item, item)
        finally:
            for future in waiting:
                future.cancel()


class Newest(Generic[Item]):
    """A live source: read without pause in a thread; whoever asks gets the newest item, and those between are dropped.

    Attributes:
        dropped: how many items nobody got.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self.dropped = 0
        self._items, self._item = items, _END
        self._failure: BaseException | None = None
        self._stopped = self._ended = False
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Item]:
        thread = threading.Thread(target=self._read, name="onestage-live", daemon=True)
        thread.start()
        try:
            while (item := self._wait()) is not _END:
                yield item
        finally:
            self._stopped = True
            thread.join(timeout=5)

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self.dropped += self._item is not _END
                    self._item = item
                    self._changed.notify()
                if self._stopped:
                    break
        except BaseException as failure:  # handed over to the thread that asks
            self._failure = failure
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def _wait(self) -> Any:
        with self._changed:
            while self._item is _END and not self._ended:
                self._changed.wait(timeout=0.5)  # a limit lets Ctrl-C through
            item, self._item = self._item, _END
        if item is _END and self._failure is not None:
            raise self._failure
        return item


class Behind(Generic[Item]):
    """A function called on item after item in a thread of its own, at most `depth` behind; use it in `with`."""

    def __init__(self, function: Callable[[Item], None], depth: int) -> None:
        self._function, self._depth = function, depth
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onestage-write")
        self._waiting: deque[Future[None]] = deque()

    def put(self, item: Item) -> None:
        """Have the function called on this item; waits while too many do. Raises what an earlier call raised."""
        self._waiting.append(self._pool.submit(self._function, item))
        while len(self._waiting) > self._depth:
            self._waiting.popleft().result()

    def __enter__(self) -> Behind[Item]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True)
        for future in self._waiting:
            if kind is None:
                future.result()
