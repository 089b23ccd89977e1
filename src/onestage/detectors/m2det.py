"""M2Det: a single-shot detector on a multi-level feature pyramid (Zhao et al., AAAI 2019, arXiv 1811.04533).

    images -> normalize -> backbone, two maps -> MLFPN (see `necks.mlfpn`) -> SSD's head on six maps
             -> class logits and box deltas of every anchor

Anchors, matching, loss and decoding are SSD's: see `detectors.multibox`. The network is the authors' release
(github.com/qijiezhao/M2Det); where the paper differs, that is a value of `M2DetConfig`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from onestage.backbones import FeatureMaps, ResNetStages, TimmMaps, VGG16Reduced
from onestage.detectors.base import MOST_CHANNELS, MOST_LAYERS, MadeNetwork, Normalization
from onestage.detectors.multibox import FRESH_LAYERS_GET_NORMS, MultiBoxConfig, MultiBoxDetector, MultiBoxHead
from onestage.errors import UserError
from onestage.necks import MLFPN, Norm
from onestage.selection import Selection
from onestage.settings import check_ranges, setting

SCALES = 6
HEAD_LEARNING_RATE_FACTOR = 0.1  # a logit has 18,432 inputs, all above 0: AdamW's full steps change it too much
PYRAMID_GETS_GROUP_NORMS = "group norms in the pyramid: through its many batch norms nothing is learned for a long time"


@dataclass(frozen=True, kw_only=True)
class M2DetConfig(MultiBoxConfig):
    """Every setting of an M2Det but its backbone and its number of classes.

    The release reads stages 2 and 4 of a ResNet and lets stage 3 keep the size of stage 2, so that the second map has
    stride 16 all the same; stages (2, 3) are the network as it was trained on ImageNet.
    """

    aspect_ratios: tuple[tuple[float, ...], ...] = setting(
        ((2.0, 3.0),) * SCALES, "Anchor shapes of each level beside the square, width / height"
    )
    base_channels: tuple[int, int] = setting(
        (256, 512), "Channels of the base feature, of its shallow and its deep map"
    )
    channels: int = setting(256, "Channels of each level of the pyramid")
    num_levels: int = setting(8, "Stacked U-shaped modules of the pyramid")
    shared_reduction: bool = setting(True, "One reducing convolution for all modules (release), not one each (paper)")
    sfam: bool = setting(False, "Attention over the pyramid's channels (Zhao 2019, 3.2)")
    shared_sfam: bool = setting(True, "One attention for all scales (release), not one each (paper)")
    resnet_stages: tuple[int, int] = setting((2, 4), "Stages of a ResNet that are read: 2 4 (release) or 2 3")
    backbone_maps: Literal["resnet", "timm"] = setting(
        "resnet", "Maps of a backbone other than VGG-16: two stages of a ResNet, or timm's at strides 8 and 32"
    )
    conv4_3_norm: bool = setting(False, "L2Norm on VGG-16's conv4_3, as in SSD; not in the release")
    batch_norm: bool = setting(False, "Batch norms in VGG-16's conv6 and conv7, which ImageNet weights seldom cover")
    norm: Norm = setting("batch", "Norms of the pyramid: batch (paper) or group, which learns from few images a step")
    norm_momentum: float = setting(
        0.1, "Weight of a batch in the running statistics of the pyramid's batch norms (release: 0.01)"
    )
    checkpoint_activations: bool = setting(False, "Compute activations again in the backward pass: less memory, slower")

    FAMILY = "M2Det"
    # Zhao 2019, 3.3: linear soft-NMS. The release drops scores below 0.1, which costs recall that AP counts.
    # The release gives 0.45 for soft-NMS's sigma, which linear decay has no use for, and leaves its IoU at 0.3.
    PAPERS_SELECTION = Selection(score_threshold=0.01, iou_threshold=0.3, nms="soft-linear", max_detections=200)

    def __post_init__(self) -> None:
        super().__post_init__()
        of_channels = {"channels": (2, MOST_CHANNELS), "base_channels": (1, MOST_CHANNELS)}
        check_ranges(self, {**of_channels, "num_levels": (1, MOST_LAYERS), "norm_momentum": (0, 1)})
        if self.norm == "group" and any(channels % 2 for channels in self.base_channels):
            raise UserError(f"base_channels {self.base_channels}: expected even numbers, which group norms divide")
        if self.channels % 2:
            raise UserError(f"channels {self.channels}: expected an even number, which is halved in the pyramid")

    def build(self, name: str, num_classes: int, normalization: Normalization) -> M2Det:
        backbone_name = name.partition("-")[2]
        if backbone_name == "vgg16":
            backbone = VGG16Reduced(self.batch_norm, conv4_3_norm=self.conv4_3_norm)
        elif self.backbone_maps == "resnet":
            backbone = ResNetStages(backbone_name, self.resnet_stages)
        else:
            backbone = TimmMaps(backbone_name)
        return M2Det(name, self, backbone, num_classes, normalization)

    def cells_at(self, image_size: int) -> list[int]:
        halved = [math.ceil(image_size / (8 * 2**level)) for level in range(SCALES - 1)]
        return [*halved, halved[-1] - 2]  # the last level is a 3x3 convolution without padding

    def with_quick_start(self) -> M2DetConfig:
        """Norms that let it learn from the first steps; a head that starts at hard-negative mining's class balance.

        Batch norms in VGG-16's fresh layers, group norms in the pyramid: see `MLFPN`.
        """
        return replace(self, batch_norm=True, norm="group", background_prior=0.75, head_scale=0.3)

    def made_for_data(self, backbone: str, *, pretrained: bool) -> MadeNetwork:
        if self.backbone_maps == "timm":  # its head reads 192 channels, not 2,048
            return MadeNetwork(self, batch_size=16, learning_rate=1e-3)
        return MadeNetwork(
            self.with_quick_start(),
            batch_size=4,  # 800 pixels take 2 GiB an image
            learning_rate=3e-4,
            head_learning_rate_factor=HEAD_LEARNING_RATE_FACTOR,
            reasons=(*((FRESH_LAYERS_GET_NORMS,) if backbone == "vgg16" else ()), PYRAMID_GETS_GROUP_NORMS),
        )


def _released(image_size: int, step_pattern: tuple[int, ...], size_pattern: tuple[float, ...]) -> M2DetConfig:
    """A configuration by the release's own settings (configs/m2det*_vgg.py), whose sizes are fractions of the input."""
    sizes = tuple(round(fraction * image_size, 4) for fraction in size_pattern)
    return M2DetConfig(image_size=image_size, strides=step_pattern, anchor_sizes=sizes)


