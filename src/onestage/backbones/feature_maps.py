"""What a backbone is."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class FeatureMaps(nn.Module):
    """A network from normalised images to feature maps, finest first.

    Attributes:
        channels: of each map.
        strides: of each map, pixels of the image a cell.
        stem: names, or their beginnings, of the parameters of the layers up to stride 4: general features, on large
            maps where much of the time goes. Few images need not train them.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    stem: tuple[str, ...]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """One (B, channels, H / stride, W / stride) map a stride."""
        raise NotImplementedError
