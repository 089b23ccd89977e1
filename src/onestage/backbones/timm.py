"""Backbones from timm: any network as maps at strides 8, 16 and 32, and ResNets as M2Det reads them."""

import difflib
from typing import Any

import timm
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn

from onestage.backbones.base import FeatureMaps
from onestage.errors import UserError

STRIDES = (8, 16, 32)


class TimmMaps(FeatureMaps):
    """The maps of `timm.create_model(name, features_only=True)` at strides 8, 16 and 32, with fresh weights.

    `frozen_norm` fixes the statistics, scales and shifts of batch norms at those of the weights that are loaded.

    Raises:
        UserError: timm has no such model, or the model has no map at one of the strides.
    """

    strides = STRIDES

    def __init__(self, name: str, *, frozen_norm: bool = False) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
            mend = f"the nearest are {', '.join(near)}" if near else "`timm.list_models()` lists what it has"
            raise UserError(f"backbone {name!r}: timm {timm.__version__} has no model of that name; {mend}")
        try:
            body = timm.create_model(name, features_only=True, pretrained=False)
        except (RuntimeError, AttributeError, AssertionError, KeyError, TypeError) as error:
            raise UserError(f"backbone {name!r}: timm can't give its feature maps ({error}); use another") from error
        info: Any = body.feature_info
        reductions: list[int] = info.reduction()
        if not set(STRIDES) <= set(reductions):
            raise UserError(
                f"backbone {name!r}: its maps have strides {', '.join(map(str, reductions))}; expected 8, 16 and 32 "
                "among them; use a pyramidal network such as tf_efficientnet_lite0 or resnet18"
            )
        self.body = freeze_batch_norm_2d(body) if frozen_norm else body
        # Several maps may have one stride; the last of them has passed through most layers.
        self.indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES)
        self.channels = tuple(info.channels()[index] for index in self.indices)
        self.stem = _stem(self, info)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        maps = self.body(images)
        return [maps[index] for index in self.indices]


class ResNetStages(FeatureMaps):
    """A ResNet's maps of stages (2, 3), or of (2, 4), where stage 3 keeps the size of stage 2: strides 8 and 16."""

    strides = (8, 16)

    def __init__(self, name: str, stages: tuple[int, int]) -> None:
        super().__init__()
        if stages not in ((2, 3), (2, 4)):
            raise UserError(f"{name}: stages {stages}; expected (2, 3) or (2, 4), whose maps have strides 8 and 16")
        self.body = timm.create_model(name, features_only=True, pretrained=False, out_indices=stages)
        info: Any = self.body.feature_info
        self.channels, self.stem = tuple(info.channels()), _stem(self, info)
        if stages[1] == 4:
            for layer in self.body.get_submodule("layer3.0").modules():
                if isinstance(layer, nn.Conv2d):
                    layer.stride = (1, 1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        return self.body(images)


def timm_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, RGB on the 0..255 scale, that timm's weights of a network were trained with.

    A UserError for a tag of weights that timm does not have.
    """
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        network, _, tag = name.partition(".")
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{network}.*")]
        mend = f"it has {', '.join(tags)}" if tags else "leave the tag out"
        raise UserError(f"backbone {network}: timm {timm.__version__} has no weights {tag!r} of it; {mend}") from error
    mean, std = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD) if config is None else (config.mean, config.std)
    return tuple(round(255 * value, 4) for value in mean), tuple(round(255 * value, 4) for value in std)


def _stem(backbone: nn.Module, info: Any) -> tuple[str, ...]:
    """Names of the parameters up to the last module at stride 4 or less, in timm's order of layers."""
    modules = [one["module"] for one in info.info if one["reduction"] <= 4]
    prefixes = tuple(f"body.{form}." for module in modules for form in (module, module.replace(".", "_")))
    names = [name for name, _ in backbone.named_parameters()]
    last = max((index for index, name in enumerate(names) if name.startswith(prefixes)), default=-1)
    return tuple(names[: last + 1])
