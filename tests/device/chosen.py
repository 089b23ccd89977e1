"""The GPU that these tests run on: the pretended one, or a real one that ONESTAGE_TEST_DEVICE names (`cuda:0`).

with Gpu() as gpu:
    onestage.train(..., device=str(DEVICE))
gpu.synchronisations, gpu.calls
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from device.pretended_gpu import PretendedGpu
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device(os.environ.get("ONESTAGE_TEST_DEVICE", "pretend:0"))


class RealGpu(TorchDispatchMode):
    """A real GPU, counted in the same way; in float32 it computes as exactly as a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._stack = ExitStack()

    @property
    def synchronisations(self) -> Counter[str]:
        waits = [warning for warning in self._warnings if "synchroniz" in str(warning.message)]  # set_sync_debug_mode's
        return Counter(f"{warning.filename}:{warning.lineno}" for warning in waits)

    def __enter__(self) -> Any:
        self._warnings = self._stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        torch.backends.cudnn.conv.fp32_precision = "ieee"
        torch.cuda.set_sync_debug_mode("warn")
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        torch.cuda.set_sync_debug_mode("default")
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


Gpu = PretendedGpu if DEVICE.type == "pretend" else RealGpu
