"""torchvision's `mobilenet_v2` entry names -> timm's `mobilenetv2_100`: the same network, other names."""

from __future__ import annotations

from collections.abc import Collection

BLOCKS_A_STAGE = (1, 2, 3, 4, 3, 3, 1)  # Sandler 2018, table 2

_STAGE_OF_BLOCK = [(stage, block) for stage, count in enumerate(BLOCKS_A_STAGE) for block in range(count)]
# Places in torchvision's `conv` list -> timm's names. The first block has no expansion.
_FIRST_BLOCK = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
_BLOCK = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}


def _modules() -> dict[str, str]:
    modules = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"}
    for number, (stage, block) in enumerate(_STAGE_OF_BLOCK):
        for place, name in (_BLOCK if number else _FIRST_BLOCK).items():
            modules[f"features.{number + 1}.conv.{place}"] = f"blocks.{stage}.{block}.{name}"
    return {**modules, "classifier.1": "classifier"}


TIMM_MODULES = _modules()


def is_torchvision_mobilenet_v2(names: Collection[str]) -> bool:
    """Whether a state dict has torchvision's names of MobileNetV2."""
    return "features.0.0.weight" in names and "features.1.conv.0.0.weight" in names


def timm_name_of(theirs: str) -> str | None:
    """timm's name of one of torchvision's entries; None where it has none."""
    module, _, kind = theirs.rpartition(".")
    return f"{TIMM_MODULES[module]}.{kind}" if module in TIMM_MODULES else None
