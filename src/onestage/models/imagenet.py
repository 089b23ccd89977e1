"""ImageNet weights for a detector's backbone: downloaded from torchvision, timm or a hub, or read from a file."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from torch import Tensor
from torchvision.models import VGG16_Weights

from onestage.detectors import Detector, Normalization
from onestage.detectors.base import IMAGENET
from onestage.errors import UserError
from onestage.models.hub import LARGEST_MODEL, MODEL_FILE, HubName, fetch, hub_name
from onestage.models.layouts.timm import rename_timm
from onestage.models.layouts.vgg16 import ORIGINAL_NORMALIZATION, is_original_release, rename_vgg16
from onestage.models.loading import Report, load_entries, some
from onestage.models.weight_files import first_line, read_state_dict

# What the names of the first layers of torchvision's and timm's networks begin with; `0.`: of a reduced VGG-16
STEMS = ("features.", "0.weight", "conv1.", "conv_stem.", "stem", "patch_embed.")
HUB_PREFIX = "hf-hub:"  # timm's, before USER/NAME of weights on a hub
LARGEST_CONFIG = 1 << 20  # bytes


def load_backbone_weights(detector: Detector, source: str | os.PathLike[str]) -> Report:
    """Load ImageNet weights into a detector's backbone, in place, and normalise its input as they were trained.

    `source` is `imagenet` (downloaded once, cached where torch and timm cache theirs), `none`, `hf-hub:USER/NAME` of
    timm's weights on a hub, or a weight file with timm's names, torchvision's (VGG-16, MobileNetV2) or those of the SSD
    projects' reduced VGG-16. VGG-16's conv6 and conv7 are sampled from fc6 and fc7, or start fresh where the file lacks
    these; its original release (0..255 minus the mean) is recognised by its values. Other networks keep timm's
    normalisation, or have that of the hub's weights.

    Raises:
        UserError: no network to download from, or a file that does not fit (see `read_state_dict`, `load_entries`).
    """
    if str(source) == "none":
        fresh = tuple(name for name in detector.state_dict() if name.startswith("backbone."))
        return Report(source="none", layout="no weights", fresh=fresh)
    if str(source).startswith(HUB_PREFIX):
        return _load_from_hub(detector, str(source))
    if str(source) == "imagenet":
        name = detector.name.partition("-")[2]
        label, state_dict = _download_vgg16() if name == "vgg16" else _download_timm(name)
    else:
        label, state_dict = str(source), read_state_dict(Path(source))
    return put_into_backbone(detector, state_dict, label)


def detector_on_hub(detector: str) -> tuple[str, str]:
    """Of `FAMILY-hf-hub:USER/NAME` the name by its network, `FAMILY-NETWORK`, and the weights with their commit.

    Detectors are built by the former, so that opening a model file asks no hub.

    Raises:
        UserError: see `hub.fetch`; or it does not say which of timm's networks it is.
    """
    family, _, repository = detector.partition(f"-{HUB_PREFIX}")
    network, _, name = _on_hub(HUB_PREFIX + repository)
    return f"{family}-{network}", _as_timm(name)


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


def is_backbone(state_dict: Mapping[str, Tensor]) -> bool:
    """True if a checkpoint is a backbone alone, by the names of its entries."""
    return any(name.startswith(STEMS) for name in state_dict)


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


def _load_from_hub(detector: Detector, source: str) -> Report:
    """Weights of timm from a hub, and the normalisation that they were trained with."""
    network, normalization, name = _on_hub(source)
    own = detector.name.partition("-")[2].partition(".")[0]
    if network != own:
        raise UserError(f"{source}: weights of {network}; the backbone of {detector.name} is {own}")
    path, name = fetch(name, MODEL_FILE, LARGEST_MODEL)
    report = put_into_backbone(detector, read_state_dict(path), _as_timm(name))
    detector.set_normalization(normalization.mean, normalization.std)
    return report


def _on_hub(source: str) -> tuple[str, Normalization, HubName]:
    """The network and the normalisation that config.json tells of timm's weights, and their name with the commit."""
    named = hub_name(f"hf://{source.removeprefix(HUB_PREFIX)}")
    assert named is not None
    path, name = fetch(named, "config.json", LARGEST_CONFIG)
    try:
        content = json.loads(path.read_text("utf-8"))
        network, trained = content["architecture"], content.get("pretrained_cfg", content)  # older ones are flat
        mean, std = (tuple(round(255 * float(value), 4) for value in trained[key]) for key in ("mean", "std"))
        normalization = Normalization(mean, std)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{name}: its config.json is not that of timm's weights ({error!r}); use others") from error
    if not isinstance(network, str) or not timm.is_model(network) or "." in network:
        raise UserError(f"{name}: its network is {network!r}, which timm {timm.__version__} lacks; use others")
    return network, normalization, name


def _as_timm(name: HubName) -> str:
    return HUB_PREFIX + str(name).removeprefix("hf://")
