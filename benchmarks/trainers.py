"""Detectors that train, ours and torchvision's, as the training benchmarks compare them.

All start from random weights, with the layers frozen that each freezes when it starts from ImageNet weights: the first
of VGG-16's five stages in torchvision's SSD300, its first three in our recipe made for a data set, none in the paper's.
Learning rates are small, which changes no time and lets nothing diverge.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms import v2
from torchvision_ssd import Images, build, collate, ssd_transform

from onestage.compute.device import Precision, choose_compute
from onestage.compute.threads import loader_workers
from onestage.data.augmentation.presets import SSD_PAPER
from onestage.data.table import Table
from onestage.detectors import build as build_detector
from onestage.models.model_file import RunFolder
from onestage.recipes import default_recipe, named_recipe
from onestage.structures import Batch
from onestage.terminal import quiet
from onestage.training.optimizer import train_mode
from onestage.training.recipe import Recipe
from onestage.training.trainer import Trainer

CLASSES = 20  # VOC's
RATE = 1e-5
RETINANET_EDGES = (384, 640)  # pixels: the shorter side, and the longer one's limit


class Candidate(Protocol):
    """Something that trains."""

    def batches(self) -> Generator[Any, None, None]:
        """Without end, from a loader that starts now."""
        ...

    def step(self, batch: Any) -> None:
        """Take one optimizer step."""
        ...


# --- ours


class Ours:
    """The package's own trainer, without evaluations."""

    def __init__(self, recipe: Recipe, table: Table, precision: Precision, device: str) -> None:
        torch.manual_seed(0)
        recipe = replace(recipe, learning_rate=RATE, workers=loader_workers()).with_length(steps=1000)
        self.trainer = Trainer(
            build_detector(recipe.detector, CLASSES, config=recipe.network),
            recipe,
            train=table,
            val=table,
            folder=RunFolder(Path()),  # nothing is written without an evaluation
            compute=choose_compute(device, precision),
            display=quiet(),
            workers=loader_workers(),
        )
        train_mode(self.trainer.detector)

    def batches(self) -> Generator[Batch, None, None]:
        return self.trainer.batches()

    def step(self, batch: Batch) -> None:
        if not self.trainer.step(batch).finite:
            raise RuntimeError("the loss or the gradient is not finite")


def made(
    detector: str, batch_size: int, table: Table, precision: Precision, device: str, *, whole: bool = False
) -> Ours:
    """By the recipe that `onestage train` makes for the data, with the paper's full augmentation.

    `whole`: the backbone's first layers are trained, too.
    """
    recipe, _ = default_recipe(detector, table, pretrained=True)
    recipe = replace(recipe, batch_size=batch_size, augmentation=SSD_PAPER, train_stem=whole)
    return Ours(recipe, table, precision, device)


def papers(recipe: str, settings: Mapping[str, Any], table: Table, precision: Precision, device: str) -> Ours:
    """By a recipe of that name, some settings changed."""
    return Ours(replace(named_recipe(recipe), **settings), table, precision, device)


# --- torchvision's


class Torchvisions:
    """A torchvision detector, trained as its references do: SGD, a DataLoader (here with one worker process)."""

    def __init__(self, model: nn.Module, dataset: Images, batch_size: int, device: str, *, bf16: bool) -> None:
        self.dataset, self.batch_size, self.device, self.bf16 = dataset, batch_size, device, bf16
        self.model = (model.to(memory_format=cast(Any, torch.channels_last)) if bf16 else model).to(device)
        self.model.train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, RATE, momentum=0.9, weight_decay=5e-4)

    def batches(self) -> Generator[Any, None, None]:
        loader = DataLoader(
            self.dataset,
            self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=1,
            persistent_workers=True,
            pin_memory=self.device == "cuda",
            collate_fn=collate,
        )
        while True:
            yield from loader

    def step(self, batch: Any) -> None:
        images = [image.to(self.device, non_blocking=True) for image in batch[0]]
        targets = [{name: value.to(self.device) for name, value in target.items()} for target in batch[1]]
        with torch.autocast(self.device, dtype=torch.bfloat16) if self.bf16 else nullcontext():
            losses = self.model(images, targets)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        if not loss.isfinite():
            raise RuntimeError(f"the loss is {loss.item()}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def their_ssd(
    network: str, batch_size: int, table: Table, precision: Precision, device: str, *, bf16: bool
) -> Torchvisions:
    """A network of `torchvision_ssd.py`. `precision` is ours."""
    torch.manual_seed(0)
    model = build(network, CLASSES, None)
    if network == "vgg16":
        # By default, `trainable_backbone_layers` freezes what is before the first pooling (with ImageNet weights).
        for layer in cast(Any, model).backbone.features[:4]:
            layer.requires_grad_(False)
    return Torchvisions(model, Images(table, ssd_transform(train=True)), batch_size, device, bf16=bf16)


def their_retinanet(batch_size: int, table: Table, precision: Precision, device: str, *, bf16: bool) -> Torchvisions:
    """`retinanet_resnet50_fpn`; as by default with ImageNet weights, two stages and all batch norms are frozen.

    `precision` is ours.
    """
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    shorter, longer = RETINANET_EDGES
    model = RetinaNet(backbone, CLASSES + 1, min_size=shorter, max_size=longer)
    flips = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    return Torchvisions(model, Images(table, flips), batch_size, device, bf16=bf16)
