"""Images a second on one core, from JPEG files of 500x375 to augmented 300x300 uint8 tensors: ours and torchvision's.

Both decode the same files and draw the same kind of choices (the paper's: photometric distortion, expand, IoU crop,
flip, resize). Rates are by processor time, so that other work on the machine counts little; those by the clock beside.
Medians of rounds in turn.

    python benchmarks/augmentation.py [--images 200] [--rounds 5] [--image-size 300] [--json augmentation.json]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
import tyro
from side_by_side import Result, show, write_results
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms import v2

from onestage.data.augmentation import Augmentation
from onestage.data.augmentation.presets import SSD_PAPER
from onestage.data.generated import KINDS, draw_image
from onestage.data.loader import BatchReader
from onestage.data.table import Table, TableBuilder
from onestage.input_size import Stretch
from onestage.runtime.decode import decode_image as decode_file
from onestage.structures import Categories

BATCH_SIZE = 32
OURS, THEIRS = "onestage, the paper's augmentation", "torchvision v2, the paper's augmentation"
GOAL = 350  # images/s a core


@dataclass(frozen=True)
class Options:
    """What is measured."""

    images: int = 200
    rounds: int = 5  # through all images
    image_size: int = 300
    width: int = 500
    height: int = 375
    json: Path | None = None


def write_images(root: Path, options: Options) -> Table:
    """Draw the images and write them as JPEG files of one size."""
    builder = TableBuilder(root, "train", "voc")
    categories = Categories.from_names(KINDS)
    for index in range(options.images):
        drawing = draw_image(np.random.default_rng((0, index)), 440)
        height, width = drawing.image.shape[:2]
        image = cv2.resize(drawing.image, (options.width, options.height))
        scale = np.array([options.width / width, options.height / height] * 2, dtype=np.float32)
        cv2.imwrite(str(root / f"{index}.jpg"), image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))
        builder.add(
            path=f"{index}.jpg",
            image_id=str(index),
            size_hw=(options.height, options.width),
            boxes_xyxy=drawing.boxes_xyxy * scale,
            labels=[categories.names.index(name) for name in drawing.names],
            ignored=drawing.difficult,
        )
    return builder.build(categories)


class TorchvisionSet:
    """The same work by torchvision.transforms.v2."""

    def __init__(self, table: Table, image_size: int) -> None:
        self.table = table
        self.transform = v2.Compose(
            [
                v2.RandomPhotometricDistort(p=0.5),
                v2.RandomZoomOut(fill={tv_tensors.Image: SSD_PAPER.fill, "others": 0}),
                v2.RandomIoUCrop(),
                v2.RandomHorizontalFlip(),
                v2.Resize((image_size, image_size), antialias=True),
                v2.SanitizeBoundingBoxes(),
            ]
        )

    def batch(self, indices: list[int]) -> torch.Tensor:
        return torch.stack([self.transformed(index) for index in indices])

    def transformed(self, index: int) -> torch.Tensor:
        image = tv_tensors.Image(decode_image(read_file(str(self.table.image_path(index))), ImageReadMode.RGB))
        objects = self.table.objects(index)
        height, width = image.shape[-2:]
        as_boxes = cast(Any, tv_tensors.BoundingBoxes)  # its declared constructor is torch.Tensor's
        boxes = as_boxes(
            torch.from_numpy(objects.boxes_xyxy.copy()), format="XYXY", canvas_size=(int(height), int(width))
        )
        sample = {"image": image, "boxes": boxes, "labels": torch.from_numpy(objects.labels.copy())}
        return self.transform(sample)["image"]


def rates(candidates: Mapping[str, Callable[[list[int]], object]], options: Options) -> dict[str, tuple[float, float]]:
    """Images a second by processor time and by the clock: medians of rounds, in each of which all take their turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(options.rounds + 1):  # one more, which warms up
        for name, work in candidates.items():
            processor, clock = time.process_time(), time.perf_counter()
            for first in range(0, options.images, BATCH_SIZE):
                work(list(range(first, min(first + BATCH_SIZE, options.images))))
            seconds = time.process_time() - processor, time.perf_counter() - clock
            found[name].append((options.images / seconds[0], options.images / seconds[1]))
    medians = {
        name: [statistics.median(column) for column in zip(*rows[1:], strict=True)] for name, rows in found.items()
    }
    return {name: (by_processor, by_clock) for name, (by_processor, by_clock) in medians.items()}


def main(options: Options) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        table = write_images(Path(folder), options)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / len(table) / 1024

        def ours(augmentation: Augmentation | None) -> Callable[[list[int]], object]:
            reader = BatchReader(table, augmentation, Stretch(options.image_size))
            return lambda indices: reader[[(0, index) for index in indices]]

        candidates: dict[str, Callable[[list[int]], object]] = {
            "onestage, decode only": lambda indices: [decode_file(table.image_path(index)) for index in indices],
            "onestage, decode and resize": ours(None),
            OURS: ours(SSD_PAPER),
            THEIRS: TorchvisionSet(table, options.image_size).batch,
        }
        found = rates(candidates, options)
    rate = found[OURS][0]
    result = Result(
        name="Augmentation on one core",
        command="python benchmarks/augmentation.py",
        columns=("what", "images/s of processor time", "by the clock", "times torchvision"),
        rows=tuple(
            (name, f"{processor:.0f}", f"{clock:.0f}", f"{processor / found[THEIRS][0]:.1f}")
            for name, (processor, clock) in found.items()
        ),
        goals=(f"at least {GOAL} images/s a core; measured {rate:.0f}: {'met' if rate >= GOAL else 'not met'}",),
        notes=(
            f"{len(table)} JPEG files of {options.width}x{options.height}, {size:.0f} KiB on average, to "
            f"{options.image_size}x{options.image_size}; medians of {options.rounds} rounds.",
        ),
    )
    show(result)
    write_results(options.json, [result])


if __name__ == "__main__":
    main(tyro.cli(Options))
