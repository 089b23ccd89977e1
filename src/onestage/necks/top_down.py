"""The top-down path of feature pyramid networks (Lin et al. 2017, arXiv 1612.03144, 3).

Departures: batch norm after each convolution and ReLU after the 3x3 ones, because it is trained from scratch in few
steps.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation


class TopDown(nn.Module):
    """A 1x1 convolution on each map, the sum with the coarser result, and a 3x3 convolution that smooths it."""

    def __init__(self, channels_in: Sequence[int], channels: int) -> None:
        super().__init__()
        self.channels = (channels,) * len(channels_in)
        self.laterals = nn.ModuleList(Conv2dNormActivation(c, channels, 1, activation_layer=None) for c in channels_in)
        self.smooths = nn.ModuleList(Conv2dNormActivation(channels, channels, 3) for _ in channels_in)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, channels, H, W) of the sizes of the input maps (B, channels_in, H, W), finest first."""
        merged = merged_top_down(self.laterals, maps)
        return [smooth(x) for smooth, x in zip(self.smooths, merged, strict=True)]


def merged_top_down(laterals: nn.ModuleList, maps: Sequence[Tensor]) -> list[Tensor]:
    """Each map through its lateral convolution, plus the coarser result, enlarged."""
    merged = [lateral(x) for lateral, x in zip(laterals, maps, strict=True)]
    for finer in reversed(range(len(merged) - 1)):
        size_hw = merged[finer].shape[-2:]
        merged[finer] = merged[finer] + F.interpolate(merged[finer + 1], size=size_hw, mode="nearest")
    return merged
