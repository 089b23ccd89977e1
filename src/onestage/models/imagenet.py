"""ImageNet weights for a detector's backbone: from torchvision or timm, or from a file that has their entry names."""

from __future__ import annotations

import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from torch import Tensor
from torchvision.models import VGG16_Weights

from onestage.errors import UserError
from onestage.models.layouts.layout import IMAGENET_MEAN, IMAGENET_STD, RGB
from onestage.models.layouts.network import Network, load_entries, some
from onestage.models.layouts.renamed import Renamed
from onestage.models.layouts.report import Report
from onestage.models.layouts.timm_features import rename_timm
from onestage.models.layouts.vgg16 import (
    ORIGINAL_MEAN,
    ORIGINAL_STD,
    is_original_release,
    rename_vgg16,
)
from onestage.models.weight_files import read_state_dict

# What `layout=` calls files of a backbone alone. They are told apart by their entries, so the name changes nothing:
# Caffe's VGG-16 as mmdetection keeps it, ssd.pytorch's reduced one, and timm's names; torchvision's go by its own name.
BACKBONE_LAYOUTS = ("vgg16_caffe", "vgg16_reducedfc", "timm")


def load_backbone_weights(
    detector: Network, source: str | os.PathLike[str], *, normalization: tuple[RGB, RGB] | None = None
) -> Report:
    """Put ImageNet weights into a detector's backbone and make its normalisation the one that they were trained with.

    VGG-16: a file may have torchvision's or timm's names, or those of the SSD projects' reduced VGG-16; where it has
    fc6 and fc7, conv6 and conv7 are sampled from them, else they start fresh. The original release (0..255 minus the
    mean) is recognised by its values; other VGG-16 weights are taken to want ImageNet's mean and std.
    Others: timm's names of the whole network, or torchvision's of MobileNetV2. timm's settings say the normalisation.

    Args:
        detector: its backbone is changed in place.
        source: `imagenet` (downloaded once, kept where torch and timm keep theirs), `none`, or a weight file.
        normalization: (mean, std), RGB on the 0..255 scale, where the file's network saw another than said above.

    Raises:
        UserError: no network to download from, or a file that does not fit (see `read_state_dict`, `load_entries`).
    """
    if str(source) == "none":
        fresh = tuple(name for name in detector.state_dict() if name.startswith("backbone."))
        return Report(source="none", layout="no weights", fresh=fresh)
    if str(source) == "imagenet":
        timm_name = detector.name.partition("-")[2]
        label, theirs = _download_vgg16() if timm_name == "vgg16" else _download_timm(timm_name)
    else:
        label, theirs = str(source), read_state_dict(source)
    return put_into_backbone(detector, theirs, label, normalization)


def put_into_backbone(
    detector: Network, theirs: Mapping[str, Tensor], label: str, normalization: tuple[RGB, RGB] | None = None
) -> Report:
    """`load_backbone_weights` with tensors that are at hand; `label` says in messages where they are from."""
    own = detector.state_dict()
    backbone_names = [name for name in own if name.startswith("backbone.")]
    is_vgg16 = "backbone.conv1_1.weight" in own
    timm_name = "" if is_vgg16 else detector.name.partition("-")[2]
    renamed = rename_vgg16(theirs) if is_vgg16 else rename_timm(theirs, timm_name, own)
    if renamed.unexplained:
        raise UserError(
            f"{label}: {some(renamed.unexplained)} are not entries of {'vgg16' if is_vgg16 else timm_name}; bring "
            f"ImageNet weights of that network, with torchvision's or timm's entry names"
        )
    may_be_absent = _may_be_absent(backbone_names) if is_vgg16 else _counts(backbone_names)
    fresh = may_be_absent - set(renamed.values)
    load_entries(detector, renamed.values, renamed.names, wanted=set(backbone_names) - fresh, source=label)
    note = _set_normalization(detector, renamed, normalization) if is_vgg16 or normalization else None
    return Report(
        source=label,
        layout=renamed.layout,
        loaded=renamed.names,
        changed=renamed.changed,
        left_out=renamed.left_out,
        fresh=tuple(name for name in backbone_names if name not in renamed.values),
        notes=(note,) if note else (),
    )


def is_backbone(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is of VGG-16 or of a ResNet alone."""
    return any(name in state_dict for name in ("features.0.weight", "0.weight", "conv1.weight"))


def _counts(names: list[str]) -> set[str]:
    """Batch norms' counts of batches, which older files lack and nothing needs."""
    return {name for name in names if name.endswith("num_batches_tracked")}


def _may_be_absent(vgg16_names: list[str]) -> set[str]:
    """VGG-16's entries that ImageNet networks need not have: the paper's additions and fc6, fc7."""
    additions = tuple(
        f"backbone.{module}" for module in ("conv4_3_norm.", "conv6.", "conv6_norm.", "conv7.", "conv7_norm.")
    )
    return {name for name in vgg16_names if name.startswith(additions)}


def _set_normalization(detector: Network, renamed: Renamed, given: tuple[RGB, RGB] | None) -> str:
    if given is not None:
        (mean, std), why = given, "as given"
    elif is_original_release(renamed.values["backbone.conv1_1.bias"]):
        mean, std, why = ORIGINAL_MEAN, ORIGINAL_STD, "these are the original VGG-16 release's weights"
    else:
        mean, std, why = IMAGENET_MEAN, IMAGENET_STD, "as torchvision trains VGG-16"
    detector.set_normalization(mean, std)
    return f"normalisation: (0..255 RGB - {mean}) / {std}, {why}"


def _download_vgg16() -> tuple[str, Mapping[str, Tensor]]:
    url = VGG16_Weights.IMAGENET1K_V1.url
    name = Path(urllib.parse.urlparse(url).path).name
    kept = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not kept.exists():
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            # The name ends with the first digits of the file's SHA-256, which is checked.
            torch.hub.download_url_to_file(url, str(kept), hash_prefix=Path(name).stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"ImageNet weights of vgg16: {url} cannot be fetched ({error}); bring the file and pass it with "
                "--backbone-weights FILE, or train without with --backbone-weights none"
            ) from error
    return f"imagenet ({name})", read_state_dict(kept)


def _download_timm(model_name: str) -> tuple[str, Mapping[str, Tensor]]:
    config = timm.get_pretrained_cfg(model_name)
    hub_name = config.hf_hub_id if config is not None else None
    label = f"imagenet (timm {model_name})"
    kept = try_to_load_from_cache(hub_name, "model.safetensors") if hub_name else None
    if isinstance(kept, str):
        return label, read_state_dict(kept)
    try:
        _reach(ENDPOINT)
        return label, timm.create_model(model_name, pretrained=True).state_dict()
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"ImageNet weights of {model_name}: timm can't fetch them ({reason}); bring {hub_name or 'its'} "
            "model.safetensors from huggingface.co and pass it with --backbone-weights FILE, or train without with "
            "--backbone-weights none"
        ) from error


def _reach(address: str) -> None:
    """Fail at once where there is no network; the hub's client tries for most of a minute."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return  # an answer all the same
