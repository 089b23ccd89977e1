"""Who reads the batches behind the training loop: worker processes, or one thread of this process.

A worker may be killed from outside (memory ran out) or hang (a dead network share). The first ends the run with one
line (`readable_worker_errors`); of the second a line warns, and the run goes on once the worker does.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any, Literal, TypeAlias, TypeVar

import cv2
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from onestage.errors import PassingError, UserError

StartMethod: TypeAlias = Literal["fork", "spawn", "forkserver"]
Item = TypeVar("Item")

BATCHES_AHEAD = 3  # read before the training loop asks for them, per worker
CHECK_SECONDS = 5.0  # between looks at the clock
WARN_AFTER_SECONDS = 30.0  # without a batch
WARN_AGAIN_SECONDS = 180.0  # after a warning
NOT_SENT = 90  # exit code of a worker whose batch did not fit into shared memory


def by_processes(
    reader: Dataset[Item],
    keys: Iterable[Any],
    workers: int,
    *,
    pin_memory: bool,
    start_method: StartMethod | None,
    warn: Callable[[str], None] | None,
) -> Generator[Item, None, None]:
    """`reader[key]` for each of the keys, in their order, read by processes that end with this generator.

    Raises a UserError if the workers can't be started or one was killed, or PyTorch's RuntimeError, which
    `readable_worker_errors` makes one.
    """
    loader = DataLoader(
        reader,
        batch_size=None,  # the reader's items are batches
        collate_fn=_as_it_is,  # else arrays would become tensors, each of which costs a file descriptor
        sampler=keys,
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=BATCHES_AHEAD,
        pin_memory=pin_memory,
        multiprocessing_context=start_method,
        generator=torch.Generator(),  # else a loader with workers would take a number from the generator of all
    )
    try:
        batches: Any = iter(loader)
    except OSError as error:  # their locks lie in shared memory, too
        raise UserError(f"--workers {workers}: can't be started ({error.strerror}); {_LESS_SHARED}") from error
    processes: list[BaseProcess] = batches._workers
    try:
        with _Patience(warn, lambda: _late_workers(batches, processes)) as patience:
            while (item := patience.wait_for(partial(next, batches, None))) is not None:
                yield item
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:  # PyTorch's, or of a pipe that broke
        raise _killed_worker(processes) or error from None
    finally:
        batches._shutdown_workers()  # not left to its `__del__`: an error's traceback may keep it alive
        for process in processes:
            if process.is_alive():  # it was stopped or hangs, and did not heed SIGTERM
                process.kill()
                process.join(CHECK_SECONDS)


def _as_it_is(item: Item) -> Item:
    return item


def _end_worker(error: Exception, item: object) -> None:
    os._exit(NOT_SENT)


def _start_worker(worker: int) -> None:
    # A batch that can't be sent would be lost with a traceback, and the training process would wait for it for ever.
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # pyright: ignore[reportAttributeAccessIssue]
    gc.freeze()  # the collector writes into what it looks at, so it would copy all that is shared with the parent
    cv2.setNumThreads(0)  # the workers are the threads
    for number in {signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)}:  # Ctrl-C, and a terminal that closes
        signal.signal(number, signal.SIG_IGN)  # are for the training process, which saves and ends its workers
    # torchrun sends SIGTERM to all; the training process then saves, and needs its workers until it has
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "TORCHELASTIC_RUN_ID" in os.environ else signal.SIG_DFL)


def by_thread(
    reader: Dataset[Item], keys: Iterable[Any], *, warn: Callable[[str], None] | None
) -> Generator[Item, None, None]:
    """`reader[key]` for each of the keys, in their order, read ahead by a thread that ends with this generator."""
    ahead: deque[Future[Item]] = deque()
    pool = ThreadPoolExecutor(1, thread_name_prefix="onestage-read-ahead")
    try:
        with _Patience(warn, lambda: "the thread that reads images") as patience:
            for key in keys:
                ahead.append(pool.submit(reader.__getitem__, key))
                if len(ahead) > BATCHES_AHEAD:
                    yield patience.wait_for(ahead.popleft().result)
            while ahead:
                yield patience.wait_for(ahead.popleft().result)
    finally:
        pool.shutdown(cancel_futures=True)


class _Patience:
    """Warns while a batch does not come for long. Use it in `with`.

    A thread looks at the clock: whoever waits may be stuck in the middle of a worker's answer.
    """

    def __init__(self, warn: Callable[[str], None] | None, who: Callable[[], str]) -> None:
        self.warn, self.who = warn, who
        self.since: float | None = None  # the start of the wait
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look_often, name="onestage-patience", daemon=True)

    def __enter__(self) -> _Patience:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def wait_for(self, get: Callable[[], Item]) -> Item:
        """What `get` returns; the time that it takes counts."""
        self.warn_at = time.monotonic() + WARN_AFTER_SECONDS
        self.since = time.monotonic()
        try:
            return get()
        finally:
            self.since = None

    def _look_often(self) -> None:
        while not self.ended.wait(CHECK_SECONDS):
            self.look()

    def look(self) -> None:
        now, since = time.monotonic(), self.since
        if self.warn is not None and since is not None and now >= self.warn_at:
            self.warn_at = now + WARN_AGAIN_SECONDS
            self.warn(
                f"no batch for {now - since:.0f} s: waiting for {self.who()}; if this lasts, look at the disk or "
                "network share that holds the images"
            )


def _late_workers(batches: Any, processes: list[BaseProcess]) -> str:
    """The workers that have not given their batch, with their states."""
    numbers = sorted({task[0] for task in list(batches._task_info.values()) if len(task) == 1})
    return ", ".join(f"loader worker {processes[n].pid} ({_state(processes[n])})" for n in numbers)


def _state(process: BaseProcess) -> str:
    try:
        return psutil.Process(process.pid).status()
    except psutil.Error:
        return "gone"


# PyTorch's words for workers that died: of a signal, with an exit code, or found to be gone, perhaps several.
_DEATH = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) "
    r"(?:is killed by signal: ([^.]*)\.|exited unexpectedly(?: with exit code (\d+)\.)?)"
)
_LESS_SHARED = (
    "run it again (training with --resume) with --workers 0, or with more shared memory (/dev/shm; of a container by "
    "--shm-size 2g)"
)
_CAUSES = {"SIGKILL": ", perhaps because memory ran out", "SIGBUS": ", perhaps because /dev/shm is full"}


@contextmanager
def readable_worker_errors() -> Iterator[None]:
    """Turns PyTorch's error about a worker that died into a `UserError` of one line.

    PyTorch raises it from a handler of SIGCHLD, so anywhere in the code that the main thread just runs, not only where
    the next batch is asked for: wrap the whole loop over the batches.
    """
    try:
        yield
    except RuntimeError as error:
        if (found := _DEATH.search(str(error))) is None:
            raise
        pids, signal_text, exit_code = found.groups()
        if signal_text is not None:
            raise _killed(pids, signal_text) from None
        raise _ended(pids, int(exit_code) if exit_code else None) from None


@contextmanager
def closing_quietly(batches: Generator[Any, None, None]) -> Iterator[None]:
    """Close a loader's batches after `with`. A worker that dies when it is told to end has nothing more to lose.

    One that was started by "spawn" ends as any program does, its libraries' threads included, and C++ may abort it.
    """
    try:
        yield
    finally:
        try:
            batches.close()
        except RuntimeError as error:
            if _DEATH.search(str(error)) is None:
                raise


def _killed_worker(processes: list[BaseProcess]) -> UserError | None:
    """The error of the first worker that died by a signal or could not send; None if none did within a second."""
    deadline = time.monotonic() + 1
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode == NOT_SENT:
            return _ended(process.pid, NOT_SENT)
        if process.exitcode is not None and process.exitcode < 0:
            return _killed(process.pid, signal.strsignal(-process.exitcode))
    return None


def _killed(pid: int | str | None, signal_text: str | None) -> UserError:
    name = {signal.strsignal(number): number.name for number in signal.Signals}.get(signal_text, signal_text)
    return _died(pid, f"was killed by {name}{_CAUSES.get(name or '', '')}")


def _ended(pid: int | str | None, exit_code: int | None) -> UserError:
    if exit_code == NOT_SENT:
        return UserError(f"a loader worker (process {pid}) has no shared memory for a batch; {_LESS_SHARED}")
    if exit_code is not None:
        return _died(pid, f"ended with exit code {exit_code}")
    return _died(pid, "ended before its work was done, perhaps because memory ran out")


def _died(pid: int | str | None, how: str) -> UserError:
    again = "run it again (training with --resume), with fewer --workers"
    return PassingError(f"a loader worker (process {pid}) {how}; {again}")
