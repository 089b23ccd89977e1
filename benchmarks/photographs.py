"""Training on large photographs, shrunk once and not: images a second and AP, beside each other in one run.

    python benchmarks/photographs.py DATA --out FOLDER [--megapixels 12] [--steps 150] [--backbone-weights FILE]

The photographs are the images of DATA, enlarged with noise as of a sensor, since a JPEG of smooth pixels is decoded
faster. Nothing else may run beside it: the images a second are the median of those that are logged after two epochs.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import tyro

import onestage
from onestage.data.table import Table
from onestage.data.writing import write_voc
from onestage.data_options import DataOptions
from onestage.jobs.convert import read_all_splits
from onestage.terminal import Display
from onestage.training.journal import read_log

JPEG_QUALITY, NOISE = 92, 6
WAYS = {"whole": {"shrink_images": "none"}, "shrunk": {}}


@dataclass(frozen=True)
class Options:
    """What is measured."""

    data: tyro.conf.Positional[Path]
    out: Path
    megapixels: float = 12.0
    steps: int = 150
    batch_size: int = 8
    image_size: int = 256
    seed: int = 0
    backbone_weights: str = "imagenet"


def enlarged(table: Table, folder: Path, pixels: float) -> Table:
    """The table with each image so large, written to the folder."""
    rng = np.random.default_rng(0)
    factors = np.sqrt(pixels / table.image_sizes_hw.prod(axis=1))
    sizes_hw = np.round(table.image_sizes_hw * factors[:, None]).astype(np.int32)
    for index, (height, width) in enumerate(sizes_hw.tolist()):
        image = cv2.resize(table.pixels(index), (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += rng.integers(-NOISE, NOISE + 1, image.shape, dtype=np.int16)
        file = folder / table.image_name(index)
        file.parent.mkdir(parents=True, exist_ok=True)
        jpeg = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        cv2.imwrite(str(file), np.clip(image, 0, 255).astype(np.uint8)[..., ::-1], jpeg)
    scale = np.repeat((sizes_hw / table.image_sizes_hw)[:, ::-1], np.diff(table.first_object), axis=0)
    boxes_xyxy = (table.boxes_xyxy * np.tile(scale, 2)).astype(np.float32)
    return replace(table, root=folder, image_sizes_hw=sizes_hw, boxes_xyxy=boxes_xyxy)


def main(options: Options) -> None:
    photographs = options.out / f"{options.megapixels:g}-megapixels"
    if not photographs.exists():
        tables = read_all_splits(str(options.data), Display(), DataOptions(skip_bad_data=True))
        images = options.out / f"{options.megapixels:g}-images"
        write_voc({name: enlarged(one, images, 1e6 * options.megapixels) for name, one in tables.items()}, photographs)
    lines = ["| images | images a second | AP50 | AP |", "|---|---|---|---|"]
    for way, settings in WAYS.items():
        out = options.out / f"{options.megapixels:g}-{way}-{options.seed}"
        result = onestage.train(
            str(photographs),
            out=out,
            steps=options.steps,
            seed=options.seed,
            backbone_weights=options.backbone_weights,
            settings={
                "evaluations": 1,
                "batch_size": options.batch_size,
                "learning_rate": 1.4e-3,
                "image_size": options.image_size,
                **settings,
            },
        )
        rows = [row for row in read_log(out / "log.csv") if (row["epoch"] or 0.0) > 2]
        pace = statistics.median(row["images_per_second"] or 0.0 for row in rows)
        voc, coco = result.metrics["voc"]["map_area"], result.metrics["coco"]["AP"]
        lines.append(f"| {way} | {pace:.1f} | {100 * voc:.1f} | {100 * coco:.1f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Options))
