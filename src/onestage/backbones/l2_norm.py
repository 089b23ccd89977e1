"""L2 normalisation over channels with a learned scale (Liu et al. 2015, ParseNet, 3.3)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class L2Norm(nn.Module):
    """Each cell's vector of channels is brought to length 1, then each channel is multiplied by its learned scale."""

    def __init__(self, channels: int, initial_scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), initial_scale))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        # In float32 under autocast: a bfloat16 sum of hundreds of squares is wrong in the second digit. A product with
        # the inverse, since the gradient of F.normalize's division passes over the map four times more.
        x = x.float()
        inverse_lengths = x.square().sum(dim=1, keepdim=True).clamp(min=1e-24).rsqrt()
        return x * inverse_lengths * self.scale[:, None, None]
