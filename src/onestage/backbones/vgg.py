"""VGG-16 (Simonyan & Zisserman 2014, configuration D) as SSD reduces it (Liu et al. 2016, 3).

fc6 and fc7 become convolutions. pool5 is 3x3 with stride 1, so conv5 to conv7 have one stride. pool3 rounds up, so a
300-pixel image has a 38 x 38 map.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from onestage.backbones.base import FeatureMaps


class VGG16Reduced(FeatureMaps):
    """The maps of conv4_3 (stride 8) and conv7 (stride 16). `batch_norm` adds batch norms after conv6 and conv7."""

    channels = (512, 1024)
    strides = (8, 16)
    stem = ("conv1_", "conv2_", "conv3_")

    def __init__(self, batch_norm: bool = False, *, conv4_3_norm: bool = True) -> None:
        super().__init__()
        self.conv1_1, self.conv1_2 = _conv3x3(3, 64), _conv3x3(64, 64)
        self.conv2_1, self.conv2_2 = _conv3x3(64, 128), _conv3x3(128, 128)
        self.conv3_1, self.conv3_2, self.conv3_3 = _conv3x3(128, 256), _conv3x3(256, 256), _conv3x3(256, 256)
        self.conv4_1, self.conv4_2, self.conv4_3 = _conv3x3(256, 512), _conv3x3(512, 512), _conv3x3(512, 512)
        self.conv5_1, self.conv5_2, self.conv5_3 = _conv3x3(512, 512), _conv3x3(512, 512), _conv3x3(512, 512)
        self.conv6 = nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6)  # fc6, every third tap of its 7x7
        self.conv7 = nn.Conv2d(1024, 1024, kernel_size=1)  # fc7
        self.conv6_norm = nn.BatchNorm2d(1024) if batch_norm else nn.Identity()
        self.conv7_norm = nn.BatchNorm2d(1024) if batch_norm else nn.Identity()
        # Liu 2016, 3.1: conv4_3 has larger norms than the other maps, so rescale to 20, and learn the scale.
        self.conv4_3_norm = L2Norm(512, initial_scale=20.0) if conv4_3_norm else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        # Pool before ReLU where the larger map is not needed: the same values for a quarter of the work.
        x = F.relu_(F.max_pool2d(self.conv1_2(_relu_all(images, self.conv1_1)), 2))
        x = F.relu_(F.max_pool2d(self.conv2_2(_relu_all(x, self.conv2_1)), 2))
        x = F.relu_(F.max_pool2d(self.conv3_3(_relu_all(x, self.conv3_1, self.conv3_2)), 2, ceil_mode=True))
        conv4_3 = _relu_all(x, self.conv4_1, self.conv4_2, self.conv4_3)
        x = _relu_all(F.max_pool2d(conv4_3, 2), self.conv5_1, self.conv5_2, self.conv5_3)
        conv6 = F.relu_(self.conv6_norm(self.conv6(F.max_pool2d(x, kernel_size=3, stride=1, padding=1))))
        conv7 = F.relu_(self.conv7_norm(self.conv7(conv6)))
        return [self.conv4_3_norm(conv4_3), conv7]


class L2Norm(nn.Module):
    """L2 normalisation over channels with a learned scale for each channel (Liu et al. 2015, ParseNet, 3.3)."""

    def __init__(self, channels: int, initial_scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), initial_scale))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        # In float32 under autocast: a bfloat16 sum of hundreds of squares is wrong in the second digit. Multiplied by
        # the inverse: the gradient of F.normalize's division passes over the map four times more.
        x = x.float()
        inverse_lengths = x.square().sum(dim=1, keepdim=True).clamp(min=1e-24).rsqrt()
        return x * inverse_lengths * self.scale[:, None, None]


def _conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1)


def _relu_all(x: Tensor, *convs: nn.Conv2d) -> Tensor:
    for conv in convs:
        x = F.relu(conv(x), inplace=True)
    return x
