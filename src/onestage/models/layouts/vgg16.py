"""VGG-16 trained on ImageNet -> the backbone of SSD: names, fc6 and fc7 as convolutions, and what its input was.

Liu 2016, 3: fc6 and fc7 become convolutions whose parameters are sub-sampled; fc6 (512x7x7 -> 4096) keeps every fourth
output and every third tap, which dilation 6 spreads again over the same field.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from onestage.models.layouts.layout import VGG16_PLACES
from onestage.models.layouts.renamed import Renamed

FC6 = ("classifier.0", "pre_logits.fc1")  # torchvision, timm
FC7 = ("classifier.3", "pre_logits.fc2")
IMAGENET_CLASSES = ("classifier.6", "head.fc")

# The first eight biases of conv1_1 of the original release (Simonyan & Zisserman 2015), which many files carry. It saw
# 0..255 minus the mean, undivided; networks trained by torchvision saw ImageNet's mean and std. The sizes of the first
# filters do not tell the two apart, so the release is recognised by its values. Fine-tuning hardly moves them.
ORIGINAL_CONV1_1_BIASES = (0.7343, 0.0934, 0.0678, 0.8863, 0.2599, 0.6643, -0.0158, 0.3249)
ORIGINAL_MEAN, ORIGINAL_STD = (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)


def rename_vgg16(state_dict: Mapping[str, Tensor]) -> Renamed:
    """torchvision's or timm's `vgg16` (`features.N`), or the reduced one of the SSD projects (`N`), -> our names.

    A file whose fully connected layers hold NaN (torchvision's IMAGENET1K_FEATURES) counts as one without them.
    """
    renamed = Renamed(layout="vgg16")
    for theirs, value in state_dict.items():
        module, _, kind = theirs.rpartition(".")
        place = module.removeprefix("features.")
        if place.isdecimal() and int(place) in VGG16_PLACES:
            renamed.add(f"backbone.{VGG16_PLACES[int(place)]}.{kind}", theirs, value)
        elif module in (*FC6, *FC7):
            _add_sampled(renamed, theirs, value)
        elif module in IMAGENET_CLASSES:
            renamed.left_out[theirs] = "it tells ImageNet's classes apart"
        else:
            renamed.unexplained.append(theirs)
    return renamed


def is_original_release(conv1_1_bias: Float[Tensor, " 64"]) -> bool:
    """Whether a VGG-16 is the original release or was fine-tuned from it, by the biases of conv1_1 (within 10 %)."""
    original = torch.tensor(ORIGINAL_CONV1_1_BIASES)
    difference = conv1_1_bias[: len(original)].detach().cpu().float() - original
    return bool(difference.norm() < 0.1 * original.norm())


def sample_fc6(weight: Float[Tensor, "O I"] | Float[Tensor, "O C 7 7"]) -> Float[Tensor, "P C 3 3"]:
    """fc6 as a 3x3 convolution: every fourth output, taps 0, 3 and 6 of seven."""
    return weight.reshape(weight.shape[0], -1, 7, 7)[::4, :, ::3, ::3].contiguous()


def sample_fc7(weight: Float[Tensor, "O I"] | Float[Tensor, "O I 1 1"]) -> Float[Tensor, "P Q 1 1"]:
    """fc7 as a 1x1 convolution: every fourth output of every fourth input."""
    return weight.reshape(weight.shape[0], -1, 1, 1)[::4, ::4].contiguous()


def _add_sampled(renamed: Renamed, theirs: str, value: Tensor) -> None:
    module, _, kind = theirs.rpartition(".")
    is_fc6 = module in FC6
    if value.shape[:1] != (4096,) or (is_fc6 and kind == "weight" and value[0].numel() % 49):
        renamed.unexplained.append(theirs)
    elif not torch.isfinite(value).all():
        renamed.left_out[theirs] = "its values are NaN"
    elif kind == "bias":
        ours = "backbone.conv6.bias" if is_fc6 else "backbone.conv7.bias"
        renamed.add(ours, theirs, value[::4].contiguous(), change="every fourth output of fc6 or fc7 taken")
    elif is_fc6:
        renamed.add("backbone.conv6.weight", theirs, sample_fc6(value), change="fc6's taps 0, 3, 6 of 7x7 taken")
    else:
        renamed.add("backbone.conv7.weight", theirs, sample_fc7(value), change="every fourth of fc7 taken")
