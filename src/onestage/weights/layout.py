"""What it takes to know another project's checkpoint: its entry names beside ours, and what its network saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from onestage.weights.network import ClipAnchors

# Places of VGG-16's convolutions in the `features` list that torchvision made and the others kept; the numbers between
# are ReLUs and poolings. 31 and 33 are fc6 and fc7 as convolutions (Liu 2016, 3).
VGG16_PLACES = {
    **{0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3"},
    **{17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3"},
    **{31: "conv6", 33: "conv7"},
}
MAX_EXTRAS = 5  # SSD512's; SSD300 has four
MAX_LEVELS = 7


@dataclass(frozen=True)
class Layout:
    """The checkpoint layout of one project.

    Attributes:
        name: what `layout=` calls it.
        project: whose it is.
        modules: their module name -> ours; `weight` and `bias` go along unchanged.
        entries: their entry name -> ours, where the last word differs too.
        marker: an entry that no other layout has.
        mean, std: what their network's input was normalised with, RGB on the 0..255 scale.
        clip_anchors: what their anchors are clipped in.
        anchor_sizes: the paper's sizes for a data set (L + 1, pixels) -> theirs for the same one.
        notes: what is not the same as in their program, a sentence each.
    """

    name: str
    project: str
    modules: Mapping[str, str]
    entries: Mapping[str, str]
    marker: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    clip_anchors: ClipAnchors = "all"
    anchor_sizes: Callable[[tuple[float, ...]], tuple[float, ...]] = tuple
    notes: tuple[str, ...] = ()

    def our_name(self, theirs: str) -> str | None:
        """Our name of one of their entries; None where it has none."""
        if theirs in self.entries:
            return self.entries[theirs]
        module, _, kind = theirs.rpartition(".")
        if kind in ("weight", "bias") and module in self.modules:
            return f"{self.modules[module]}.{kind}"
        return None


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
