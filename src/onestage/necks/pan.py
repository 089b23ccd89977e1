"""Path aggregation network (Liu et al. 2018, arXiv 1803.01534, 3.1): a bottom-up path behind the top-down one.

    top-down:   P5 = lateral(C5), P4 = lateral(C4) + enlarged P5, P3 = lateral(C3) + enlarged P4
    bottom-up:  N3 = P3, N4 = smooth(P4 + down(N3)), N5 = smooth(P5 + down(N4)), N6 = down(N5), ...

Light, for small detectors, in which half of the time would pass on the finest map. So, unlike the paper, the top-down
path has no 3x3 convolutions of its own: those behind the sums of the bottom-up path and those of the head smooth its
maps. Batch norm after each convolution, ReLU after the 3x3 ones. The further levels are those of NanoDet's
(github.com/RangiLyu/nanodet), convolutions of stride 2 on the last map.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from onestage.necks.top_down import merged_top_down


class PAN(nn.Module):
    """`num_levels` maps, each of half the sides of the one before, from a backbone's maps."""

    def __init__(self, channels_in: Sequence[int], channels: int, num_levels: int) -> None:
        super().__init__()
        self.channels = (channels,) * num_levels
        self.laterals = nn.ModuleList(Conv2dNormActivation(c, channels, 1, activation_layer=None) for c in channels_in)
        self.downs = nn.ModuleList(Conv2dNormActivation(channels, channels, 3, 2) for _ in range(num_levels - 1))
        self.smooths = nn.ModuleList(Conv2dNormActivation(channels, channels, 3) for _ in channels_in[1:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map (B, channels, H, W) a level, finest first, from maps (B, channels_in, H, W)."""
        merged = merged_top_down(self.laterals, maps)
        found = merged[:1]
        for level, down in enumerate(self.downs):
            x = down(found[-1])
            found.append(self.smooths[level](merged[level + 1] + x) if level < len(self.smooths) else x)
        return found
