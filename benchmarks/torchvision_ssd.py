"""The side-by-side baseline: torchvision's SSD, the same minutes on the same folder, measured by our metrics.

    python benchmarks/torchvision_ssd.py NEU-DET --backbone-weights vgg16.safetensors --minutes 30
    python benchmarks/torchvision_ssd.py NEU-DET --network tf_efficientnet_lite0 --backbone-weights lite0.safetensors

Networks:
- `vgg16`: torchvision's `ssd300_vgg16`. SGD 2e-3, batch 8, learning rate divided by 10 at 70 and 90 % of the minutes,
  gradients clipped at norm 5 (without, it ended in NaN after 1,500 images of NEU-DET).
- `tf_efficientnet_lite0`: torchvision's `SSD` class on timm's features: lateral maps at strides 8, 16 and 32 joined by
  a top-down path, three extra maps. SGD 2e-2, batch 16, cosine to zero over the minutes, gradients clipped at norm 5
  (without, the first hundred steps at this learning rate diverge).

Both: the paper's augmentation through torchvision.transforms.v2 (as in torchvision's own SSD reference recipe), a
linear warm-up over the first 2 % of the minutes, training in bfloat16 autocast where the hardware is fast at it,
channels last. Difficult objects are left out of training (torchvision knows no ignored objects) and are ignored in the
metrics.
"""

from __future__ import annotations

import json
import math
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import timm
import torch
import tyro
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import Conv2dNormActivation
from torchvision.transforms import v2

from onestage.compute.device import Compute, choose_compute
from onestage.data import choose_splits, read_dataset
from onestage.data.table import Table
from onestage.evaluation import measure, print_table
from onestage.structures import Detections, DetectionTable

IMAGE_SIZE = 300


@dataclass(frozen=True)
class Options:
    """One run of torchvision's SSD."""

    data: Annotated[str, tyro.conf.Positional]  # a VOC (or COCO, YOLO) folder
    network: Literal["vgg16", "tf_efficientnet_lite0"] = "vgg16"
    backbone_weights: Path | None = None  # safetensors with torchvision's (vgg16) or timm's entry names; none: random
    minutes: float = 30.0  # of training; evaluation comes on top
    batch_size: int | None = None  # 8 for vgg16, 16 for tf_efficientnet_lite0
    learning_rate: float | None = None  # 2e-3 for vgg16, 2e-2 for tf_efficientnet_lite0
    workers: int = 1  # processes that read and augment
    threads: int | None = None  # of torch in the training process; all cores if not given
    seed: int = 0
    out: Path | None = None  # where to write the result as JSON


@dataclass(frozen=True)
class Settings:
    """What an option is where it is not given."""

    batch_size: int
    learning_rate: float
    cosine: bool  # else steps at 70 and 90 %
    clip_norm: float  # of the gradient


SETTINGS = {
    "vgg16": Settings(batch_size=8, learning_rate=2e-3, cosine=False, clip_norm=5.0),
    "tf_efficientnet_lite0": Settings(batch_size=16, learning_rate=2e-2, cosine=True, clip_norm=5.0),
}


def ssd_transform(train: bool) -> v2.Transform:
    """The paper's augmentation in training, then SSD's input."""
    resize = [v2.Resize((IMAGE_SIZE, IMAGE_SIZE), antialias=True), v2.ToDtype(torch.float32, scale=True)]
    augment = [
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill={tv_tensors.Image: (123, 117, 104)}),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.SanitizeBoundingBoxes(),
    ]
    return v2.Compose(augment + resize if train else resize)


class Images(Dataset):
    """A table's images as torchvision's detectors take them: float (3, H, W) in 0..1, a dict of boxes and labels."""

    def __init__(self, table: Table, transform: v2.Transform) -> None:
        self.table = table
        self.transform = transform

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor], int]:
        encoded = read_file(str(self.table.image_path(index)))
        image = tv_tensors.Image(decode_image(encoded, mode=ImageReadMode.RGB))
        objects = self.table.objects(index)
        kept = ~objects.ignored
        boxes = torch.from_numpy(objects.boxes_xyxy[kept])
        height, width = image.shape[-2:]
        as_boxes = cast(Any, tv_tensors.BoundingBoxes)  # its declared constructor is torch.Tensor's
        target: dict[str, Tensor] = {
            "boxes": as_boxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.from_numpy(objects.labels[kept]) + 1,  # 0 is background
        }
        image, target = self.transform(image, target)
        return image, {name: value.as_subclass(Tensor) for name, value in target.items()}, index


class TopDownFeatures(nn.Module):
    """timm's maps at strides 8, 16, 32 -> laterals joined top-down -> three more maps: (38, 19, 10, 5, 3, 1) at 300."""

    def __init__(self, name: str, out_channels: int = 128) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(2, 3, 4), pretrained=False)
        channels: list[int] = cast(Any, self.body).feature_info.channels()
        # Batch norm: the backbone's maps are of unlike scales, and without it the first loss is above 100.
        self.laterals = nn.ModuleList(
            Conv2dNormActivation(count, out_channels, 1, activation_layer=None) for count in channels
        )
        self.extras = nn.ModuleList(
            Conv2dNormActivation(out_channels, out_channels, 3, stride, padding)
            for stride, padding in ((2, 1), (2, 1), (1, 0))
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = [lateral(one) for lateral, one in zip(self.laterals, self.body(images), strict=True)]
        for level in (1, 0):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], size=maps[level].shape[-2:], mode="nearest")
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return OrderedDict((str(level), one) for level, one in enumerate(maps))


