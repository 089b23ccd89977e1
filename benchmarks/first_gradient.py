"""The norm of M2Det's gradient at the first step, with batch norms and with group norms in its pyramid.

python benchmarks/first_gradient.py NEU-DET --backbone-weights vgg16_imagenet_features.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console

from onestage.data import choose_splits
from onestage.data.loader import training_loader
from onestage.data_options import DataOptions
from onestage.detectors import M2DetConfig, build, detector_config
from onestage.jobs.dataset import open_dataset
from onestage.models.imagenet import load_backbone_weights
from onestage.recipes import default_recipe
from onestage.terminal import Display


@dataclass(frozen=True)
class Options:
    """On which images."""

    data: Annotated[str, tyro.conf.Positional]
    detector: str = "m2det320-vgg16"
    backbone_weights: str | None = None
    batch_size: int = 4


def gradient_norm(options: Options, norm: Literal["batch", "group"]) -> float:
    """Of the loss a positive anchor, over all parameters, from the recipe's start."""
    display = Display(Console(quiet=True))
    table = open_dataset(
        options.data,
        choose_splits(options.data, hold_out=False).train,
        display=display,
        options=DataOptions(skip_bad_data=True),
    )
    recipe, _ = default_recipe(options.detector, table, pretrained=options.backbone_weights is not None)
    config = detector_config(options.detector)
    assert isinstance(config, M2DetConfig)
    torch.manual_seed(recipe.seed)
    detector = build(options.detector, len(table.categories), config=replace(config.with_quick_start(), norm=norm))
    if options.backbone_weights is not None:
        load_backbone_weights(detector, options.backbone_weights)
    detector.train()
    loader = training_loader(
        table,
        batch_size=options.batch_size,
        seed=recipe.seed,
        resize=detector.resize,
        augmentation=recipe.augmentation,
        workers=0,
    )
    batch = next(iter(loader))
    losses = detector.losses(detector(batch.images), batch.targets, (batch.images.shape[2], batch.images.shape[3]))
    (sum(losses.sums.values()) / losses.divisor).backward()
    return float(torch.nn.utils.clip_grad_norm_(detector.parameters(), torch.inf))


def main(options: Options) -> None:
    for norm in ("batch", "group"):
        print(f"{norm} norms: {gradient_norm(options, norm):,.0f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
