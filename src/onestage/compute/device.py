"""Where and in which number format a network runs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from onestage.compute.bfloat16 import avoid_slow_and_wrong_bfloat16
from onestage.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
_PROCESS = os.getpid()  # that may have started torch's threads
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """The device and number format of a run, and why they were chosen, in one line."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def autocast(self) -> torch.autocast:
        """The context of the network's forward pass; losses are computed outside of it, in float32."""
        reduced = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if reduced else None, enabled=reduced)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network to the device, channels last (what oneDNN and cuDNN convolve fastest)."""
        if self.device.type == "cpu" and self.dtype == torch.bfloat16:
            avoid_slow_and_wrong_bfloat16(module)
        return module.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def choose_compute(device: str | None = None, precision: Precision = "auto") -> Compute:
    """Choose the device (a GPU if there is one), and bfloat16 if its hardware multiplies that fast.

    A UserError for a device that this machine does not have.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    if precision != "auto":
        return Compute(chosen, DTYPES[precision], f"{precision}, as asked")
    fast, why = _bfloat16_is_fast(chosen)
    return Compute(chosen, torch.bfloat16 if fast else torch.float32, f"{'bf16' if fast else 'fp32'}: {why}")


def _bfloat16_is_fast(device: torch.device) -> tuple[bool, str]:
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return fast, f"{torch.cuda.get_device_name(device)} has {'' if fast else 'no '}bfloat16 units"
    if device.type != "cpu":
        return False, f"bfloat16 is not tried on {device.type}"
    if torch.cpu._is_amx_tile_supported():
        return True, "this processor has AMX"
    # AVX-512's bfloat16: half of float32's time a step on AMD's Zen 4; on an Intel without AMX it took longer.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # a torch may lack it
    if capabilities.get("avx512_bf16") and str(capabilities.get("cpu_name")).startswith("AMD"):
        return True, "this AMD processor has AVX-512 for it"
    return False, "this processor has no AMX, nor is it one of AMD's with AVX-512 for bfloat16"


def use_in_a_fork(device: torch.device) -> None:
    """Make torch usable in a process that was forked off the one that imported it, whose threads a fork does not have.

    On the processor it works with one thread from then on: with several it would wait for ever. In other processes
    this does nothing.

    Raises:
        UserError: a GPU that was in use before the fork.
    """
    if os.getpid() == _PROCESS:
        return
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise UserError(
            "the GPU was in use before this process was forked, and CUDA works only where it began; start processes "
            'by "spawn" and load the model in each'
        )
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def same_bits_in_each_run(device: torch.device) -> None:
    """Use only kernels that give the same bits in each run, from now on; where there is none, PyTorch will raise."""
    if device.type == "cuda":  # a CPU has no others
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it before its first use
        torch.use_deterministic_algorithms(True)


def find_fastest_convolutions(device: torch.device) -> None:
    """Let cuDNN try its kernels where it meets a new size, from now on: for sizes that stay the same."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()  # else they may differ by run


def compiled(network: nn.Module) -> nn.Module:
    """The network by torch.compile, which works at its first call: make that inside of `readable_compile_errors`."""
    return cast(nn.Module, torch.compile(network))


@contextmanager
def readable_compile_errors() -> Iterator[None]:
    """Inside of `with`, an error of torch.compile, which may fill pages, becomes a `UserError` of one line."""
    try:
        yield
    except RuntimeError as error:
        dynamo = sys.modules.get("torch._dynamo.exc")  # it takes seconds to import, and is there if it raised
        if dynamo is None or not isinstance(error, dynamo.TorchDynamoException):
            raise
        first = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--compile: the network can't be compiled here ({first}); leave it out") from error