def build(network: str, num_classes: int, weights: Path | None) -> nn.Module:
    """The network with random or given backbone weights; `num_classes` without background."""
    if network == "vgg16":
        model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes + 1)
        if weights is not None:
            load_vgg16(model.backbone, load_file(weights))
        return model
    backbone = TopDownFeatures(network)
    if weights is not None:
        wanted = backbone.body.state_dict()
        given = {name: value for name, value in load_file(weights).items() if name in wanted}
        backbone.body.load_state_dict(given)
    anchors = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],  # as in torchvision's ssd300_vgg16
        steps=[8, 16, 32, 64, 100, 300],
    )
    half = [0.5, 0.5, 0.5]
    size = (IMAGE_SIZE, IMAGE_SIZE)
    model = SSD(backbone, anchors, size, num_classes + 1, image_mean=half, image_std=half)
    for layer in model.head.modules():
        if isinstance(layer, nn.Conv2d):  # with SSD's own wide start the first steps at 2e-2 diverge
            nn.init.normal_(layer.weight, std=0.01)
    return model


def load_vgg16(backbone: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put torchvision's `features.N` into its SSD's backbone, which cuts them after conv4_3 (entry 22)."""
    own = backbone.state_dict()
    for name, value in weights.items():
        number, kind = name.removeprefix("features.").split(".")
        place = f"features.{number}.{kind}" if int(number) < 23 else f"extra.0.{int(number) - 23}.{kind}"
        if own[place].shape != value.shape:
            raise ValueError(f"{name}: shape {tuple(value.shape)}, {place} has {tuple(own[place].shape)}")
        own[place].copy_(value)


def rate_at(progress: float, settings: Settings) -> float:
    """The factor on the learning rate after this fraction of the minutes."""
    warm_up = min(1.0, 0.01 + progress / 0.02)
    if settings.cosine:
        return warm_up * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return warm_up * (1.0 if progress < 0.7 else 0.1 if progress < 0.9 else 0.01)


def forever(loader: DataLoader) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]], list[int]]]:
    while True:
        yield from loader


def collate(samples: list[tuple[Tensor, dict[str, Tensor], int]]) -> tuple[list, list, list]:
    images, targets, indices = zip(*samples, strict=True)
    return list(images), list(targets), list(indices)


def train(model: nn.Module, table: Table, options: Options, settings: Settings, compute: Compute) -> dict[str, float]:
    """Train for the minutes; returns what happened."""
    batch_size = options.batch_size or settings.batch_size
    base_rate = options.learning_rate or settings.learning_rate
    loader = DataLoader(
        Images(table, ssd_transform(train=True)),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        collate_fn=collate,
    )
    optimizer = torch.optim.SGD(model.parameters(), base_rate, momentum=0.9, weight_decay=5e-4)
    console, total_s = Console(), options.minutes * 60
    start = said = time.perf_counter()
    seen, steps, recent = 0, 0, float("nan")
    model.train()
    for images, targets, _ in forever(loader):
        elapsed = time.perf_counter() - start
        if elapsed >= total_s:
            break
        for group in optimizer.param_groups:
            group["lr"] = base_rate * rate_at(elapsed / total_s, settings)
        images = [image.to(compute.device) for image in images]
        targets = [{name: value.to(compute.device) for name, value in target.items()} for target in targets]
        with compute.autocast():
            losses = model(images, targets)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        seen, steps = seen + len(images), steps + 1
        if not math.isfinite(loss.item()):
            raise SystemExit(f"the loss is {loss.item()} after {seen} images; try a lower --learning-rate")
        recent = loss.item() if math.isnan(recent) else 0.98 * recent + 0.02 * loss.item()
        if time.perf_counter() - said > 30:
            said = time.perf_counter()
            console.print(f"{(said - start) / 60:5.1f} min  {seen:6d} images  loss {recent:.3f}")
    seconds = time.perf_counter() - start
    return {
        "images_seen": seen,
        "steps": steps,
        "seconds": seconds,
        "images_per_second": seen / seconds,
        "loss": recent,
    }


@torch.inference_mode()
def detect(model: nn.Module, table: Table, options: Options, compute: Compute) -> DetectionTable:
    """All detections by torchvision's own post-processing (scores from 0.01), in pixels of the original images."""
    loader = DataLoader(Images(table, ssd_transform(train=False)), 16, num_workers=options.workers, collate_fn=collate)
    found: list[Detections] = []
    model.eval()
    for images, _, indices in loader:
        # Not in bfloat16: torchvision would round the boxes of its output to it.
        outputs = model([image.to(compute.device) for image in images])
        for output, index in zip(outputs, indices, strict=True):
            height, width = table.image_sizes_hw[index].tolist()
            scale = torch.tensor([width, height, width, height]) / IMAGE_SIZE
            boxes = output["boxes"].cpu() * scale
            found.append(Detections(boxes, output["scores"].cpu(), output["labels"].cpu() - 1))
    return DetectionTable.from_detections(found)


def main(options: Options) -> None:
    torch.manual_seed(options.seed)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    compute, settings, console = choose_compute(), SETTINGS[options.network], Console()
    splits = choose_splits(options.data, hold_out=False)
    table, _ = read_dataset(options.data, splits.train)
    test, _ = read_dataset(options.data, splits.test, table.categories)
    console.print(f"{len(table)} training and {len(test)} test images; {compute.reason}")
    model = build(options.network, len(table.categories), options.backbone_weights)
    model = model.to(compute.device).to(memory_format=cast(Any, torch.channels_last))  # none of `Compute.place`'s mends
    run = train(model, table, options, settings, compute)
    measured = measure(test.ground_truth(), detect(model, test, options, compute), table.categories)
    print_table(measured.voc, table.categories, console)
    result = run | {
        "map_area": measured.voc.map_area,
        "map_11point": measured.voc.map_11point,
        "AP": measured.coco["AP"],
    }
    console.print_json(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result | {"metrics": measured.metrics}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
