"""ImageNet weights for a detector's backbone: downloaded from torchvision or timm, or read from a file."""

import os
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from torch import Tensor
from torchvision.models import VGG16_Weights

from onestage.detectors import Detector
from onestage.detectors.base import IMAGENET
from onestage.errors import UserError
from onestage.models.layouts.timm import rename_timm
from onestage.models.layouts.vgg16 import ORIGINAL_NORMALIZATION, is_original_release, rename_vgg16
from onestage.models.loading import Report, load_entries, some
from onestage.models.weight_files import first_line, read_state_dict

# Values of `layout=` for files of a backbone alone: Caffe's VGG-16 as mmdetection keeps it, ssd.pytorch's reduced one,
# timm's names ("torchvision" is a project's name already).
BACKBONE_LAYOUTS = ("vgg16_caffe", "vgg16_reducedfc", "timm")


def load_backbone_weights(detector: Detector, source: str | os.PathLike[str]) -> Report:
    """Load ImageNet weights into a detector's backbone, in place, and normalise its input as they were trained.

    `source` is `imagenet` (downloaded once, cached where torch and timm cache theirs), `none`, or a weight file with
    timm's names, torchvision's (VGG-16, MobileNetV2) or those of the SSD projects' reduced VGG-16. VGG-16's conv6 and
    conv7 are sampled from fc6 and fc7, or start fresh where the file lacks these; its original release (0..255 minus
    the mean) is recognised by its values. Other networks keep timm's normalisation.

    Raises:
        UserError: no network to download from, or a file that does not fit (see `read_state_dict`, `load_entries`).
    """
    if str(source) == "none":
        fresh = tuple(name for name in detector.state_dict() if name.startswith("backbone."))
        return Report(source="none", layout="no weights", fresh=fresh)
    if str(source) == "imagenet":
        name = detector.name.partition("-")[2]
        label, state_dict = _download_vgg16() if name == "vgg16" else _download_timm(name)
    else:
        label, state_dict = str(source), read_state_dict(Path(source))
    return put_into_backbone(detector, state_dict, label)


def put_into_backbone(detector: Detector, state_dict: dict[str, Tensor], source: str) -> Report:
    """`load_backbone_weights` from tensors; `source` says in messages where they come from."""
    own = detector.state_dict()
    is_vgg16 = "backbone.conv1_1.weight" in own
    name = "vgg16" if is_vgg16 else detector.name.partition("-")[2]
    renamed = rename_vgg16(state_dict) if is_vgg16 else rename_timm(state_dict, name, own)
    if renamed.unknown:
        raise UserError(
            f"{source}: {some(renamed.unknown)} are not entries of {name}; bring ImageNet weights of that network, "
            "with torchvision's or timm's entry names"
        )
    if not is_vgg16:
        return load_entries(detector, renamed, source=source, prefix="backbone.")
    additions = ("backbone.conv4_3_norm.", "backbone.conv6", "backbone.conv7")  # the paper's, fc6 and fc7
    normalization, why = IMAGENET, "as torchvision trains VGG-16"
    bias = renamed.values.get("backbone.conv1_1.bias")
    if bias is not None and is_original_release(bias):
        normalization, why = ORIGINAL_NORMALIZATION, "these are the original VGG-16 release's weights"
    mean, std = normalization.mean, normalization.std
    note = f"normalisation: (0..255 RGB - {mean}) / {std}, {why}"
    report = load_entries(detector, renamed, source=source, prefix="backbone.", optional=additions, notes=(note,))
    detector.set_normalization(mean, std)
    return report


def is_backbone(state_dict: dict[str, Tensor], layout: str | None) -> bool:
    """True if a checkpoint is a backbone alone, by the name of its layout or by the entries of a VGG-16 or a ResNet."""
    has_its_entries = any(name in state_dict for name in ("features.0.weight", "0.weight", "conv1.weight"))
    return layout in BACKBONE_LAYOUTS or (layout in (None, "torchvision") and has_its_entries)


def _download_vgg16() -> tuple[str, dict[str, Tensor]]:
    mend = "bring the file and pass it with --backbone-weights FILE, or train without with --backbone-weights none"
    name, state_dict = download_torchvision(VGG16_Weights.IMAGENET1K_V1.url, "ImageNet weights of vgg16", mend)
    return f"imagenet ({name})", state_dict


def download_torchvision(url: str, what: str, mend: str) -> tuple[str, dict[str, Tensor]]:
    """The name and the tensors of one of torchvision's weight files, which torch's cache keeps.

    Raises:
        UserError: it can't be fetched; with what it is, and the mend.
    """
    name = url.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not cached.exists():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            # The name ends with the first digits of the file's SHA-256, which is checked.
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=Path(name).stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise UserError(f"{what}: {url} cannot be fetched ({error}); {mend}") from error
    return name, read_state_dict(cached)


def _download_timm(model_name: str) -> tuple[str, dict[str, Tensor]]:
    config = timm.get_pretrained_cfg(model_name)
    hub_name = config.hf_hub_id if config is not None else None
    label = f"imagenet (timm {model_name})"
    cached = try_to_load_from_cache(hub_name, "model.safetensors") if hub_name else None
    if isinstance(cached, str):
        return label, read_state_dict(Path(cached))
    try:
        # Fail at once without a network: the hub's client tries for most of a minute. An HTTP error is an answer too.
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=10).close()
        return label, timm.create_model(model_name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises errors of several libraries
        raise UserError(
            f"ImageNet weights of {model_name}: timm can't fetch them ({first_line(error)}); bring {hub_name or 'its'} "
            "model.safetensors from huggingface.co and pass it with --backbone-weights FILE, or train without with "
            "--backbone-weights none"
        ) from error
