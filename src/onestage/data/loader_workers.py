"""Who reads the batches behind the training loop: worker processes, or one thread of this process.

A worker may be killed from outside (memory ran out) or hang (a dead network share). The first ends the run in one line
(`readable_worker_errors`), the second is told in one line, and the run goes on once the worker does.
"""

from __future__ import annotations

import gc
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import cv2
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from onestage.errors import UserError

StartMethod: TypeAlias = Literal["fork", "spawn", "forkserver"]

BATCHES_AHEAD = 3  # that wait for the training loop, per worker
CHECK_SECONDS = 5.0  # between looks at the clock
WARN_AFTER_SECONDS = 30.0  # without a batch
WARN_AGAIN_SECONDS = 180.0  # after a warning that did not help

END: Any = object()

Key = TypeVar("Key", contravariant=True)
Item = TypeVar("Item", covariant=True)


@runtime_checkable
class Reader(Protocol[Key, Item]):
    """Batches by the keys of their samples; can be pickled, for workers that are spawned."""

    def __getitem__(self, keys: Key, /) -> Item: ...


def by_processes(
    reader: Reader[Key, Item],
    keys: Iterable[Key],
    workers: int,
    *,
    pin_memory: bool,
    start_method: StartMethod | None,
    warn: Callable[[str], None] | None,
) -> Generator[Item, None, None]:
    """What `reader` gives for each of the keys, in their order, read by processes that end with this generator.

    Raises:
        RuntimeError: a worker died; `readable_worker_errors` makes it readable.
    """
    loader: Any = DataLoader(
        cast(Dataset, reader),
        batch_size=None,  # the reader's items are batches
        sampler=cast(Any, keys),
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        prefetch_factor=BATCHES_AHEAD,
        pin_memory=pin_memory,
        multiprocessing_context=start_method,
        generator=torch.Generator(),  # else a loader with workers would take a number from the generator of all
    )
    batches = iter(loader)
    processes: list[BaseProcess] = batches._workers
    try:
        with _Patience(warn, lambda: _owing(batches, processes)) as patience:
            while True:
                with patience.waiting():
                    item = next(batches, END)
                if item is END:
                    return
                yield item
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:  # PyTorch's, or of a pipe that broke
        raise _dead_worker(processes) or error from None
    finally:
        batches._shutdown_workers()  # not left to its `__del__`: an error's traceback may keep it alive
        for process in processes:
            if process.is_alive():  # it was stopped or hangs, and did not heed SIGTERM
                process.kill()
                process.join(CHECK_SECONDS)


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    gc.freeze()  # the collector writes into what it looks at, so it would copy all that is shared with the parent
    cv2.setNumThreads(0)  # the workers are the threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which ends its workers
    # torchrun sends SIGTERM to all; the training process then saves, and needs its workers until it has
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "TORCHELASTIC_RUN_ID" in os.environ else signal.SIG_DFL)


@dataclass(frozen=True)
class _Raised:
    error: BaseException


def by_thread(
    reader: Reader[Key, Item], keys: Iterable[Key], *, warn: Callable[[str], None] | None
) -> Generator[Item, None, None]:
    """What `reader` gives for each of the keys, in their order, read ahead by a thread that ends with the generator."""
    ready: queue.Queue[Item | _Raised | None] = queue.Queue()
    free = threading.Semaphore(BATCHES_AHEAD)
    stopped = threading.Event()

    def read_ahead() -> None:
        try:
            for batch_keys in keys:
                free.acquire()
                if stopped.is_set():
                    return
                ready.put(reader[batch_keys])
            ready.put(None)
        except BaseException as error:  # raised again where the batches are used
            ready.put(_Raised(error))

    thread = threading.Thread(target=read_ahead, name="onestage-read-ahead", daemon=True)
    thread.start()
    try:
        with _Patience(warn, lambda: "the thread that reads images") as patience:
            while True:
                with patience.waiting():
                    item = ready.get()
                if item is None:
                    return
                free.release()
                if isinstance(item, _Raised):
                    raise item.error
                yield item
    finally:
        stopped.set()
        free.release()
        thread.join()


