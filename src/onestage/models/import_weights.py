"""Import another project's whole checkpoint into a detector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.models.imagenet import is_backbone
from onestage.models.layouts import m2det, mmdetection, ssd_pytorch, torchvision
from onestage.models.layouts.layout import Layout
from onestage.models.loading import Renamed, Report, load_entries, some
from onestage.models.weight_files import read_state_dict

FileOrTensors = str | Path | Mapping[str, Tensor]

# The layouts of each project, one a family of detectors, by the name that `layout=` takes.
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "torchvision": (torchvision.SSD, torchvision.RETINANET),
    "mmdetection-1": (mmdetection.SSD_1, mmdetection.RETINANET_1),
    "mmdetection": (mmdetection.SSD, mmdetection.RETINANET, mmdetection.ATSS, mmdetection.GFL),
    "ssd.pytorch": (ssd_pytorch.SSD,),
    "lufficc": (ssd_pytorch.LUFFICC_SSD,),
    "m2det": (m2det.M2DET,),
    "seed": (mmdetection.SSD_1, mmdetection.SEED_RETINANET, mmdetection.SEED_M2DET),
}


def import_weights(
    detector: Detector, file_or_state_dict: FileOrTensors, layout: str | None = None, *, source: str | None = None
) -> Report:
    """Load another project's checkpoint, strictly: every entry of the file and of the detector is accounted for.

    The detector's normalisation and style of anchors become the project's. No file holds its anchor sizes: build the
    detector with the paper's sizes for the data set of the file (VOC or COCO). Where the project's own sizes differ
    from the paper's, they are set too.

    Args:
        detector: changed in place, or left as it is where an error is raised. Build it with `checkpoint_settings`.
        file_or_state_dict: a .safetensors or .pth file, or its tensors by entry name.
        layout: a key of `LAYOUTS`; None recognises it by the entry names.
        source: what errors and the report call it; None: the file, or "state dict".

    Raises:
        UserError: an unreadable file, an unknown layout, a backbone alone, a network with other layers or another
            number of classes, or an entry without its counterpart.
    """
    source, state_dict = _opened(file_or_state_dict, source)
    chosen = find_layout(state_dict, layout, detector.config.FAMILY, source)
    settings = chosen.all_settings(detector.config, state_dict)
    detector.check_settings(settings)
    renamed = chosen.rename(state_dict, detector.state_dict(), detector.num_classes)
    if renamed.unknown:
        raise UserError(
            f"{source}: {some(renamed.unknown)} are not entries of the layout {chosen.name} ({chosen.project}); "
            f"expected a whole checkpoint of it, or another layout of {', '.join(LAYOUTS)}"
        )
    found = number_of_classes(detector, renamed)
    if found not in (None, detector.num_classes):
        raise UserError(
            f"{source}: it has {found} classes, but the detector {detector.num_classes}; give as many names by "
            "--categories, or as num_classes"
        )
    mean, std = chosen.normalization.mean, chosen.normalization.std
    notes = (
        f"normalisation: (0..255 RGB - {mean}) / {std}, as {chosen.project}",
        f"set as in {chosen.project}: {', '.join(f'{name} = {value}' for name, value in settings.items())}",
        *chosen.notes,
    )
    report = load_entries(detector, renamed, source=source, notes=notes)
    detector.adopt(settings)
    detector.set_normalization(mean, std)
    return report


def number_of_classes(detector: Detector, renamed: Renamed) -> int | None:
    """How many classes a checkpoint for such a detector has, by the rows of its class head; None if these don't fit."""
    own = detector.state_dict()
    for name in (f"{layer}.weight" for layer in detector.class_layers()):
        value, anchors = renamed.values.get(name), len(own[name]) // (detector.num_classes + detector.BACKGROUND_LOGITS)
        if value is not None and value.shape[1:] == own[name].shape[1:] and len(value) % anchors == 0:
            return len(value) // anchors - detector.BACKGROUND_LOGITS
    return None


def checkpoint_settings(
    file_or_state_dict: FileOrTensors, config: Any, layout: str | None = None, *, source: str | None = None
) -> dict[str, Any]:
    """Fields of a detector's configuration that a checkpoint was trained with.

    `config` is the configuration of the detector's name. Other arguments and errors are those of `import_weights`.
    """
    source, state_dict = _opened(file_or_state_dict, source)
    return find_layout(state_dict, layout, config.FAMILY, source).all_settings(config, state_dict)


def find_layout(
    state_dict: Mapping[str, Tensor], name: str | None, family: str | None = None, source: str = "state dict"
) -> Layout:
    """The layout of a checkpoint, by the given name of its project and by the names of its entries.

    A project has a layout for each family of detectors. If it is named and none of them is recognised, the detector's
    `family` decides.

    Raises:
        UserError: an unknown name, no layout that is recognised, or more than one; another family's, or a backbone
            alone.
    """
    if name is not None and name not in LAYOUTS:
        raise UserError(f"layout {name}: unknown; expected one of {', '.join(LAYOUTS)}")
    candidates = LAYOUTS[name] if name is not None else [one for several in LAYOUTS.values() for one in several]
    recognised = [one for one in candidates if all(marker in state_dict for marker in one.markers)]
    names = list(dict.fromkeys(one.name for one in recognised))
    if len(names) > 1:
        raise UserError(
            f"{source}: its entries fit the layouts {' and '.join(names)} alike; say which by --layout (of `onestage "
            "import`)"
        )
    if recognised:
        chosen = recognised[0]
        if family not in (None, chosen.family):
            raise UserError(
                f"{source}: a checkpoint of {chosen.family} ({chosen.project}); the detector is of {family}"
            )
        return chosen
    if is_backbone(state_dict):
        raise UserError(f"{source}: a backbone alone, no detector; give it as `onestage train --backbone-weights FILE`")
    if name is not None:
        return next((one for one in candidates if one.family == family), candidates[0])
    first = ", ".join(sorted(state_dict)[:3])
    raise UserError(
        f"{source}: entries {first}, ... are of no known layout; known are {', '.join(LAYOUTS)}; weights of a backbone "
        "alone go into --backbone-weights"
    )


def _opened(file_or_state_dict: FileOrTensors, source: str | None) -> tuple[str, dict[str, Tensor]]:
    if isinstance(file_or_state_dict, Mapping):
        return source or "state dict", dict(file_or_state_dict)
    return source or str(file_or_state_dict), read_state_dict(Path(file_or_state_dict))
