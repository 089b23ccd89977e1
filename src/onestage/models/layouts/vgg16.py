"""VGG-16 trained on ImageNet, as the backbone of SSD: entry names, fc6 and fc7 as convolutions, normalisation.

Liu 2016, 3: fc6 and fc7 become convolutions with sub-sampled parameters. fc6 (512x7x7 -> 4096) keeps every fourth
output and every third tap; dilation 6 spreads the taps over the same field again.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from onestage.detectors import Normalization
from onestage.models.layouts.layout import IMAGENET_CLASSIFIER, VGG16_PLACES
from onestage.models.loading import Renamed

# The first eight biases of conv1_1 of the original release (Simonyan & Zisserman 2015), by which it is recognised:
# fine-tuning hardly moves them. It was trained on 0..255 minus the mean, undivided.
ORIGINAL_CONV1_1_BIASES = (0.7343, 0.0934, 0.0678, 0.8863, 0.2599, 0.6643, -0.0158, 0.3249)
ORIGINAL_NORMALIZATION = Normalization(mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0))

# torchvision's and timm's names of fc6 and fc7
SAMPLED = {"classifier.0": "conv6", "pre_logits.fc1": "conv6", "classifier.3": "conv7", "pre_logits.fc2": "conv7"}


def sample_fc6(weight: Float[Tensor, "O I"] | Float[Tensor, "O C 7 7"]) -> Float[Tensor, "P C 3 3"]:
    """fc6 as a 3x3 convolution: every fourth output, taps 0, 3 and 6 of seven."""
    return weight.reshape(weight.shape[0], -1, 7, 7)[::4, :, ::3, ::3].contiguous()


def sample_fc7(weight: Float[Tensor, "O I"] | Float[Tensor, "O I 1 1"]) -> Float[Tensor, "P Q 1 1"]:
    """fc7 as a 1x1 convolution: every fourth output of every fourth input."""
    return weight.reshape(weight.shape[0], -1, 1, 1)[::4, ::4].contiguous()


def rename_vgg16(state_dict: dict[str, Tensor]) -> Renamed:
    """Give VGG-16's entries our names: torchvision's or timm's (`features.N`), or the SSD projects' reduced one (`N`).

    Fully connected layers of NaN (torchvision's IMAGENET1K_FEATURES) are left out.
    """
    renamed = Renamed("vgg16")
    for theirs, value in state_dict.items():
        module, _, kind = theirs.rpartition(".")
        place = module.removeprefix("features.")
        if place.isdecimal() and int(place) in VGG16_PLACES:
            renamed.add(f"backbone.{VGG16_PLACES[int(place)]}.{kind}", theirs, value)
        elif module in SAMPLED and value.shape[:1] == (4096,):
            conv = SAMPLED[module]
            if not torch.isfinite(value).all():
                renamed.left_out[theirs] = "its values are NaN"
            elif kind == "bias":
                renamed.add(f"backbone.{conv}.bias", theirs, value[::4].contiguous(), "every fourth output taken")
            elif conv == "conv6" and value[0].numel() % 49:
                renamed.unknown.append(theirs)
            else:
                sample = sample_fc6 if conv == "conv6" else sample_fc7
                renamed.add(f"backbone.{conv}.weight", theirs, sample(value), "sub-sampled as in Liu 2016, 3")
        elif module in ("classifier.6", "head.fc"):
            renamed.left_out[theirs] = IMAGENET_CLASSIFIER
        else:
            renamed.unknown.append(theirs)
    return renamed


def is_original_release(conv1_1_bias: Float[Tensor, " 64"]) -> bool:
    """True if a VGG-16 is the original release or fine-tuned from it, by the biases of conv1_1 (within 10 %)."""
    original = torch.tensor(ORIGINAL_CONV1_1_BIASES)
    difference = conv1_1_bias[: len(original)].detach().cpu().float() - original
    return bool(difference.norm() < 0.1 * original.norm())
