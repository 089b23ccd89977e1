"""timm's ImageNet entry names -> the backbone made by `timm.create_model(name, features_only=True)`.

`features_only` drops the layers after the last map and, in some networks, joins a module's number to its name with `_`
(`stages.0` -> `stages_0`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import timm
import torch
from torch import Tensor

from onestage.errors import UserError
from onestage.models.layouts.renamed import Renamed
from onestage.models.layouts.torchvision_mobilenet import is_torchvision_mobilenet_v2, timm_name_of

BODY = "backbone.body."


def rename_timm(state_dict: Mapping[str, Tensor], model_name: str, own_names: Collection[str]) -> Renamed:
    """A full timm network's entries, or torchvision's MobileNetV2's, -> ours.

    Args:
        state_dict: theirs.
        model_name: timm's name of the network.
        own_names: all entry names of the detector; those of the backbone start with `backbone.body.`.
    """
    renamed = Renamed(layout=f"timm {model_name}")
    ours_of = {_full_name(name.removeprefix(BODY)): name for name in own_names if name.startswith(BODY)}
    after_the_maps = full_names(model_name)
    if is_torchvision_mobilenet_v2(state_dict):
        renamed.layout = "torchvision mobilenet_v2"
    for theirs, value in state_dict.items():
        name = timm_name_of(theirs) if renamed.layout == "torchvision mobilenet_v2" else theirs
        if name in ours_of:
            renamed.add(ours_of[name], theirs, value)
        elif name is not None and name.replace("num_batches_tracked", "running_mean") in ours_of:
            renamed.left_out[theirs] = "frozen batch norms do not count batches"
        elif name in after_the_maps:
            renamed.left_out[theirs] = "it comes after the last feature map"
        else:
            renamed.unexplained.append(theirs)
    return renamed


def full_names(model_name: str) -> frozenset[str]:
    """Entry names of the whole network with its classifier; no memory is taken for it.

    Raises:
        UserError: timm has no network of this name.
    """
    try:
        with torch.device("meta"):
            return frozenset(timm.create_model(model_name, pretrained=False).state_dict())
    except RuntimeError as error:
        raise UserError(f"backbone {model_name}: {str(error).splitlines()[0]}") from error


def _full_name(name: str) -> str:
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name)
