"""Path aggregation network (Liu et al. 2018, arXiv 1803.01534, 3.1): a bottom-up path behind the top-down one.

Light, for small detectors: sums and one 3x3 convolution a step, as in the paper; batch norm and ReLU after it, and
further levels on top by convolutions of stride 2, as NanoDet (RangiLyu/nanodet) has them.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from onestage.necks.top_down import TopDown


class PAN(nn.Module):
    """`num_levels` maps, each of half the sides of the one before, from a backbone's maps.

    Only the top-down path works on the finest map, where layers cost most.
    """

    def __init__(self, channels_in: Sequence[int], channels: int, num_levels: int) -> None:
        super().__init__()
        self.channels = (channels,) * num_levels
        self.top_down = TopDown(channels_in, channels)
        self.down = nn.ModuleList(Conv2dNormActivation(channels, channels, 3, 2) for _ in range(num_levels - 1))
        self.smooths = nn.ModuleList(Conv2dNormActivation(channels, channels, 3) for _ in channels_in[1:])
        for module in [*self.down.modules(), *self.smooths.modules()]:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One map (B, channels, H, W) a level, finest first, from maps (B, channels_in, H, W)."""
        top_down = self.top_down(maps)
        found = [top_down[0]]
        for down, smooth, x in zip(self.down, self.smooths, top_down[1:], strict=False):
            found.append(smooth(x + down(found[-1])))
        for down in self.down[len(self.smooths) :]:
            found.append(down(found[-1]))
        return found
