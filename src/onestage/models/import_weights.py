"""Other projects' checkpoints -> ours, and ImageNet weights for the backbones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from onestage.errors import UserError
from onestage.models.imagenet import BACKBONE_LAYOUTS, is_backbone, load_backbone_weights, put_into_backbone
from onestage.models.layouts.layout import Layout
from onestage.models.layouts.lufficc import LUFFICC
from onestage.models.layouts.m2det import M2DET
from onestage.models.layouts.mmdetection import (
    MMDETECTION_1_RETINANET,
    MMDETECTION_1_SSD,
    MMDETECTION_RETINANET,
    MMDETECTION_SSD,
)
from onestage.models.layouts.network import Network, load_entries, some
from onestage.models.layouts.report import Report
from onestage.models.layouts.seed import SEED_M2DET, SEED_RETINANET
from onestage.models.layouts.ssd_pytorch import SSD_PYTORCH
from onestage.models.layouts.torchvision import TORCHVISION_RETINANET, TORCHVISION_SSD
from onestage.models.weight_files import read_safetensors, read_state_dict

# By the name that `layout=` takes: the checkpoints of each family of detectors that the project has.
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "torchvision": (TORCHVISION_SSD, TORCHVISION_RETINANET),
    "mmdetection-1": (MMDETECTION_1_SSD, MMDETECTION_1_RETINANET),
    "mmdetection": (MMDETECTION_SSD, MMDETECTION_RETINANET),
    "ssd.pytorch": (SSD_PYTORCH,),
    "lufficc": (LUFFICC,),
    "m2det": (M2DET,),
    "seed": (MMDETECTION_1_SSD, SEED_RETINANET, SEED_M2DET),
}

__all__ = [
    "BACKBONE_LAYOUTS",
    "LAYOUTS",
    "Layout",
    "Network",
    "Report",
    "find_layout",
    "import_weights",
    "load_backbone_weights",
    "read_safetensors",
    "read_state_dict",
    "settings_of",
]


def import_weights(
    detector: Network, file_or_state_dict: str | Path | Mapping[str, Tensor], layout: str | None = None
) -> Report:
    """Put another project's whole checkpoint into a detector, strictly: every entry on both sides finds its other.

    The detector's normalisation and its anchors' style are set to the project's. No file says the sizes of its anchors:
    build the detector with the paper's sizes for the data set (VOC's or COCO's) that the file was trained on; where the
    project's differ from these, they are set too. A file of a backbone alone is put there, and the rest stays fresh.

    Args:
        detector: changed in place, if at all. Built with what `settings_of` says of the file.
        file_or_state_dict: a .safetensors or .pth file, or its tensors by entry name.
        layout: a key of `LAYOUTS`, or one of `BACKBONE_LAYOUTS`; None finds it out from the entry names.

    Raises:
        UserError: an unreadable file, an unknown layout, a network of other layers, or entries that do not fit one to
            one.
    """
    source, state_dict = _opened(file_or_state_dict)
    if _holds_backbone(state_dict, layout):
        return put_into_backbone(detector, state_dict, source)
    family = detector.config.FAMILY
    chosen = find_layout(state_dict, layout, family, source)
    if chosen.family != family:
        raise UserError(f"{source}: a checkpoint of {chosen.family} ({chosen.project}); {detector.name} is {family}")
    own = detector.state_dict()
    settings = chosen.all_settings(detector.config, state_dict)
    detector.check_settings(settings)
    renamed = chosen.rename(state_dict, own, detector.num_classes)
    if renamed.unexplained:
        raise UserError(
            f"{source}: {some(renamed.unexplained)} are not entries of the layout {chosen.name} ({chosen.project}); "
            f"expected a whole checkpoint of it, or another layout of {', '.join(LAYOUTS)}"
        )
    wanted = {name for name in own if not name.endswith("num_batches_tracked")}  # older files have no such counts
    load_entries(detector, renamed.values, renamed.names, wanted=wanted, source=source)
    detector.adopt(settings)
    detector.set_normalization(chosen.mean, chosen.std)
    return Report(
        source,
        chosen.name,
        loaded=renamed.names,
        changed=renamed.changed,
        left_out=renamed.left_out,
        notes=(
            f"normalisation: (0..255 RGB - {chosen.mean}) / {chosen.std}, as {chosen.project}",
            f"set as in {chosen.project}: {', '.join(f'{name} = {value}' for name, value in settings.items())}",
            *chosen.notes,
        ),
    )


def settings_of(
    file_or_state_dict: str | Path | Mapping[str, Tensor], config: Any, layout: str | None = None
) -> dict[str, Any]:
    """What to build a detector with so that `import_weights` fits: values of its configuration, by field name.

    Args:
        file_or_state_dict: the checkpoint.
        config: the configuration of the detector's name.
        layout: as for `import_weights`.

    Raises:
        UserError: as `import_weights`.
    """
    source, state_dict = _opened(file_or_state_dict)
    if _holds_backbone(state_dict, layout):
        return {}
    chosen = find_layout(state_dict, layout, config.FAMILY, source)
    return chosen.all_settings(config, state_dict) if chosen.family == config.FAMILY else {}


def find_layout(
    state_dict: Mapping[str, Tensor], name: str | None, family: str | None = None, source: str = "state dict"
) -> Layout:
    """The layout of that name, or the one whose markers are among the entries.

    Args:
        state_dict: the checkpoint.
        name: a key of `LAYOUTS`; None finds it out.
        family: where a project has several, and none is recognised: the detector's.
        source: for the messages.

    Raises:
        UserError: none is, or more than one.
    """
    if name is not None and name not in LAYOUTS:
        raise UserError(f"layout {name}: unknown; expected one of {', '.join([*LAYOUTS, *BACKBONE_LAYOUTS])}")
    candidates = LAYOUTS[name] if name is not None else tuple(one for several in LAYOUTS.values() for one in several)
    fitting = list(dict.fromkeys(one.name for one in candidates if one.recognises(state_dict)))
    if len(fitting) > 1:
        raise UserError(f"{source}: its entries fit the layouts {' and '.join(fitting)} alike; say which by --layout")
    recognised = [one for one in candidates if one.recognises(state_dict)]
    if recognised:
        return recognised[0]
    if name is not None:
        return next((one for one in candidates if one.family == family), candidates[0])
    first = sorted(state_dict)[:3]
    raise UserError(f"{source}: entries {', '.join(first)}, ... are of no known layout; known are {', '.join(LAYOUTS)}")


def _opened(file_or_state_dict: str | Path | Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    if isinstance(file_or_state_dict, Mapping):
        return "state dict", dict(file_or_state_dict)
    return str(file_or_state_dict), read_state_dict(file_or_state_dict)


def _holds_backbone(state_dict: Mapping[str, Tensor], layout: str | None) -> bool:
    """Whether a file is to be taken as a backbone alone."""
    return layout in BACKBONE_LAYOUTS or (layout in (None, "torchvision") and is_backbone(state_dict))
