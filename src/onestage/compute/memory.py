"""How much memory a device has free, and how much a piece of work takes of it."""

import ctypes
import gc
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from onestage.errors import UserError

LOOK_SECONDS = 0.005  # between two looks at the memory of this process


class Memory:
    """The machine's memory, counted from the moment at which this object was made."""

    free: int  # bytes that this process could take at that moment
    fatal = True  # the kernel kills a process that takes more; no error can be caught

    def __init__(self) -> None:
        _return_freed_memory()
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.free = int(min(psutil.virtual_memory().available, container_free()))

    @contextmanager
    def watch(self) -> Iterator[Callable[[], int]]:
        """Inside of `with`: a function that gives the most bytes taken since this object was made."""
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


class GPUMemory(Memory):
    """A GPU's memory."""

    fatal = False

    def __init__(self, device: torch.device) -> None:
        torch.cuda.empty_cache()
        self._device, self._before = device, torch.cuda.memory_reserved(device)
        self.free = torch.cuda.mem_get_info(device)[0]

    @contextmanager
    def watch(self) -> Iterator[Callable[[], int]]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        yield lambda: torch.cuda.max_memory_reserved(self._device) - self._before
        torch.cuda.empty_cache()


def memory_of(device: torch.device) -> Memory:
    """The memory of a GPU, else of the machine."""
    return GPUMemory(device) if device.type == "cuda" else Memory()


def out_of_memory(error: BaseException) -> bool:
    """True for an error of Python, PyTorch, cuDNN, cuBLAS, OpenCV or ONNX Runtime that says that memory ran out.

    Few of them have a class for it.
    """
    message = str(error).lower()
    phrases = (
        "out of memory",
        "allocate memory",
        "not enough memory",
        "alloc_failed",
        "bad_alloc",
        "bad alloc",
        "insufficient memory",
    )
    by_words = not isinstance(error, UserError | OSError) and any(phrase in message for phrase in phrases)
    return by_words or isinstance(error, MemoryError | torch.OutOfMemoryError)


@contextmanager
def readable_memory_errors(mend: str) -> Iterator[None]:
    """Inside of `with`, an error about memory that ran out becomes a `UserError` of one line, which ends in `mend`."""
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"{in_one_line(error)}; {mend}") from error


def in_one_line(error: BaseException) -> str:
    """An error that says that memory ran out, for people."""
    return f"memory ran out ({next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]})"


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of returning it to the kernel.

    The kernel would hand it out again page by page, zeroed: a fifth of a training step on CPUs, and of RetinaNet's
    prediction. With another C library nothing happens.
    """
    _call_glibc("mallopt", -1, -1)  # M_TRIM_THRESHOLD of malloc.h: never
    _call_glibc("mallopt", -4, 0)  # M_MMAP_MAX


def share_freed_memory() -> None:
    """Let all threads take what one has freed, on Linux: each would keep its own, which adds up in a server."""
    _call_glibc("mallopt", -8, 2)  # M_ARENA_MAX


def _return_freed_memory() -> None:
    """Give freed memory back to the kernel, so that what is taken next is seen; see `keep_freed_memory`."""
    gc.collect()
    _call_glibc("malloc_trim", 0)


def _call_glibc(function: str, *arguments: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # another C library
        getattr(ctypes.CDLL(None), function)(*arguments)


def container_free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Bytes below the memory limits of this process's cgroup and of those above it; infinite without limits.

    Cgroups are mounted in `root`; the file `own` names this process's, one line a hierarchy: `NUMBER:CONTROLLERS:PATH`.
    """
    free = math.inf
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2 has one hierarchy for all controllers
            mount, limit, used, cache = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        folder = mount / path.strip("/")
        for place in (folder, *folder.parents):  # a container may see only the uppermost
            with suppress(OSError, ValueError):  # no limit: no file, or "max"
                below = int((place / limit).read_text()) - int((place / used).read_text())
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                free = min(free, below + int(stat.get(cache, 0)))  # cached files give way to programs
    return free