# --- workers that hang


class _Patience:
    """Warns of a batch that does not come for long, and again every few minutes.

    A thread looks at the clock: whoever waits may be stuck in the middle of a worker's answer. Use it in `with`.
    """

    def __init__(self, warn: Callable[[str], None] | None, who: Callable[[], str]) -> None:
        self.warn, self.who = warn, who
        self.waiting_since: float | None = None
        self.warned_at: float | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look_often, name="onestage-patience", daemon=True)

    def __enter__(self) -> _Patience:
        if self.warn is not None:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.thread.ident is not None:
            self.thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside of `with`, the time counts."""
        self.waiting_since, self.warned_at = time.monotonic(), None
        try:
            yield
        finally:
            self.waiting_since = None

    def _look_often(self) -> None:
        while not self.ended.wait(CHECK_SECONDS):
            self.look()

    def look(self) -> None:
        """Warn, if it is time."""
        now, since, warned_at = time.monotonic(), self.waiting_since, self.warned_at
        if self.warn is None or since is None or now < since + WARN_AFTER_SECONDS:
            return
        if warned_at is None or now >= warned_at + WARN_AGAIN_SECONDS:
            self.warned_at = now
            self.warn(
                f"no batch for {now - since:.0f} s: waiting for {self.who()}; if this lasts, look at the disk or "
                "network share that holds the images"
            )


def _owing(batches: Any, processes: list[BaseProcess]) -> str:
    """The workers that owe a batch, with their states."""
    numbers = sorted({task[0] for task in list(batches._task_info.values()) if len(task) == 1})
    return ", ".join(f"loader worker {processes[n].pid} ({_state(processes[n])})" for n in numbers)


def _state(process: BaseProcess) -> str:
    try:
        return psutil.Process(process.pid).status()
    except psutil.Error:
        return "gone"


# --- workers that die

_KILLED = re.compile(r"DataLoader worker \(pid (\d+)\) is killed by signal: ([^.]*)\.")
_EXITED = re.compile(r"DataLoader worker \(pid (\d+)\) exited unexpectedly with exit code (\d+)\.")
_GONE = re.compile(r"DataLoader worker \(pid\(s\) ([\d, ]+)\) exited unexpectedly")


@contextmanager
def readable_worker_errors() -> Iterator[None]:
    """Within, PyTorch's error about a worker process that died is a `UserError` in one line.

    PyTorch raises it from a handler of SIGCHLD, so anywhere in the code that the main thread just runs, not only where
    the next batch is asked for: wrap the whole loop over the batches.
    """
    try:
        yield
    except RuntimeError as error:
        reason = _death(str(error))
        if reason is None:
            raise
        raise UserError(
            f"{reason}; run it again (training with --resume), with fewer --workers or a smaller --batch-size"
        ) from None


def _dead_worker(processes: list[BaseProcess]) -> RuntimeError | None:
    """What PyTorch would say of the first worker that died by a signal; None if none did within a second."""
    deadline = time.monotonic() + 1
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is not None and process.exitcode < 0:
            cause = signal.strsignal(-process.exitcode)
            return RuntimeError(f"DataLoader worker (pid {process.pid}) is killed by signal: {cause}.")
    return None


def _death(message: str) -> str | None:
    """What became of a worker, from PyTorch's message about it; None if it is about something else."""
    if found := _KILLED.search(message):
        names = {signal.strsignal(number): number.name for number in signal.Signals}
        name = names.get(found[2], found[2])
        causes = {"SIGKILL": ", perhaps because memory ran out", "SIGBUS": ", perhaps because /dev/shm is full"}
        return f"a loader worker (process {found[1]}) was killed by {name}{causes.get(name, '')}"
    if found := _EXITED.search(message):
        return f"a loader worker (process {found[1]}) ended with exit code {found[2]}"
    if found := _GONE.search(message):
        return f"a loader worker (process {found[1]}) ended before its work was done, perhaps because memory ran out"
    return None
