"""How many threads and processes a piece of work gets of the CPU cores, and a thread's stack for signal handlers."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from onestage.runtime.threads import cpu_cores
from onestage.terminal import watched


def loader_workers(ranks_here: int = 1) -> int:
    """Number of loader processes for each of the ranks on this machine: 0 if the network needs all of its cores."""
    cores = cpu_cores() // ranks_here
    return 0 if cores <= 4 else min(8, cores // 2)


def reading_threads(per_core: int = 1, most: int = 4) -> int:
    """Number of threads that read files: they wait for the disk, or decode beside the network."""
    return min(most, per_core * cpu_cores())


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Leave this thread's alternate signal stack as it was before.

    Each `Core` of OpenVINO sets a stack when it first uses the processor; when the Core goes, it puts back the stack
    that it found and unmaps its own. If two go in the order in which they came, the second puts back what the first
    unmapped. Python's handlers run on that stack, so from then on Ctrl-C, or the end of a child process that is waited
    for, would be a segmentation fault without a word. A Core that doesn't find its stack in place puts nothing back.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = ctypes.create_string_buffer(64)  # sigaltstack(2) writes a `stack_t`, of 24 bytes
    sigaltstack(None, before)
    try:
        yield
    finally:
        sigaltstack(before, None)


def in_threads(function: Callable[[Any], Any], items: Sequence[Any], name: str) -> list[Any]:
    """The function of every item, in order, by a few threads: for work that waits for files; `name` says what it is."""
    if not items:
        return []
    with ThreadPoolExecutor(reading_threads(per_core=2, most=8)) as threads:
        return list(watched(threads.map(function, items), name, len(items)))
