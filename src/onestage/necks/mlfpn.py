"""Multi-level feature pyramid network (Zhao et al. 2019, arXiv 1811.04533, 3).

    two maps -> FFMv1 -> base feature -> 8 x (FFMv2 -> TUM) -> one map a scale, of all levels -> SFAM

The paper's words, ours: FFMv1 = `BaseFeature`; FFMv2 = a reduction of the base feature, joined with the largest map of
the TUM before; TUM = `ThinnedUShape`; SFAM = `ScaleAttention`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import gcd
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Norm = Literal["batch", "group"]


class MLFPN(nn.Module):
    """`num_scales` maps of `channels * num_levels` channels from a shallow and a deep map, which has half its sides.

    Each of a TUM's maps has half the sides of the one before, rounded up; the last one's are two cells shorter instead.

    Args:
        num_levels: number of TUMs.
        shared_reduction, shared_sfam: use one layer for all levels, or scales, as the released code, which builds its
            lists by repeating one layer. The paper has one each.
        base_channels: of the shallow and of the deep map in the base feature.
        sfam: weight the channels of each scale. On in the paper; off in every configuration of the released code.
        norm: "batch" as in the paper, or "group". Through eight TUMs with batch norms the gradient grows
            ten-thousandfold (Yang 2019, arXiv 1902.08129: batch norm with ReLU explodes with depth), so the loss starts
            to fall only after thousands of steps; with group norms it does after tens.
        norm_momentum: weight of a batch in the running statistics of all batch norms but the last. 0.01 in the released
            code; runs of a few thousand steps end before statistics at 0.01 have settled.
        checkpoint_activations: in training, compute each TUM's inside again for the gradients: less memory, slower.
    """

    def __init__(
        self,
        channels_in: tuple[int, int],
        channels: int = 256,
        num_levels: int = 8,
        num_scales: int = 6,
        *,
        base_channels: tuple[int, int] = (256, 512),
        shared_reduction: bool = True,
        sfam: bool = False,
        shared_sfam: bool = True,
        norm: Norm = "batch",
        norm_momentum: float = 0.1,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.channels = (channels * num_levels,) * num_scales
        self.checkpoint_activations = checkpoint_activations
        self.base = BaseFeature(channels_in, base_channels, norm)
        reduced = channels // 2
        own = 1 if shared_reduction else num_levels
        self.reductions = nn.ModuleList(ConvNormReLU(sum(base_channels), reduced, 1, norm=norm) for _ in range(own))
        self.tums = nn.ModuleList(
            ThinnedUShape(reduced if level == 0 else reduced + channels, channels, num_scales, norm)
            for level in range(num_levels)
        )
        self.attention = ScaleAttention(channels * num_levels, num_scales, shared_sfam) if sfam else None
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = norm_momentum
        self.norm = _norm(norm, channels * num_levels)  # on the largest map, as the released code; not in the paper

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map a scale, finest first, from a shallow map (B, C1, 2H, 2W) and a deep one (B, C2, H, W) or smaller."""
        base = self.base(*maps)
        reduced = [reduction(base) for reduction in self.reductions]
        recompute = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        of_levels: list[list[Tensor]] = []
        for level, tum in enumerate(self.tums):
            x = reduced[level % len(reduced)]
            if level > 0:
                x = torch.cat([x, of_levels[-1][0]], dim=1)
            of_levels.append(_recomputed(tum, x) if recompute else tum(x))
        of_scales = [torch.cat(scale, dim=1) for scale in zip(*of_levels, strict=True)]
        if self.attention is not None:
            of_scales = self.attention(of_scales)
        return [self.norm(of_scales[0]), *of_scales[1:]]


class BaseFeature(nn.Module):
    """FFMv1: the reduced shallow map, joined with the deep map reduced and enlarged."""

    def __init__(self, channels_in: tuple[int, int], channels: tuple[int, int], norm: Norm) -> None:
        super().__init__()
        self.shallow = ConvNormReLU(channels_in[0], channels[0], 3, padding=1, norm=norm)
        self.deep = ConvNormReLU(channels_in[1], channels[1], 1, norm=norm)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        shallow = self.shallow(shallow)
        deep = F.interpolate(self.deep(deep), size=shallow.shape[-2:], mode="nearest")
        return torch.cat([shallow, deep], dim=1)


class ThinnedUShape(nn.Module):
    """TUM: strided convolutions down, additions up, a 1x1 convolution on each map of the way up."""

    def __init__(self, channels_in: int, channels: int, num_scales: int, norm: Norm) -> None:
        super().__init__()
        steps = num_scales - 1
        # The last step has no padding instead of a stride: 3 x 3 cells become 1, 4 x 4 become 2 x 2.
        self.down = nn.ModuleList(
            ConvNormReLU(channels_in if i == 0 else channels, channels, 3, stride, padding, norm)
            for i, (stride, padding) in enumerate([(2, 1)] * (steps - 1) + [(1, 0)])
        )
        self.top = ConvNormReLU(channels, channels, 1, norm=norm)
        self.laterals = nn.ModuleList(  # finest first; the finest takes the TUM's own input
            ConvNormReLU(channels_in if i == 0 else channels, channels, 3, padding=1, norm=norm) for i in range(steps)
        )
        self.smooths = nn.ModuleList(ConvNormReLU(channels, channels, 1, norm=norm) for _ in range(steps))  # likewise

    def forward(self, x: Tensor) -> list[Tensor]:
        """One map (B, channels, h, w) a scale, finest first, from (B, C, H, W)."""
        going_down = [x]
        for conv in self.down:
            going_down.append(conv(going_down[-1]))
        merged = self.top(going_down[-1])
        found = [merged]
        for level in reversed(range(len(self.laterals))):
            lateral = self.laterals[level](going_down[level])
            merged = F.interpolate(merged, size=lateral.shape[-2:], mode="nearest") + lateral
            found.append(self.smooths[level](merged))
        return found[::-1]


class ScaleAttention(nn.Module):
    """SFAM: weights for the channels of each scale, from the mean of its map (Hu 2018, squeeze and excitation)."""

    def __init__(self, channels: int, num_scales: int, shared: bool) -> None:
        super().__init__()
        own = 1 if shared else num_scales
        self.squeeze = nn.ModuleList(nn.Conv2d(channels, channels // 16, 1) for _ in range(own))
        self.excite = nn.ModuleList(nn.Conv2d(channels // 16, channels, 1) for _ in range(own))

    def forward(self, of_scales: Sequence[Tensor]) -> list[Tensor]:
        weighed = []
        for scale, x in enumerate(of_scales):
            squeeze, excite = (layers[scale % len(layers)] for layers in (self.squeeze, self.excite))
            weighed.append(x * excite(F.relu(squeeze(x.mean(dim=(2, 3), keepdim=True)))).sigmoid())
        return weighed


class ConvNormReLU(nn.Module):
    """Convolution without bias, norm, ReLU."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int = 1, padding: int = 0, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)
        self.norm = _norm(norm, channels)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")  # as in the released code

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


def _norm(norm: Norm, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(gcd(32, channels // 2), channels)


def _recomputed(tum: nn.Module, x: Tensor) -> Any:
    """A TUM's maps, whose inside is computed again in the backward pass."""
    return checkpoint(tum, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _fixed_statistics(tum)))


@contextmanager
def _fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms: the first forward pass has moved them already."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.get_buffer("num_batches_tracked").clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.get_buffer("num_batches_tracked").copy_(batches)
