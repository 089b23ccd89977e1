"""timm's backbones as maps at strides 8, 16 and 32."""

import pytest
import torch

from onestage.backbones import TimmMaps, timm_normalization
from onestage.errors import UserError


# Channels: He 2016, table 1 (ResNet-18); Tan 2019, table 1, whose lite form has no other (EfficientNet-B0).
@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", (128, 256, 512)), ("tf_efficientnet_lite0", (40, 112, 320))]
)
def test_maps_are_at_strides_8_16_and_32(name: str, channels: tuple[int, ...]) -> None:
    backbone = TimmMaps(name).to("meta").eval()
    maps = backbone(torch.empty(1, 3, 64, 96, device="meta"))
    expected = [(1, c, 64 // stride, 96 // stride) for c, stride in zip(channels, (8, 16, 32), strict=True)]
    assert [tuple(x.shape) for x in maps] == expected
    assert (backbone.channels, backbone.strides) == (channels, (8, 16, 32))


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        TimmMaps("tf_eficientnet_lite0")
    with pytest.raises(UserError, match="lists what it has"):
        TimmMaps("§§§")


def test_a_backbone_without_a_pyramid_says_which_strides_it_has() -> None:
    with pytest.raises(UserError, match="strides 16, 16, 16; expected 8, 16 and 32"):
        TimmMaps("test_vit")


def test_normalisation_is_that_of_the_models_published_weights() -> None:
    assert timm_normalization("tf_efficientnet_lite0") == ((127.5,) * 3, (127.5,) * 3)  # (x / 255 - 0.5) / 0.5
    assert timm_normalization("resnet18") == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # ImageNet's


@pytest.mark.parametrize(
    ("name", "last", "first_after"),
    [  # the layers before stride 8, by timm's own tables of these networks
        ("tf_efficientnet_lite0", "body.blocks.1.1.bn3.bias", "body.blocks.2.0.conv_pw.weight"),
        ("resnet18", "body.layer1.1.bn2.bias", "body.layer2.0.conv1.weight"),
        ("regnetx_002", "body.s1.b1.downsample.bn.bias", "body.s2.b1.conv1.conv.weight"),
    ],
)
def test_the_stem_is_what_comes_before_the_map_at_stride_8(name: str, last: str, first_after: str) -> None:
    backbone = TimmMaps(name)
    assert backbone.stem[-1] == last
    names = [parameter for parameter, _ in backbone.named_parameters()]
    assert names[len(backbone.stem) - 1] == last
    assert names[len(backbone.stem)] == first_after
