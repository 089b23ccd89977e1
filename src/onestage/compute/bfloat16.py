"""Convolutions that oneDNN computes slowly or wrongly in bfloat16 on a CPU, computed otherwise.

Wrong: on maps smaller than the kernel, the gradient of the weights may hold what lay in memory before, for example 3x3
with stride 2 on maps of one column (torch 2.14, Zen 4; all other kernels, strides and sides up to 10 that were tried
were right). These are computed in float32.

Slow: two gradients of depthwise convolutions, a quarter of a training step of tf_efficientnet_lite0. That of the input
for strides above 1 (eight maps of 96 x 129 x 129, 3x3: 74 ms, and 7 in float32), and that of the weights for kernels
above 3x3 (eight of 240 x 32 x 32, 5x5: 60 ms, 19 in float32, and 9 in four pieces of 3x3).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]
FAST_SIDE = 3  # the largest of a depthwise kernel whose weights have a fast gradient


def avoid_slow_and_wrong_bfloat16(network: nn.Module) -> None:
    """Replace the convolutions in a network that are better computed otherwise inside autocast on a CPU.

    Names and tensors in the state dict stay as they are; a second call changes nothing.
    """
    for name, conv in list(network.named_modules(remove_duplicate=False)):
        if isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1 and not isinstance(conv, _BetterConv2d):
            network.set_submodule(name, _BetterConv2d(conv))


class _BetterConv2d(nn.Conv2d):
    """A convolution with the parameters of another one; see `avoid_slow_and_wrong_bfloat16`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(conv.__dict__)  # all tensors and numbers, shared
        self._conv = (conv,)  # of any subclass, as timm's; not a submodule, which would change the names of the tensors
        slow = max(conv.stride) > 1 or max(conv.kernel_size) > FAST_SIDE
        depthwise = conv.groups == conv.in_channels > 1 and conv.dilation == (1, 1)
        self._slow = slow and depthwise and not isinstance(conv.padding, str)

    def forward(self, x: Tensor) -> Tensor:
        (conv,) = self._conv
        if not torch.is_autocast_enabled(x.device.type):
            return conv.forward(x)
        # a compiled network keeps PyTorch's gradients, whose float32 is less slow
        if min(x.shape[-2:]) < max(conv.kernel_size) or (self._slow and torch.compiler.is_compiling()):
            with torch.autocast(x.device.type, enabled=False):
                return conv.forward(x.float()).to(torch.get_autocast_dtype(x.device.type))
        if not self._slow:
            return conv.forward(x)
        with _FastGradients():
            return conv.forward(x)


class _FastGradients(TorchFunctionMode):
    """Inside of `with`, a depthwise convolution has the gradients of `_Depthwise`, however its layer pads the image."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_depthwise if func is F.conv2d else func)(*args, **(kwargs or {}))


def _depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, *_: Any, **__: Any
) -> Tensor:
    """`F.conv2d` of a depthwise convolution under autocast."""
    dtype = torch.get_autocast_dtype(x.device.type)
    bias = None if bias is None else bias.to(dtype)
    return _Depthwise.apply(x.to(dtype), weight.to(dtype), bias, _pair(stride), _pair(padding))


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with gradients by kernels that are fast."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, weight), stride, padding = ctx.saved_tensors, ctx.stride, ctx.padding
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            dtype = torch.float32 if max(stride) > 1 else x.dtype
            like_x = torch.empty_like(x, dtype=dtype)  # only its shape is read
            of_x = _gradient("x", of_output.to(dtype), like_x, weight.to(dtype), stride, padding).to(x.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(of_output, x, weight, stride, padding)
        if ctx.needs_input_grad[2]:
            of_bias = of_output.sum(dim=(0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _weight_gradient(
    of_output: Float[Tensor, "B C2 H2 W2"],
    x: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "C2 1 kh kw"],
    stride: Pair,
    padding: Pair,
) -> Float[Tensor, "C2 1 kh kw"]:
    """The gradient of a depthwise kernel, in pieces of at most 3x3, which may overlap.

    A piece of a kernel sees the image from the piece's own place on.
    """
    height, width = weight.shape[-2:]
    if max(height, width) <= FAST_SIDE:
        return _gradient("weight", of_output, x, weight, stride, padding)
    gradient = torch.empty_like(weight)
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = min(height, FAST_SIDE), min(width, FAST_SIDE)
    seen = [(count - 1) * step for count, step in zip(of_output.shape[-2:], stride, strict=True)]
    for top in _starts(height):
        for left in _starts(width):
            part = x[..., top : top + seen[0] + rows, left : left + seen[1] + columns]
            part = part.contiguous(memory_format=torch.channels_last)
            piece = weight[..., top : top + rows, left : left + columns]
            found = _gradient("weight", of_output, part, piece, stride, (0, 0))
            gradient[..., top : top + rows, left : left + columns] = found
    return gradient


def _starts(side: int) -> list[int]:
    """Where the pieces of a kernel's side begin."""
    return [*range(0, max(side - FAST_SIDE, 0), FAST_SIDE), max(side - FAST_SIDE, 0)]


def _gradient(
    of: Literal["x", "weight"], of_output: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """PyTorch's gradient of a depthwise convolution's input, or of its weights."""
    which = [of == "x", of == "weight", False]
    options = (None, stride, padding, (1, 1), False, (0, 0), x.shape[1])
    return torch.ops.aten.convolution_backward(of_output, x, weight, *options, which)[which.index(True)]
