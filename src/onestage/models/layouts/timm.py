"""ImageNet networks of timm, and torchvision's MobileNetV2, as `timm.create_model(name, features_only=True)`.

`features_only` drops the layers after the last feature map and, in some networks, joins a module's number to its name
with `_` (`stages.0` -> `stages_0`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import timm
import torch
from torch import Tensor

from onestage.errors import UserError
from onestage.models.layouts.layout import NO_BATCH_COUNTS
from onestage.models.loading import Renamed

BODY = "backbone.body."
BLOCKS_PER_STAGE = (1, 2, 3, 4, 3, 3, 1)  # of MobileNetV2 (Sandler 2018, table 2)


def rename_timm(state_dict: Mapping[str, Tensor], model_name: str, own: Collection[str]) -> Renamed:
    """Give a whole network our names.

    Args:
        state_dict: the network, with timm's entry names or torchvision's of MobileNetV2.
        model_name: timm's name of the network.
        own: the detector's entry names.
    """
    is_torchvision = "features.0.0.weight" in state_dict and "features.1.conv.0.0.weight" in state_dict
    renamed = Renamed("torchvision mobilenet_v2" if is_torchvision else f"timm {model_name}")
    timm_modules = torchvision_mobilenet_v2() if is_torchvision else {}
    our_names = {
        re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name.removeprefix(BODY)): name for name in own if name.startswith(BODY)
    }
    whole_network = _entry_names(model_name)
    for theirs, value in state_dict.items():
        module, _, kind = theirs.rpartition(".")
        name = f"{timm_modules[module]}.{kind}" if module in timm_modules else theirs
        if name in our_names:
            renamed.add(our_names[name], theirs, value)
        elif name.replace("num_batches_tracked", "running_mean") in our_names:
            renamed.left_out[theirs] = NO_BATCH_COUNTS
        elif name in whole_network:
            renamed.left_out[theirs] = "it comes after the last feature map"
        else:
            renamed.unknown.append(theirs)
    return renamed


def _entry_names(model_name: str) -> frozenset[str]:
    """Entry names of a whole network with its classifier; no memory is taken for it."""
    try:
        with torch.device("meta"):
            return frozenset(timm.create_model(model_name, pretrained=False).state_dict())
    except RuntimeError as error:
        raise UserError(f"backbone {model_name}: {str(error).splitlines()[0]}") from error


def torchvision_mobilenet_v2() -> dict[str, str]:
    """Names of the modules of torchvision's `mobilenet_v2` -> those of timm's `mobilenetv2_100`, the same network."""
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"}
    names["classifier.1"] = "classifier"
    first_block = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}  # without expansion
    other_block = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
    blocks = [f"blocks.{stage}.{block}" for stage, count in enumerate(BLOCKS_PER_STAGE) for block in range(count)]
    for number, block in enumerate(blocks):
        for place, layer in (other_block if number else first_block).items():
            names[f"features.{number + 1}.conv.{place}"] = f"{block}.{layer}"
    return names
