"""A detector of small images on large ones: test images of a VOC folder side by side, with tiles and without.

    python benchmarks/mosaics.py MODEL DATA --out FOLDER [--side 3] [--tile 500] [--tile-overlap 160]

Images that differ in size from the most common one, or have a box without area, are left out, so that all three lines
are of the same images.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional

import onestage
from onestage.data import read_dataset
from onestage.data.table import Table, TableBuilder
from onestage.data.writing import write_voc
from onestage.terminal import quiet


@dataclass(frozen=True)
class Options:
    """What is measured."""

    model: Positional[str]
    data: Positional[str]
    out: Path
    side: int = 3
    tile: int = 500
    tile_overlap: int = 160


def mosaics(table: Table, side: int, folder: Path) -> tuple[Table, Table]:
    """The images that fill whole mosaics, and those mosaics, `side` x `side` images each."""
    sizes = [tuple(size) for size in table.image_sizes_hw.tolist()]
    (height, width), _ = Counter(sizes).most_common(1)[0]
    alike = [row for row, size in enumerate(sizes) if size == (height, width)]
    alike = alike[: len(alike) // side**2 * side**2]
    folder.mkdir(parents=True)
    builder = TableBuilder(folder, "test", "voc")
    for number, rows in enumerate(np.reshape(alike, (-1, side, side))):
        pixels = np.concatenate([np.concatenate([table.pixels(one) for one in row], axis=1) for row in rows])
        Image.fromarray(pixels).save(folder / f"{number}.png")
        objects = [table.objects(one) for one in rows.flat]
        places = [(x * width, y * height) * 2 for y in range(side) for x in range(side)]
        builder.add(
            path=f"{number}.png",
            image_id=str(number),
            size_hw=pixels.shape[:2],
            boxes_xyxy=np.concatenate([one.boxes_xyxy + at for one, at in zip(objects, places, strict=True)]),
            labels=np.concatenate([one.labels for one in objects]),
            ignored=np.concatenate([one.ignored for one in objects]),
        )
    return table.subset(indices=alike), builder.build(table.categories)


def main(options: Options) -> None:
    """Evaluate all three, and print a line each."""
    table, _ = read_dataset(options.data, "test")
    single, large = mosaics(table, options.side, options.out / "pixels")
    for name, one in (("single", single), ("large", large)):
        write_voc({"test": one}, options.out / name)
    tiled: dict[str, Any] = {"tile": options.tile, "tile_overlap": options.tile_overlap}
    for name, how in (("single", {}), ("large", {}), ("large", tiled)):
        out = options.out / f"{name}-{'tiled' if how else 'whole'}"
        voc = onestage.evaluate(options.model, str(options.out / name), out=out, display=quiet(), **how)["voc"]
        of_classes = ", ".join(f"{label} {row['ap_area']:.3f}" for label, row in voc["per_class"].items())
        print(f"{name} {how or ''}: AP50 {voc['map_area']:.3f}; {of_classes}")


if __name__ == "__main__":
    main(tyro.cli(Options))
