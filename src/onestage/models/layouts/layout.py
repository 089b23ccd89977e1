"""What a layout is: another project's entry names beside ours, and how its networks were trained."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onestage.detectors import Normalization
from onestage.models.loading import Renamed

# Where VGG-16's convolutions stand in torchvision's `features` list, which other projects kept; ReLUs and poolings
# stand between them. 31 and 33 are fc6 and fc7 as convolutions (Liu 2016, 3).
VGG16_PLACES = {
    **{0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3"},
    **{17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3"},
    **{31: "conv6", 33: "conv7"},
}
CONV4_3_SCALE = "backbone.conv4_3_norm.scale"
MAX_EXTRAS = 5  # SSD512's; SSD300 has four
MAX_LEVELS = 7  # SSD512's

CAFFE_MEANS = Normalization(mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))  # RGB
NO_BATCH_COUNTS = "frozen batch norms do not count batches"
IMAGENET_CLASSIFIER = "it classifies ImageNet"


@dataclass(frozen=True)
class Layout:
    """The checkpoints of one project for one family of detectors."""

    name: str  # value of `layout=` that chooses it
    project: str  # for messages
    family: str  # as `DetectorConfig.FAMILY`
    names: dict[str, str]  # module, prefix of modules, or entry -> ours; what follows a module's name stays
    markers: tuple[str, ...]  # entries that together are in this layout and in no other, unless its file says so
    normalization: Normalization  # of the input that its networks were trained with
    # (our configuration, their state dict) -> the fields of the configuration that the checkpoint needs
    settings: Callable[[Any, dict[str, Tensor]], dict[str, Any]]
    # lists of layers whose members may be one layer -> our setting that says whether they are
    shared: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # prefix of entries that are not used -> the reason
    # (our entry, their value, number of classes) -> our value and what was done to theirs; None leaves it
    convert: Callable[[str, Tensor, int], tuple[Tensor, str] | None] = lambda ours, value, num_classes: None
    notes: tuple[str, ...] = ()  # differences to the project's own program, a sentence each

    def our_name(self, theirs: str) -> str | None:
        words = theirs.split(".")
        for length in range(len(words), 0, -1):
            ours = self.names.get(".".join(words[:length]))
            if ours is not None:
                return ".".join([ours, *words[length:]])
        return None

    def all_settings(self, config: Any, state_dict: dict[str, Tensor]) -> dict[str, Any]:
        """Fields of our configuration that a checkpoint needs; `shared` ones by its values."""
        settings = self.settings(config, state_dict)
        for layers, setting in self.shared.items():
            if repetitions := _repetitions(layers, state_dict):
                settings[setting] = _all_equal(repetitions, state_dict)
        return settings

    def rename(self, state_dict: dict[str, Tensor], own: dict[str, Tensor], num_classes: int) -> Renamed:
        """Give a checkpoint our names, and our order of values where theirs differs. `own` is our state dict."""
        renamed = Renamed(self.name)
        repetitions = [_repetitions(layers, state_dict) for layers in self.shared]
        repeated = {theirs for entries in repetitions if _all_equal(entries, state_dict) for theirs in entries}
        for theirs, value in state_dict.items():
            ours = self.our_name(theirs)
            reason = next((why for prefix, why in self.left_out.items() if theirs.startswith(prefix)), None)
            if theirs in repeated:
                renamed.left_out[theirs] = "one layer for all levels or scales; its first entry is used"
            elif reason is not None:
                renamed.left_out[theirs] = reason
            elif ours is None:
                renamed.unknown.append(theirs)
            elif ours not in own and ours.endswith("num_batches_tracked"):
                renamed.left_out[theirs] = NO_BATCH_COUNTS
            else:
                converted, change = self.convert(ours, value, num_classes) or (value, None)
                renamed.add(ours, theirs, converted, change)
        return renamed


def _repetitions(layers: str, state_dict: dict[str, Tensor]) -> dict[str, str]:
    """Entries of a list's second and later members -> the entry of the first member that corresponds."""
    later = re.compile(rf"{re.escape(layers)}\.[1-9]\d*\.(.+)")
    return {name: f"{layers}.0.{found[1]}" for name in state_dict if (found := later.fullmatch(name))}


def _all_equal(repetitions: dict[str, str], state_dict: dict[str, Tensor]) -> bool:
    return all(
        first in state_dict and torch.equal(state_dict[name], state_dict[first]) for name, first in repetitions.items()
    )


def vgg16_names(template: str) -> dict[str, str]:
    """VGG-16's convolutions, whose names have their place in the list at `{}`."""
    return {template.format(place): f"backbone.{conv}" for place, conv in VGG16_PLACES.items()}


def flat_extras_names(template: str) -> dict[str, str]:
    """SSD's extra layers in one flat list: 1x1, 3x3, 1x1, 3x3, ..."""
    convs = [f"extras.{i}.{conv}" for i in range(MAX_EXTRAS) for conv in ("reduce", "conv")]
    return {template.format(place): conv for place, conv in enumerate(convs)}


def numbered(names: dict[str, str]) -> dict[str, str]:
    """Names with one number in them, at `{}` in theirs and in ours."""
    return {theirs.format(n): ours.format(n) for theirs, ours in names.items() for n in range(MAX_LEVELS)}
