"""Where and in which numbers a network runs: the device, the autocast type, the memory format, the heap."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from onestage.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """The device and number format of a run, with the reason in one line for people."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def autocast(self) -> torch.autocast:
        """The context in which the network's forward pass runs; losses stay in float32."""
        reduced = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if reduced else None, enabled=reduced)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network there, channels last (what oneDNN and cuDNN convolve fastest)."""
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            wide_depthwise_in_float32(module)
        return module.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def choose_compute(device: str | None = None, precision: Precision = "auto") -> Compute:
    """Choose the device (a GPU where there is one) and bfloat16 where the hardware multiplies it fast.

    Raises:
        UserError: a device that this machine does not have.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    fast, why = _bfloat16_is_fast(chosen)
    if precision != "auto":
        return Compute(chosen, DTYPES[precision], f"{precision}, as asked")
    return Compute(chosen, torch.bfloat16 if fast else torch.float32, f"{'bf16' if fast else 'fp32'}: {why}")


def _bfloat16_is_fast(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return True, f"{torch.cuda.get_device_name(device)} has bfloat16 units"
        return False, f"{torch.cuda.get_device_name(device)} has no bfloat16 units"
    if device.type == "cpu":
        # AVX512-BF16 alone does not pay: its convolutions' backward pass is slower than float32's.
        if torch.cpu._is_amx_tile_supported():
            return True, "this processor has AMX"
        return False, "this processor has no AMX"
    return False, f"bfloat16 is not tried on {device.type}"


def same_bits_in_each_run(device: torch.device) -> None:
    """Use kernels that give the same bits in each run, from now on. On a CPU they are the only ones in use.

    Raises:
        RuntimeError: by PyTorch, later: an operation has no such kernel.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by cuBLAS, before its first use
        torch.use_deterministic_algorithms(True)


def compiled(network: nn.Module) -> nn.Module:
    """The network by torch.compile; it is compiled at its first call, inside of `readable_compile_errors`."""
    return cast(nn.Module, torch.compile(network))


@contextmanager
def readable_compile_errors() -> Iterator[None]:
    """Inside of `with`, an error of torch.compile, which may have pages, is a `UserError` in one line."""
    try:
        yield
    except RuntimeError as error:
        dynamo = sys.modules.get("torch._dynamo.exc")  # it takes seconds to import, and is there if it raised
        if dynamo is None or not isinstance(error, dynamo.TorchDynamoException):
            raise
        first = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--compile: the network can't be compiled here ({first}); leave it out") from error


class _InFloat32:
    """Put before a convolution's class: float32 inside autocast, too. The output has the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            convolved: Tensor = super().forward(x.float())  # pyright: ignore[reportAttributeAccessIssue]
        return convolved.to(x.dtype)


def wide_depthwise_in_float32(module: nn.Module) -> None:
    """Let the depthwise convolutions of kernels above 3x3 leave bfloat16.

    oneDNN has no fast gradient for their bfloat16 weights: 94 ms for 16 maps of (672, 19, 19) and a 5x5 kernel, 18 ms
    in float32. In tf_efficientnet_lite0 they are half of a training step.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels > 1 and max(conv.kernel_size) > 3:
            cls: Any = type(conv)
            if not issubclass(cls, _InFloat32):
                conv.__class__ = type(cls.__name__, (_InFloat32, cls), {})


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of returning it to the kernel, which would hand it out
    again page by page, zeroed: a fifth of a training step on CPUs. Changes nothing elsewhere."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    mallopt(trim_threshold, -1)
    mallopt(mmap_max, 0)
