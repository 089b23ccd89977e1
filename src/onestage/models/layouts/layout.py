"""What it takes to know another project's checkpoint: its entry names beside ours, and what its network saw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onestage.models.layouts.renamed import Renamed

RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (123.675, 116.28, 103.53)
IMAGENET_STD: RGB = (58.395, 57.12, 57.375)

# Places of VGG-16's convolutions in the `features` list that torchvision made and the others kept; the numbers between
# are ReLUs and poolings. 31 and 33 are fc6 and fc7 as convolutions (Liu 2016, 3).
VGG16_PLACES = {
    **{0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3"},
    **{17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3"},
    **{31: "conv6", 33: "conv7"},
}
MAX_EXTRAS = 5  # SSD512's; SSD300 has four
MAX_LEVELS = 7


def no_settings(config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Their network is what ours is as it was built."""
    return {}


def no_change(ours: str, value: Tensor, num_classes: int) -> None:
    """Their numbers are ours."""
    return None


@dataclass(frozen=True)
class SharedLayers:
    """A list of layers whose members may all be one.

    Attributes:
        theirs: the name of a member, with `{}` for its place.
        setting: the field of our configuration that says whether they are one.
    """

    theirs: str
    setting: str


@dataclass(frozen=True)
class Layout:
    """The checkpoint layout of one project for one family of detectors.

    Attributes:
        name: what `layout=` calls it.
        project: whose it is.
        family: the detectors that it is of: `DetectorConfig.FAMILY`.
        modules: their module's name, or its beginning -> ours; what stands behind it goes along unchanged.
        markers: entries that are all there in this layout, and in no other of the family unless it says so.
        entries: their entry name -> ours, where the last word differs too.
        shared: lists of layers that may be one.
        left_out: beginnings of entries that are not used -> why.
        mean, std: what their network's input was normalised with, RGB on the 0..255 scale.
        settings: (our configuration, their state dict) -> values of the configuration that the file was made with.
        changed: (our entry, their value, number of classes) -> our value and what was done, or None.
        notes: what is not the same as in their program, a sentence each.
    """

    name: str
    project: str
    family: str
    modules: Mapping[str, str]
    markers: tuple[str, ...]
    mean: RGB
    std: RGB = (1.0, 1.0, 1.0)
    entries: Mapping[str, str] | None = None
    shared: tuple[SharedLayers, ...] = ()
    left_out: Mapping[str, str] | None = None
    settings: Callable[[Any, Mapping[str, Tensor]], dict[str, Any]] = no_settings
    changed: Callable[[str, Tensor, int], tuple[Tensor, str] | None] = no_change
    notes: tuple[str, ...] = ()

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a checkpoint with these entries is of this layout."""
        return all(marker in names for marker in self.markers)

    def our_name(self, theirs: str) -> str | None:
        """Our name of one of their entries; None where it has none."""
        if self.entries and theirs in self.entries:
            return self.entries[theirs]
        words = theirs.split(".")
        for length in range(len(words) - 1, 0, -1):
            module = self.modules.get(".".join(words[:length]))
            if module is not None:
                return ".".join([module, *words[length:]])
        return None

    def why_left_out(self, theirs: str) -> str | None:
        """Why one of their entries is not used; None where it is."""
        reasons = (why for start, why in (self.left_out or {}).items() if theirs.startswith(start))
        return next(reasons, None)

    def all_settings(self, config: Any, state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
        """Values of our configuration that a file of this layout was made with."""
        shared = {one.setting: is_shared(one, state_dict) for one in self.shared if _repetitions(one, state_dict)}
        return {**self.settings(config, state_dict), **shared}

    def rename(self, state_dict: Mapping[str, Tensor], own: Collection[str], num_classes: int) -> Renamed:
        """Give each entry of a state dict our name, and our values where theirs are ordered otherwise.

        Args:
            state_dict: theirs.
            own: our network's entry names.
            num_classes: that our network knows.
        """
        renamed = Renamed(self.name)
        repeated = {name for one in self.shared if is_shared(one, state_dict) for name in _repetitions(one, state_dict)}
        for theirs, value in state_dict.items():
            why = self.why_left_out(theirs)
            ours = self.our_name(theirs)
            if theirs in repeated:
                renamed.left_out[theirs] = "one layer for all levels or scales, whose first entry is used"
            elif why is not None:
                renamed.left_out[theirs] = why
            elif ours is None:
                renamed.unexplained.append(theirs)
            elif ours not in own and ours.endswith("num_batches_tracked"):
                renamed.left_out[theirs] = "frozen batch norms do not count batches"
            else:
                new_value, change = self.changed(ours, value, num_classes) or (value, None)
                renamed.add(ours, theirs, new_value, change=change)
        return renamed


def is_shared(layers: SharedLayers, state_dict: Mapping[str, Tensor]) -> bool:
    """Whether all members of a list of layers have the values of the first."""
    return all(
        torch.equal(state_dict[name], state_dict[first]) if first in state_dict else False
        for name, first in _repetitions(layers, state_dict).items()
    )


def _repetitions(layers: SharedLayers, state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """The entries of all members but the first -> the first's entry of the same kind."""
    before, _, after = layers.theirs.partition("{}")
    found = {}
    for name in state_dict:
        place, _, kind = name.removeprefix(before).partition(".") if name.startswith(before) else ("", "", "")
        if place.isdecimal() and int(place) > 0:
            found[name] = f"{before}0{after}.{kind}"
    return found


def vgg16_modules(template: str, places: Iterable[int] = VGG16_PLACES) -> dict[str, str]:
    """Their names of VGG-16's convolutions (`template` with the place in the list) -> ours."""
    return {template.format(place): f"backbone.{VGG16_PLACES[place]}" for place in places}


def flat_extras(template: str) -> dict[str, str]:
    """Their names of the extra layers where they are one flat list: 1x1, 3x3, 1x1, 3x3, ... -> ours."""
    kinds = ("reduce", "conv")
    return {template.format(2 * i + k): f"extras.{i}.{kind}" for i in range(MAX_EXTRAS) for k, kind in enumerate(kinds)}


def heads(class_template: str, box_template: str) -> dict[str, str]:
    """Their names of the two head convolutions of each level -> ours."""
    return {
        template.format(level): f"head.{ours}.{level}"
        for template, ours in ((class_template, "class_convs"), (box_template, "box_convs"))
        for level in range(MAX_LEVELS)
    }


def whole_sizes(sizes: Iterable[float]) -> tuple[float, ...]:
    """Anchor sizes cut down to whole pixels, as mmdetection does: 35, 76, 153, ... for SSD512 on VOC."""
    return tuple(float(int(size)) for size in sizes)
