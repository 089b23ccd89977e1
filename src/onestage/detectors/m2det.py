"""M2Det: a Single-Shot Object Detector based on Multi-Level Feature Pyramid Network (Zhao et al., AAAI 2019,
arXiv 1811.04533).

    images -> normalize -> backbone, two maps -> MLFPN (see `necks.mlfpn`) -> SSD's head on six maps
             -> class logits and box deltas of every anchor

Anchors, matching, loss and decoding are SSD's: see `detectors.multibox`. The network is the authors' release
(github.com/qijiezhao/M2Det); where the paper differs, that is a value of `M2DetConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from onestage.backbones import FeatureMaps
from onestage.detectors.base import Normalization
from onestage.detectors.multibox import MultiBoxConfig, MultiBoxDetector
from onestage.necks import MLFPN, Norm
from onestage.postprocess import Selection

SCALES = 6


@dataclass(frozen=True, kw_only=True)
class M2DetConfig(MultiBoxConfig):
    """Every number of an M2Det but its backbone and its number of classes.

    Attributes:
        channels, num_levels: see `MLFPN`.
        shared_reduction, sfam, shared_sfam: see `MLFPN`; as they stand, the released code's, not the paper's.
        resnet_stages: the two stages of a ResNet that are read. The release reads 2 and 4, and lets stage 3 keep the
            size of stage 2, so that the second map has stride 16 all the same. (2, 3) is the network as it was trained
            on ImageNet.
        conv4_3_norm: L2Norm on VGG-16's conv4_3, as in SSD; not in the release.
        batch_norm: in VGG-16's conv6 and conv7, which ImageNet weights seldom cover.
        norm: of the pyramid, see `MLFPN`.
        checkpoint_activations: see `MLFPN`.
    """

    aspect_ratios: tuple[tuple[float, ...], ...] = ((2.0, 3.0),) * SCALES
    channels: int = 256
    num_levels: int = 8
    shared_reduction: bool = True
    sfam: bool = False
    shared_sfam: bool = True
    resnet_stages: tuple[int, int] = (2, 4)
    conv4_3_norm: bool = False
    batch_norm: bool = False
    norm: Norm = "batch"
    checkpoint_activations: bool = False

    FAMILY = "M2Det"
    RECIPE_FIELDS = MultiBoxConfig.RECIPE_FIELDS | {"checkpoint_activations", "sfam"}

    def with_quick_start(self) -> M2DetConfig:
        """Norms that let it learn from the first steps, and a head that starts at the class balance of mining.

        Batch norms in VGG-16's fresh layers, group norms in the pyramid: see `MLFPN`.
        """
        return replace(self, batch_norm=True, norm="group", background_prior=0.75, head_scale=0.3)


def _released(image_size: int, step_pattern: tuple[int, ...], size_pattern: tuple[float, ...]) -> M2DetConfig:
    """By the words of the release's configurations (configs/m2det*_vgg.py): sizes are fractions of the input."""
    sizes = tuple(round(fraction * image_size, 4) for fraction in size_pattern)
    return M2DetConfig(image_size=image_size, strides=step_pattern, anchor_sizes=sizes)


M2DET320 = _released(320, (8, 16, 32, 64, 107, 320), (0.08, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))
M2DET512 = _released(512, (8, 16, 32, 64, 128, 256), (0.06, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))
M2DET704 = _released(704, (8, 16, 32, 64, 117, 176), (0.04, 0.11, 0.23, 0.39, 0.58, 0.80, 1.05))
M2DET800 = _released(800, (8, 16, 32, 62, 115, 160), (0.04, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05))


class M2Det(MultiBoxDetector):
    """Two maps of a backbone, the multi-level pyramid, one 3x3 head a scale. Raw outputs only; see `losses`, `detect`.

    Args:
        name: as `onestage.build` takes it.
        config: every number.
        backbone: a map at stride 8 and one at stride 16.
        num_classes: K, without background.
        normalization: what the backbone's weights were trained with.
    """

    # Zhao 2019, 3.3: linear soft-NMS. The release drops scores below 0.1, which costs recall that AP counts.
    evaluation_selection = Selection(score_threshold=0.01, iou_threshold=0.45, nms="soft-linear", max_detections=200)
    config: M2DetConfig

    def __init__(
        self, name: str, config: M2DetConfig, backbone: FeatureMaps, num_classes: int, normalization: Normalization
    ) -> None:
        super().__init__(name, config, backbone, num_classes, normalization)
        shallow_channels, deep_channels = backbone.channels
        self.mlfpn = MLFPN(
            (shallow_channels, deep_channels),
            config.channels,
            config.num_levels,
            SCALES,
            shared_reduction=config.shared_reduction,
            sfam=config.sfam,
            shared_sfam=config.shared_sfam,
            norm=config.norm,
            checkpoint_activations=config.checkpoint_activations,
        )
        self.add_head(self.mlfpn.channels)

    def features(self, images_normalised: Float[Tensor, "B 3 S S"]) -> list[Tensor]:
        return self.mlfpn(self.backbone(images_normalised))
