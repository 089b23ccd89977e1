"""Threads beside the network: reading ahead of it, writing behind it, taking a live source's newest frame."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import repeat, takewhile
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END: Any = object()


def mapped_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], depth: int, threads: int
) -> Generator[Result, None, None]:
    """`map(function, items)`, in order, computed in threads at most `depth` items ahead of the caller."""
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
    """The same items, taken from the iterator in another thread at most `depth` ahead of the caller."""
    with closing(mapped_ahead(lambda _: next(items, _END), repeat(None), depth, threads=1)) as taken:
        yield from takewhile(lambda item: item is not _END, taken)


def newest(items: Iterable[Item]) -> Iterator[Item]:
    """The newest item of a live source, which a thread reads without a pause; what comes between calls is dropped."""
    line: queue.Queue[Any] = queue.Queue(maxsize=1)
    failures: list[BaseException] = []
    stopped = threading.Event()

    def read() -> None:
        try:
            for item in items:
                with suppress(queue.Empty):
                    line.get_nowait()  # the caller did not ask in time
                line.put(item)
                if stopped.is_set():
                    return
        except BaseException as failure:  # raised in the caller's thread
            failures.append(failure)
        line.put(_END)

    thread = threading.Thread(target=read, name="onestage-live", daemon=True)
    thread.start()
    try:
        while (item := line.get()) is not _END:
            yield item
        if failures:
            raise failures[0]
    finally:
        stopped.set()
        with suppress(queue.Empty):
            line.get_nowait()  # the thread may be waiting for room
        thread.join(timeout=5)


@contextmanager
def behind(function: Callable[[Item], None], depth: int) -> Iterator[Callable[[Item], None]]:
    """Gives a function that has `function` called on items, one after the other, in another thread.

    It waits while more than `depth` items are unfinished, and raises what an earlier call raised. The block ends when
    all calls are done.
    """
    waiting: deque[Future[None]] = deque()

    def put(item: Item) -> None:
        waiting.append(pool.submit(function, item))
        while len(waiting) > depth:
            waiting.popleft().result()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="onestage-write") as pool:
        yield put
        while waiting:
            waiting.popleft().result()
