"""Where and in which numbers a network runs: the device, the autocast type, the memory format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from onestage.errors import UserError

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """The device and number format of a run, with the reason in one line for people."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def autocast(self) -> torch.autocast:
        """The context in which the network's forward pass runs; losses stay in float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def place(self, module: nn.Module) -> nn.Module:
        """Move a network there, channels last (what oneDNN and cuDNN convolve fastest)."""
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
        return Compute(chosen, torch.bfloat16 if precision == "bf16" else torch.float32, f"{precision}, as asked")
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
