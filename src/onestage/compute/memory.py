"""How much memory is free on a device, and how much a piece of work takes of it."""

from __future__ import annotations

import ctypes
import gc
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

import psutil
import torch

LOOK_SECONDS = 0.005  # between two looks at what this process has


@runtime_checkable
class Memory(Protocol):
    """What is free on a device, and what work takes of it."""

    careful: bool  # running out of it can't be caught: the kernel kills the process

    # Bytes that this process may take from now on; `watch` counts from here.
    def free(self) -> int: ...

    # Gives what tells the most bytes that were taken inside of `with`.
    def watch(self) -> AbstractContextManager[Callable[[], int]]: ...


def memory_of(device: torch.device) -> Memory:
    """Of a GPU, else of the machine."""
    return _GPUMemory(device) if device.type == "cuda" else _ProcessMemory()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that memory ran out; cuDNN, cuBLAS and PyTorch on processors have no class for that."""
    told = str(error).lower()
    words = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    return isinstance(error, torch.OutOfMemoryError) or any(word in told for word in words)


class _GPUMemory:
    careful = False

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, 0

    def free(self) -> int:
        torch.cuda.empty_cache()
        self._before = torch.cuda.memory_reserved(self._device)
        return torch.cuda.mem_get_info(self._device)[0]

    @contextmanager
    def watch(self) -> Iterator[Callable[[], int]]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        yield lambda: torch.cuda.max_memory_reserved(self._device) - self._before
        torch.cuda.empty_cache()


class _ProcessMemory:
    careful = True

    def __init__(self) -> None:
        self._process, self._before = psutil.Process(), 0

    def free(self) -> int:
        _return_freed_memory()
        self._before = self._process.memory_info().rss
        return int(min(psutil.virtual_memory().available, container_free()))

    @contextmanager
    def watch(self) -> Iterator[Callable[[], int]]:
        _return_freed_memory()
        peak, done = 0, threading.Event()

        def look() -> int:
            nonlocal peak
            peak = max(peak, self._process.memory_info().rss - self._before)
            return peak

        def look_often() -> None:
            while not done.wait(LOOK_SECONDS):
                look()

        (watcher := threading.Thread(target=look_often, daemon=True)).start()
        try:
            yield look
        finally:
            done.set()
            watcher.join()


def _return_freed_memory() -> None:
    """Let glibc give freed memory back to the kernel, so that what is taken next is seen; see `keep_freed_memory`."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def container_free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes below the memory limits of this process's cgroup and of those above it; infinite without limits.

    Args:
        root: where cgroups are mounted.
        own: the file that names this process's, one line a hierarchy: `NUMBER:CONTROLLERS:PATH`.
    """
    free = math.inf
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # cgroups' second version has one hierarchy for all
            free = min(free, _below_limits(root, path, "memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            free = min(free, _below_limits(root / "memory", path, *names))
    return free


def _below_limits(root: Path, path: str, limit: str, used: str, files: str) -> float:
    """The least that is free in a folder and those above it. A container may see only the uppermost.

    Pages of files that were read count as used (`files` of them in `memory.stat`), but are given up for programs.
    """
    free = math.inf
    folder = root / path.strip("/")
    for place in (folder, *folder.parents):
        with suppress(OSError, ValueError):  # no limit: no file, or "max"
            below = int((place / limit).read_text()) - int((place / used).read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            free = min(free, below + int(stat.get(files, 0)))
    return free
