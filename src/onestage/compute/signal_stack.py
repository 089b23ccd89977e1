"""Keep the memory that a thread set aside for signal handlers; OpenVINO leaves it dangling."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux: sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


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
    before = _SignalStack()
    known = sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            sigaltstack(ctypes.byref(before), None)
