"""Other projects' checkpoints -> ours, and ImageNet weights for the backbones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from onestage.errors import UserError
from onestage.weights.files import read_safetensors, read_state_dict
from onestage.weights.imagenet import load_backbone_weights
from onestage.weights.layout import Layout
from onestage.weights.lufficc import LUFFICC
from onestage.weights.network import Network, SSDNetwork, load_entries, some
from onestage.weights.renamed import Renamed
from onestage.weights.report import Report
from onestage.weights.seed import SEED
from onestage.weights.ssd_pytorch import SSD_PYTORCH
from onestage.weights.torchvision_ssd import TORCHVISION_SSD

LAYOUTS = {layout.name: layout for layout in (LUFFICC, SEED, SSD_PYTORCH, TORCHVISION_SSD)}

__all__ = [
    "LAYOUTS",
    "Layout",
    "Network",
    "Report",
    "find_layout",
    "import_weights",
    "load_backbone_weights",
    "read_safetensors",
    "read_state_dict",
]


def import_weights(
    detector: Network, file_or_state_dict: str | Path | Mapping[str, Tensor], layout: str | None = None
) -> Report:
    """Put another project's whole checkpoint into a detector, strictly: every entry on both sides finds its other.

    The detector's normalisation and the clipping of its anchors are set to the project's. No file says the sizes of
    its anchors: build the detector with the paper's sizes for the data set (VOC's or COCO's) that the file was trained
    on; where the project's differ from these, they are set too.

    Args:
        detector: changed in place, if at all.
        file_or_state_dict: a .safetensors or .pth file, or its tensors by entry name.
        layout: a key of `LAYOUTS`; None finds it out from the entry names.

    Raises:
        UserError: an unreadable file, an unknown layout, or entries that do not fit one to one.
    """
    if not isinstance(detector, SSDNetwork):
        raise UserError(f"{detector.name}: only checkpoints of SSD can be imported so far; build an ssd300 or ssd512")
    if isinstance(file_or_state_dict, Mapping):
        source, state_dict = "state dict", dict(file_or_state_dict)
    else:
        source, state_dict = str(file_or_state_dict), read_state_dict(file_or_state_dict)
    chosen = find_layout(state_dict, source) if layout is None else _layout_named(layout)
    renamed = rename(state_dict, chosen)
    if renamed.unexplained:
        raise UserError(
            f"{source}: {some(renamed.unexplained)} are not entries of the layout {chosen.name} ({chosen.project}); "
            f"expected a whole checkpoint of it, or another layout of {', '.join(LAYOUTS)}"
        )
    load_entries(detector, renamed.values, renamed.names, wanted=detector.state_dict(), source=source)
    sizes = chosen.anchor_sizes(detector.config.anchor_sizes)
    detector.set_anchors(sizes=sizes, clip=chosen.clip_anchors)
    detector.set_normalization(chosen.mean, chosen.std)
    notes = (
        f"normalisation: (0..255 RGB - {chosen.mean}) / {chosen.std}, as {chosen.project}",
        f"anchors: sizes {', '.join(f'{size:g}' for size in sizes)}; clipped: {chosen.clip_anchors}",
    )
    return Report(source, chosen.name, loaded=renamed.names, notes=(*notes, *chosen.notes))


def rename(state_dict: Mapping[str, Tensor], layout: Layout) -> Renamed:
    """Give each entry of a state dict our name; the tensors stay as they are."""
    renamed = Renamed(layout.name)
    for theirs, value in state_dict.items():
        ours = layout.our_name(theirs)
        if ours is None:
            renamed.unexplained.append(theirs)
        else:
            renamed.add(ours, theirs, value)
    return renamed


def find_layout(names: Collection[str], source: str = "state dict") -> Layout:
    """The layout whose marker is among some entry names.

    Raises:
        UserError: it is none of `LAYOUTS`.
    """
    for layout in LAYOUTS.values():
        if layout.marker in names:
            return layout
    first = sorted(names)[:3]
    raise UserError(f"{source}: entries {', '.join(first)}, ... are of no known layout; known are {', '.join(LAYOUTS)}")


def _layout_named(name: str) -> Layout:
    if name not in LAYOUTS:
        raise UserError(f"layout {name}: unknown; expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
