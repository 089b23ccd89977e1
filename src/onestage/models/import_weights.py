"""Import another project's whole checkpoint into a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.models.imagenet import BACKBONE_LAYOUTS, is_backbone, put_into_backbone
from onestage.models.layouts.layout import Layout
from onestage.models.layouts.lufficc import LUFFICC
from onestage.models.layouts.m2det import M2DET
from onestage.models.layouts.mmdetection import (
    MMDETECTION_1_RETINANET,
    MMDETECTION_1_SSD,
    MMDETECTION_RETINANET,
    MMDETECTION_SSD,
)
from onestage.models.layouts.seed import SEED_M2DET, SEED_RETINANET
from onestage.models.layouts.ssd_pytorch import SSD_PYTORCH
from onestage.models.layouts.torchvision import TORCHVISION_RETINANET, TORCHVISION_SSD
from onestage.models.loading import Report, load_entries, some
from onestage.models.weight_files import read_state_dict

# The layouts of each project, one a family of detectors, by the name that `layout=` takes.
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "torchvision": (TORCHVISION_SSD, TORCHVISION_RETINANET),
    "mmdetection-1": (MMDETECTION_1_SSD, MMDETECTION_1_RETINANET),
    "mmdetection": (MMDETECTION_SSD, MMDETECTION_RETINANET),
    "ssd.pytorch": (SSD_PYTORCH,),
    "lufficc": (LUFFICC,),
    "m2det": (M2DET,),
    "seed": (MMDETECTION_1_SSD, SEED_RETINANET, SEED_M2DET),
}


def import_weights(
    detector: Detector, file_or_state_dict: str | Path | Mapping[str, Tensor], layout: str | None = None
) -> Report:
    """Load another project's checkpoint, strictly: every entry of the file and of the detector is accounted for.

    The detector's normalisation and style of anchors become the project's. No file holds its anchor sizes: build the
    detector with the paper's sizes for the data set of the file (VOC or COCO). Where the project's own sizes differ
    from the paper's, they are set too. A file of a backbone alone fills the backbone; the rest stays fresh.

    Args:
        detector: changed in place, or left as it is where an error is raised. Build it with `checkpoint_settings`.
        file_or_state_dict: a .safetensors or .pth file, or its tensors by entry name.
        layout: a key of `LAYOUTS` or one of `BACKBONE_LAYOUTS`; None recognises it by the entry names.

    Raises:
        UserError: an unreadable file, an unknown layout, a network with other layers, or an entry without its
            counterpart.
    """
    source, state_dict = _opened(file_or_state_dict)
    if is_backbone(state_dict, layout):
        return put_into_backbone(detector, state_dict, source)
    family = detector.config.FAMILY
    chosen = find_layout(state_dict, layout, family, source)
    if chosen.family != family:
        raise UserError(f"{source}: a checkpoint of {chosen.family} ({chosen.project}); {detector.name} is {family}")
    own = detector.state_dict()
    settings = chosen.all_settings(detector.config, state_dict)
    detector.check_settings(settings)
    renamed = chosen.rename(state_dict, own, detector.num_classes)
    if renamed.unknown:
        raise UserError(
            f"{source}: {some(renamed.unknown)} are not entries of the layout {chosen.name} ({chosen.project}); "
            f"expected a whole checkpoint of it, or another layout of {', '.join(LAYOUTS)}"
        )
    mean, std = chosen.normalization.mean, chosen.normalization.std
    report = load_entries(
        detector,
        renamed,
        source=source,
        expected=[name for name in own if not name.endswith("num_batches_tracked")],  # older files have no such counts
        notes=(
            f"normalisation: (0..255 RGB - {mean}) / {std}, as {chosen.project}",
            f"set as in {chosen.project}: {', '.join(f'{name} = {value}' for name, value in settings.items())}",
            *chosen.notes,
        ),
    )
    detector.adopt(settings)
    detector.set_normalization(mean, std)
    return report


def checkpoint_settings(
    file_or_state_dict: str | Path | Mapping[str, Tensor], config: Any, layout: str | None = None
) -> dict[str, Any]:
    """Fields of a detector's configuration that a checkpoint was trained with.

    `config` is the configuration of the detector's name. Other arguments and errors are those of `import_weights`.
    """
    source, state_dict = _opened(file_or_state_dict)
    if is_backbone(state_dict, layout):
        return {}
    chosen = find_layout(state_dict, layout, config.FAMILY, source)
    return chosen.all_settings(config, state_dict) if chosen.family == config.FAMILY else {}


def find_layout(
    state_dict: Mapping[str, Tensor], name: str | None, family: str | None = None, source: str = "state dict"
) -> Layout:
    """The layout of a checkpoint: that of the given name, or the one that is recognised by the entry names.

    A project has a layout for each family of detectors. If it is named and none of them is recognised, the detector's
    `family` decides; `source` is the file, for messages.

    Raises:
        UserError: an unknown name, no layout that is recognised, or more than one.
    """
    if name is not None and name not in LAYOUTS:
        raise UserError(f"layout {name}: unknown; expected one of {', '.join([*LAYOUTS, *BACKBONE_LAYOUTS])}")
    candidates = LAYOUTS[name] if name is not None else [one for several in LAYOUTS.values() for one in several]
    recognised = [one for one in candidates if all(marker in state_dict for marker in one.markers)]
    names = list(dict.fromkeys(one.name for one in recognised))
    if len(names) > 1:
        raise UserError(f"{source}: its entries fit the layouts {' and '.join(names)} alike; say which by --layout")
    if recognised:
        return recognised[0]
    if name is not None:
        return next((one for one in candidates if one.family == family), candidates[0])
    first = ", ".join(sorted(state_dict)[:3])
    raise UserError(f"{source}: entries {first}, ... are of no known layout; known are {', '.join(LAYOUTS)}")


def _opened(file_or_state_dict: str | Path | Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    if isinstance(file_or_state_dict, Mapping):
        return "state dict", dict(file_or_state_dict)
    return str(file_or_state_dict), read_state_dict(file_or_state_dict)
