"""ImageNet networks of timm, and torchvision's MobileNetV2, as `timm.create_model(name, features_only=True)`.

`features_only` drops the layers after the last feature map and, in some networks, joins a module's number to its name
with `_` (`stages.0` -> `stages_0`).
"""

import re

import timm
import torch
from torch import Tensor
from torchvision.models import mobilenet_v2

from onestage.errors import UserError
from onestage.models.layouts.layout import NO_BATCH_COUNTS
from onestage.models.loading import Renamed

BODY = "backbone.body."


def rename_timm(state_dict: dict[str, Tensor], model_name: str, own: dict[str, Tensor]) -> Renamed:
    """Give a whole network our names; it has timm's, or torchvision's of MobileNetV2. `own` is our state dict."""
    is_torchvision = "features.0.0.weight" in state_dict and "features.1.conv.0.0.weight" in state_dict
    renamed = Renamed("torchvision mobilenet_v2" if is_torchvision else f"timm {model_name}")
    our_names = {
        re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name.removeprefix(BODY)): name for name in own if name.startswith(BODY)
    }
    try:
        with torch.device("meta"):  # no memory is taken for them
            whole_network = timm.create_model(model_name, pretrained=False).state_dict()
            timm_names: dict[str, str] = {}
            if is_torchvision:  # the same entries in the same order, under other names
                timms = timm.create_model("mobilenetv2_100", pretrained=False).state_dict()
                timm_names = dict(zip(mobilenet_v2().state_dict(), timms, strict=True))
    except RuntimeError as error:
        raise UserError(f"backbone {model_name}: {str(error).splitlines()[0]}") from error
    for theirs, value in state_dict.items():
        name = timm_names.get(theirs, theirs)
        if name in our_names:
            renamed.add(our_names[name], theirs, value)
        elif name.replace("num_batches_tracked", "running_mean") in our_names:
            renamed.left_out[theirs] = NO_BATCH_COUNTS
        elif name in whole_network:
            renamed.left_out[theirs] = "it comes after the last feature map"
        else:
            renamed.unknown.append(theirs)
    return renamed
