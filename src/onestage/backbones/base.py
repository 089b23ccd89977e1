"""What a backbone is."""

from jaxtyping import Float
from torch import Tensor, nn


class FeatureMaps(nn.Module):
    """A network from normalised images to feature maps, finest first."""

    channels: tuple[int, ...]  # of each map
    strides: tuple[int, ...]  # of each map, in pixels of the image
    # Prefixes of the parameters of the layers up to stride 4: general features, on large maps, where much of the time
    # is spent. With few images they can be left as they are.
    stem: tuple[str, ...]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """One map (B, channels, H / stride, W / stride) for each stride."""
        raise NotImplementedError
