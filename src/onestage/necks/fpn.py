"""RetinaNet's feature pyramid network, levels P3 to P7 (Lin et al. 2017, arXiv 1708.02002, 4)."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

P6From = Literal["c5", "p5"]


class FPN(nn.Module):
    """Five maps at strides 8 to 128 from three at strides 8, 16 and 32: torchvision's, and two convolutions on top.

    P6 is made of the backbone's last map (the paper, note 2) or of P5 (torchvision's first RetinaNet). The paper has a
    ReLU between P6 and P7, mmdetection none.
    """

    def __init__(self, channels_in: Sequence[int], channels: int, p6_from: P6From = "c5", p7_relu: bool = True) -> None:
        super().__init__()
        self.channels = (channels,) * (len(channels_in) + 2)
        self.p6_from, self.p7_relu = p6_from, p7_relu
        self.pyramid = FeaturePyramidNetwork(list(channels_in), channels)
        self.p6 = nn.Conv2d(channels_in[-1] if p6_from == "c5" else channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        for conv in (self.p6, self.p7):
            nn.init.kaiming_uniform_(conv.weight, a=1)  # as torchvision's
            nn.init.zeros_(conv.get_parameter("bias"))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """P3, P4, P5, P6 and P7 from maps (B, channels_in, H, W), finest first."""
        levels = list(self.pyramid({str(level): x for level, x in enumerate(maps)}).values())
        p6 = self.p6(maps[-1] if self.p6_from == "c5" else levels[-1])
        p7 = self.p7(F.relu(p6) if self.p7_relu else p6)
        return [*levels, p6, p7]