M2DET320 = _released(320, (8, 16, 32, 64, 107, 320), (0.08, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))
M2DET512 = _released(512, (8, 16, 32, 64, 128, 256), (0.06, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))
M2DET704 = _released(704, (8, 16, 32, 64, 117, 176), (0.04, 0.11, 0.23, 0.39, 0.58, 0.80, 1.05))
M2DET800 = _released(800, (8, 16, 32, 62, 115, 160), (0.04, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))

# For any timm backbone, to be trained on a CPU. Departures from the paper and its release:
# - three TUMs of 64 channels, not eight of 256, on a base feature of 192 channels, not 768;
# - the base feature's deep map has stride 32: light backbones know the context there alone;
# - group norms in the pyramid: see `MLFPN`;
# - the head starts at the class balance that hard negative mining shows it (3 of 4 anchors are background).
M2DET320_LIGHT = replace(
    M2DET320,
    backbone_maps="timm",
    base_channels=(64, 128),
    channels=64,
    num_levels=3,
    norm="group",
    background_prior=0.75,
    head_scale=0.3,
)


class M2Det(MultiBoxDetector):
    """Two maps of a backbone (strides 8 and 16, or 32), the multi-level pyramid, one 3x3 head a scale.

    Raw outputs only; see `losses` and `detect`.
    """

    config: M2DetConfig

    def __init__(
        self, name: str, config: M2DetConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__(name, config, backbone, num_classes, normalization)
        shallow_channels, *_, deep_channels = backbone.channels
        self.mlfpn = MLFPN(
            (shallow_channels, deep_channels),
            config.channels,
            config.num_levels,
            SCALES,
            base_channels=config.base_channels,
            shared_reduction=config.shared_reduction,
            sfam=config.sfam,
            shared_sfam=config.shared_sfam,
            norm=config.norm,
            norm_momentum=config.norm_momentum,
            checkpoint_activations=config.checkpoint_activations,
        )
        self.head = MultiBoxHead(self, self.mlfpn.channels)

    def features(self, images_normalised: Float[Tensor, "B 3 S S"]) -> list[Tensor]:
        shallow, *_, deep = self.backbone(images_normalised)
        return self.mlfpn([shallow, deep])
