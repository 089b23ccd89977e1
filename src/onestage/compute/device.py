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
            leave_bfloat16_where_better(module)
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
        if torch.cpu._is_amx_tile_supported():
            return True, "this processor has AMX"
        # AVX-512's bfloat16: half of float32's time a step on AMD's Zen 4; on an Intel without AMX it took longer.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # a torch may lack it
        if capabilities.get("avx512_bf16") and str(capabilities.get("cpu_name")).startswith("AMD"):
            return True, "this AMD processor has AVX-512 for it"
        return False, "this processor has no AMX, nor is it one of AMD's with AVX-512 for bfloat16"
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


class _InFloat32WhereBetter:
    """Put before a convolution's class; see `leave_bfloat16_where_better`. The output has autocast's type."""

    def forward(self: Any, x: Tensor) -> Tensor:
        smaller_than_the_kernel = min(x.shape[-2:]) < max(self.kernel_size)
        if not (smaller_than_the_kernel or _is_wide_depthwise(self)) or not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)  # pyright: ignore[reportAttributeAccessIssue]
        with torch.autocast(x.device.type, enabled=False):
            convolved: Tensor = super().forward(x.float())  # pyright: ignore[reportAttributeAccessIssue]
        return convolved.to(torch.get_autocast_dtype(x.device.type))


def leave_bfloat16_where_better(module: nn.Module) -> None:
    """Let convolutions compute in float32 inside autocast where oneDNN's bfloat16 is wrong or slow.

    Wrong: on maps smaller than the kernel the gradient of the weights may hold what lay in memory before, for 3x3 with
    stride 2 on maps of one column for example (torch 2.14, Zen 4; all other kernels, strides and sides up to 10 that
    were tried were right). Slow: for depthwise convolutions of kernels above 3x3 the gradient of 16 maps of
    (672, 19, 19) and a 5x5 kernel takes 94 ms, and 18 ms in float32. In tf_efficientnet_lite0 they are half of a step.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1:
            cls: Any = type(conv)
            if not issubclass(cls, _InFloat32WhereBetter):
                conv.__class__ = type(cls.__name__, (_InFloat32WhereBetter, cls), {})


def _is_wide_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels > 1 and max(conv.kernel_size) > 3


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of returning it to the kernel, which would hand it out
    again page by page, zeroed: a fifth of a training step on CPUs, and of RetinaNet's prediction.

    Changes nothing elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    mallopt(trim_threshold, -1)
    mallopt(mmap_max, 0)
