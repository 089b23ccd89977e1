"""SSD: Single Shot MultiBox Detector (Liu et al., ECCV 2016, arXiv 1512.02325).

    images -> normalize -> backbone -> (neck) -> extras -> head -> class logits and box deltas of every anchor

Anchors, matching, loss and decoding are in `detectors.multibox`. The paper's words, ours: default boxes, priors =
anchors; conf = class logits; loc = box deltas; steps = strides; min_sizes, max_sizes = an anchor size and the next one.

On VGG-16 the network is the paper's. On other backbones the departures are values of `SSDConfig`: see `SSD300_LIGHT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from onestage.backbones import FeatureMaps, TimmMaps, VGG16Reduced
from onestage.detectors.base import MOST_CHANNELS, MadeNetwork, Normalization
from onestage.detectors.multibox import FRESH_LAYERS_GET_NORMS, MultiBoxConfig, MultiBoxDetector, MultiBoxHead
from onestage.errors import UserError
from onestage.necks import TopDown
from onestage.selection import Selection
from onestage.settings import check_ranges, setting

Neck = Literal["none", "top_down"]

# Liu 2016, 2.2, in pixels as released: for VOC (ssd_pascal.py) and for COCO (ssd_coco.py, whose objects are smaller).
SSD300_VOC_SIZES = (30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0)
SSD300_COCO_SIZES = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
SSD512_VOC_SIZES = (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)
SSD512_COCO_SIZES = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)


@dataclass(frozen=True)
class Extra:
    """One more, coarser level: a 1x1 convolution to `reduced` channels, then a larger one to `channels`."""

    reduced: int
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    norm: bool = True  # has its own batch norm, in networks that have them; over 1 x 1 maps it leaves mostly noise

    def __post_init__(self) -> None:
        if min(self.reduced, self.channels, self.kernel, self.stride) < 1 or self.padding < 0:
            raise UserError(f"{self}: expected channels, a kernel and a stride of 1 or more, and no padding below 0")


@dataclass(frozen=True, kw_only=True)
class SSDConfig(MultiBoxConfig):
    """Every setting of an SSD but its backbone and its number of classes."""

    extras: tuple[Extra, ...] = setting(help="Levels after the backbone's, finest first")
    neck: Neck = setting("none", "top_down merges the backbone's maps (Lin 2017) before the extras and the head")
    neck_channels: int = setting(128, "Channels of the maps that come out of the neck")
    batch_norm: bool = setting(
        False, "Batch norms in layers that ImageNet weights seldom cover: the extras, VGG-16's conv6 and conv7"
    )

    FAMILY = "SSD"
    # Liu 2016, 3.1
    PAPERS_SELECTION = Selection(score_threshold=0.01, iou_threshold=0.45, max_detections=200)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, {"neck_channels": (1, MOST_CHANNELS)})

    def build(self, name: str, num_classes: int, normalization: Normalization) -> SSD:
        backbone = name.partition("-")[2]
        maps = VGG16Reduced(self.batch_norm) if backbone == "vgg16" else TimmMaps(backbone)
        return SSD(name, self, maps, num_classes, normalization)

    def cells_at(self, image_size: int) -> list[int]:
        cells = [math.ceil(image_size / stride) for stride in self.strides[: len(self.strides) - len(self.extras)]]
        for extra in self.extras:
            cells.append((cells[-1] + 2 * extra.padding - extra.kernel) // extra.stride + 1)
        return cells

    def with_quick_start(self) -> SSDConfig:
        """The paper's network made to learn from fewer images.

        Without it, at batch 8, VGG-16's first hundreds of steps go into unlearning the random scale of the outputs of
        its fresh layers: the maps of the original VGG-16 are in the hundreds.
        """
        return replace(self, batch_norm=True, background_prior=0.75, head_scale=0.3)

    def made_for_data(self, backbone: str, *, pretrained: bool) -> MadeNetwork:
        if backbone == "vgg16":
            return MadeNetwork(self.with_quick_start(), 8, 2.5e-4, reasons=(FRESH_LAYERS_GET_NORMS,))
        # fresh weights need many steps before many images a step
        return MadeNetwork(self, 16, 2e-3) if pretrained else MadeNetwork(self, 8, 3e-3)


SSD300 = SSDConfig(
    image_size=300,
    extras=(
        Extra(256, 512, stride=2, padding=1),  # conv8, 10 x 10
        Extra(128, 256, stride=2, padding=1),  # conv9, 5 x 5
        Extra(128, 256),  # conv10, 3 x 3
        Extra(128, 256, norm=False),  # conv11, 1 x 1
    ),
    strides=(8, 16, 32, 64, 100, 300),
    anchor_sizes=SSD300_VOC_SIZES,
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)

SSD512 = SSDConfig(
    image_size=512,
    extras=(
        Extra(256, 512, stride=2, padding=1),  # conv8, 16 x 16
        Extra(128, 256, stride=2, padding=1),  # conv9, 8 x 8
        Extra(128, 256, stride=2, padding=1),  # conv10, 4 x 4
        Extra(128, 256, stride=2, padding=1),  # conv11, 2 x 2
        Extra(128, 256, kernel=4, padding=1, norm=False),  # conv12, 1 x 1
    ),
    strides=(8, 16, 32, 64, 128, 256, 512),
    anchor_sizes=SSD512_VOC_SIZES,
    aspect_ratios=((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)

# For backbones with maps at strides 8, 16 and 32, to be trained in minutes. Departures from the paper:
# - a top-down path of 128 channels: light backbones have few channels at stride 8, which know little of the context;
# - batch norm in the extras, and fewer channels;
# - the head starts at the class balance that hard negative mining shows it (3 of 4 anchors are background).
SSD300_LIGHT = replace(
    SSD300,
    extras=(
        Extra(64, 128, stride=2, padding=1),  # 5 x 5
        Extra(64, 128, stride=2, padding=1),  # 3 x 3
        Extra(64, 128),  # 1 x 1
    ),
    neck="top_down",
    neck_channels=128,
    batch_norm=True,
    background_prior=0.75,
)
SSD512_LIGHT = replace(
    SSD300_LIGHT,
    image_size=512,
    extras=(Extra(64, 128, stride=2, padding=1),) * 4,  # 8 x 8, 4 x 4, 2 x 2, 1 x 1
    strides=SSD512.strides,
    anchor_sizes=SSD512.anchor_sizes,
    aspect_ratios=SSD512.aspect_ratios,
)


class SSD(MultiBoxDetector):
    """Backbone maps, extra maps, one 3x3 head a map. Raw outputs only; see `losses` and `detect`.

    Raises a UserError if the backbone cannot take images of this size, or its levels do not fit the configuration.
    """

    config: SSDConfig

    def __init__(
        self, name: str, config: SSDConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__(name, config, backbone, num_classes, normalization)
        self.neck = TopDown(backbone.channels, config.neck_channels) if config.neck == "top_down" else None
        channels = list(self.neck.channels if self.neck else backbone.channels)
        self.extras = nn.ModuleList()
        for extra in config.extras:
            self.extras.append(ExtraLayer(channels[-1], extra, config.batch_norm))
            channels.append(extra.channels)
        self.head = MultiBoxHead(self, channels)

    def features(self, images_normalised: Float[Tensor, "B 3 S S"]) -> list[Tensor]:
        maps = self.backbone(images_normalised)
        if self.neck is not None:
            maps = self.neck(maps)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps


class ExtraLayer(nn.Module):
    """The layers of one `Extra`, each with ReLU."""

    def __init__(self, channels_in: int, extra: Extra, batch_norm: bool) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels_in, extra.reduced, kernel_size=1, bias=not batch_norm)
        self.reduce_norm = nn.BatchNorm2d(extra.reduced) if batch_norm else nn.Identity()
        batch_norm = batch_norm and extra.norm
        self.conv = nn.Conv2d(
            extra.reduced, extra.channels, extra.kernel, extra.stride, extra.padding, bias=not batch_norm
        )
        self.conv_norm = nn.BatchNorm2d(extra.channels) if batch_norm else nn.Identity()
        for conv in (self.reduce, self.conv):
            nn.init.xavier_uniform_(conv.weight)  # Liu 2016, 3
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        x = F.relu(self.reduce_norm(self.reduce(x)), inplace=True)
        return F.relu(self.conv_norm(self.conv(x)), inplace=True)
