"""Any timm backbone as three feature maps, at strides 8, 16 and 32."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from jaxtyping import Float
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from onestage.backbones.feature_maps import FeatureMaps
from onestage.errors import UserError

STRIDES = (8, 16, 32)


class TimmMaps(FeatureMaps):
    """The maps of `timm.create_model(name, features_only=True)` at strides 8, 16 and 32, with fresh weights.

    Raises:
        UserError: timm has no such model, or it has no map at one of the strides.
    """

    strides = STRIDES

    def __init__(self, name: str) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
            mend = f"the nearest are {', '.join(near)}" if near else "`timm.list_models()` lists what it has"
            raise UserError(f"backbone {name!r}: timm {timm.__version__} has no model of that name; {mend}")
        try:
            self.body = timm.create_model(name, features_only=True, pretrained=False)
        except (RuntimeError, AttributeError, AssertionError, KeyError, TypeError) as error:
            raise UserError(
                f"backbone {name!r}: timm can't give its feature maps ({error}); use another one"
            ) from error
        feature_info: Any = self.body.feature_info
        reductions: list[int] = feature_info.reduction()
        if not set(STRIDES) <= set(reductions):
            raise UserError(
                f"backbone {name!r}: its maps have strides {', '.join(map(str, reductions))}; expected 8, 16 and 32 "
                "among them; use a pyramidal network such as tf_efficientnet_lite0 or resnet18"
            )
        # The last map of a stride has seen most layers.
        self.indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES)
        self.channels = tuple(feature_info.channels()[index] for index in self.indices)
        self.stem = self._parameters_up_to([one["module"] for one in feature_info.info if one["reduction"] <= 4])

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        maps = self.body(images)
        return [maps[index] for index in self.indices]

    def _parameters_up_to(self, modules: list[str]) -> tuple[str, ...]:
        """Names of the parameters up to the last of these modules of the body, in timm's order of layers."""
        names = [name for name, _ in self.named_parameters()]
        prefixes = tuple(f"body.{form}." for module in modules for form in (module, module.replace(".", "_")))
        last = max((index for index, name in enumerate(names) if name.startswith(prefixes)), default=-1)
        return tuple(names[: last + 1])


def timm_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, RGB on the 0..255 scale, that timm's weights of that name were trained with."""
    config = timm.get_pretrained_cfg(name)
    mean = IMAGENET_DEFAULT_MEAN if config is None else config.mean
    std = IMAGENET_DEFAULT_STD if config is None else config.std
    return tuple(round(255 * value, 4) for value in mean), tuple(round(255 * value, 4) for value in std)
