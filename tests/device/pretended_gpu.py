"""A pretended GPU, for machines that have none: `pretend:0`, whose tensors compute on the CPU and go by a GPU's rules.

    with PretendedGpu() as gpu:
        onestage.train(..., device="pretend:0")
    gpu.synchronisations, gpu.calls

- An operation that gets tensors of the CPU and of the device raises. Numbers (0-d tensors of the CPU) and indices of
  the CPU may meet the device's tensors, as in CUDA, but not in a fused optimizer, which reads its `step` by pointer.
- A copy to the CPU with `non_blocking=True` holds garbage until the device has been waited for.
- What makes the host wait for the device is counted, and so are the operators that the device is given.

It tells where tensors meet that may not, what is read too early, and how often the host waits; not what a GPU computes
wrongly or how fast it is. Made of PyTorch's Python backend for the device key PrivateUse1 (tried with torch 2.14), a
wrapper subclass and a dispatch mode.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest import mock

import torch
import torchvision  # noqa: F401 -- its operators
from torch import library
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten, torchvision_ops = torch.ops.aten, torch.ops.torchvision


class _Module(_DummyBackendModule):
    """What torch.autocast, torch.amp and torch.accelerator ask of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1


_setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
DEVICE = torch.device("pretend", 0)

# Autocast: convolutions and products of matrices take and give the reduced format, all else works as it comes. They add
# up in float32, as a GPU does, and because CPUs are slow in float16.
_LIBRARIES = (library.Library("_", "IMPL"), library.Library("aten", "IMPL"))
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)


def _register_autocast() -> None:
    everything, some = _LIBRARIES
    everything.fallback(library.fallthrough_kernel, "AutocastPrivateUse1")

    def register(operator: Any) -> None:
        def rounded(value: Any) -> Any:
            is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
            return value.to(torch.get_autocast_dtype("pretend")).float() if is_float else value

        def in_reduced(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
                result = operator(*tree_map(rounded, args), **tree_map(rounded, kwargs))
                return result.to(torch.get_autocast_dtype("pretend"))

        some.impl(operator, in_reduced, "AutocastPrivateUse1")

    for operator in (aten.conv2d.default, aten.linear.default, aten.matmul.default):
        register(operator)


_register_autocast()

COPIES = {aten._to_copy.default, aten.copy_.default}  # they carry values from one device to the other
TAKE_CPU_INDICES = {
    *(aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default),
}
# Operators whose result has a size that only the device knows, or is a number of Python.
WAIT = {
    *(aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.unique_consecutive.default, aten.bincount.default),
    *(aten.repeat_interleave.Tensor, torchvision_ops.nms.default),
}


class MixedDevicesError(RuntimeError):
    """An operation got tensors of the CPU and of the pretended GPU."""


class PretendedTensor(torch.Tensor):
    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendedTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        _here().wait("tolist")
        return self.inner.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a GPU's tensor to numpy; use .cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _here().run(func, args, kwargs or {})


_GPUS: list[PretendedGpu] = []


def _here() -> PretendedGpu:
    assert _GPUS, "outside of `with PretendedGpu()`"
    return _GPUS[-1]


class PretendedGpu(TorchDispatchMode):
    """Inside of `with`, `pretend:0` is a device that can be used.

    Attributes:
        synchronisations: the lines of `onestage` at which the host waited for the device, and how often.
        calls: the operators that the device was given, and how often.
    """

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # else torch starts the device's runtime, which there is none of

    def __init__(self) -> None:
        super().__init__()
        self.synchronisations: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._on_their_way: list[tuple[torch.Tensor, torch.Tensor]] = []  # to the CPU: where to, and the values
        self._stack = ExitStack()

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True

    def __enter__(self) -> Any:
        _GPUS.append(self)
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) makes it on the CPU, then moves it
        self._stack.enter_context(mock.patch("torch.accelerator.synchronize", partial(self.wait, "synchronize")))
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._before)
        super().__exit__(*exception)
        self._stack.close()
        _GPUS.remove(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def wait(self, reason: str) -> None:
        """Wait until all that was given to the device is done."""
        own = [frame for frame in traceback.extract_stack() if "/onestage/" in frame.filename]
        where = f"{own[-1].filename.rpartition('/onestage/')[2]}:{own[-1].lineno} {own[-1].line}" if own else "a test"
        self.synchronisations[f"{where} ({reason})"] += 1
        for target, values in self._on_their_way:
            target.copy_(values)
        self._on_their_way.clear()

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        pretended = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
        if pretended:
            if func not in COPIES | TAKE_CPU_INDICES:
                _check_devices(func, tensors)
            if func in WAIT or (func in TAKE_CPU_INDICES and _by_mask(args[1])):
                self.wait(str(func))
        on_device = bool(pretended)
        args, kwargs = tree_map(_inner, args), tree_map(_inner, kwargs)
        if kwargs.get("device") is not None:
            on_device = torch.device(kwargs["device"]).type == DEVICE.type
            if on_device:
                kwargs["device"] = torch.device("cpu")
        if pretended or on_device:
            self.calls[str(func)] += 1
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        same = {id(tensor.inner): tensor for tensor in pretended}  # what an operation in place gives back

        def outer(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or isinstance(value, PretendedTensor):
                return value
            if id(value) in same:
                return same[id(value)]
            return PretendedTensor(value) if on_device else value

        result = tree_map(outer, func(*args, **kwargs))
        if func in COPIES and pretended and not isinstance(result, PretendedTensor):
            non_blocking = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
            if non_blocking:
                self._on_their_way.append((result, result.clone()))
                result.fill_(float("nan") if result.is_floating_point() else result.dtype == torch.bool or 99)
            else:
                self.wait("copy to the CPU")
        return result


def _check_devices(func: Any, tensors: list[torch.Tensor]) -> None:
    fused = "_fused_" in str(func)
    for tensor in tensors:
        if not isinstance(tensor, PretendedTensor) and (tensor.ndim or fused):
            raise MixedDevicesError(f"{func}: a CPU tensor of shape {tuple(tensor.shape)} among a GPU's")


def _by_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendedTensor) else value
