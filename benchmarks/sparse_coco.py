"""A COCO folder with everything that trips readers up, to be learned by heart: 80 classes, COCO's sparse ids, crowds.

    python benchmarks/sparse_coco.py OUT
    onestage train OUT --detector ssd300-tf_efficientnet_lite0 --minutes 8 --backbone-weights FILE

Stands in for COCO128 where its annotations are not at hand. Each image holds a few two-digit numbers, the class of
each being the number; the crowds are heaps of small numbers under one run-length mask (`iscrowd` 1), which must teach
nothing and count nothing. The split is `train2017`, on which the run is measured too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import tyro

CLASSES = 80
MISSING_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # of 1..91: the ids that COCO's 80 classes leave out
IDS = [number for number in range(1, 92) if number not in MISSING_IDS]
HEIGHT, WIDTH = 240, 320


@dataclass(frozen=True)
class Options:
    """Where to, and how much."""

    out: Annotated[Path, tyro.conf.Positional]
    images: int = 128
    crowds: int = 10
    seed: int = 0


def put_number(image: np.ndarray, number: int, x: int, y: int, side: int) -> list[int]:
    """Draw a class's number on its own ground at (x, y); the box as COCO writes it: x, y, width, height."""
    width, height = side, round(0.7 * side)
    colour = cv2.cvtColor(np.array([[[number * 180 // CLASSES, 180, 230]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
    cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), colour, -1)
    scale = side / 45
    cv2.putText(
        image, f"{number:02d}", (x + side // 20, y + round(0.58 * side)), 0, scale, (0, 0, 0), max(1, side // 20)
    )
    return [x, y, width, height]


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed mask: lengths of runs of zeros and ones in turn, down the columns."""
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(edges, prepend=0, append=len(flat)).tolist()
    return {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}


def main(options: Options) -> None:
    rng = np.random.default_rng(options.seed)
    folder = options.out / "train2017"
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []

    def annotate(image_id: int, label: int, bbox: list[int], **rest: Any) -> None:
        x, y, w, h = bbox
        usual = {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "area": w * h, "iscrowd": 0}
        row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": IDS[label], "bbox": bbox}
        annotations.append({**row, **usual, **rest})

    order = rng.permutation(np.arange(options.images * 4) % CLASSES).reshape(-1, 4)
    for index, labels in enumerate(order.tolist()):
        image = np.full((HEIGHT, WIDTH, 3), rng.integers(60, 120), np.uint8)
        image_id = 1_000 + 7 * index
        for quarter, label in enumerate(labels):  # one number a quarter of the image, the crowd in the last one
            x0, y0 = quarter % 2 * WIDTH // 2, quarter // 2 * HEIGHT // 2
            if quarter == 3 and index < options.crowds:
                mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                for _ in range(25):
                    x, y = x0 + int(rng.integers(0, 130)), y0 + int(rng.integers(0, 95))
                    bx, by, bw, bh = put_number(image, label, x, y, 24)
                    mask[by : by + bh, bx : bx + bw] = 1
                bbox = [int(v) for v in cv2.boundingRect(mask)]
                annotate(image_id, label, bbox, segmentation=run_lengths(mask), area=int(mask.sum()), iscrowd=1)
                continue
            side = int(rng.integers(45, 120))
            x = x0 + int(rng.integers(0, WIDTH // 2 - side))
            y = y0 + int(rng.integers(0, HEIGHT // 2 - round(0.7 * side)))
            annotate(image_id, label, put_number(image, label, x, y, side))
        name = f"{image_id:012d}.jpg"
        cv2.imwrite(str(folder / name), image)
        images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
    categories = [
        {"id": IDS[label], "name": f"number {label:02d}", "supercategory": "number"} for label in range(CLASSES)
    ]
    (options.out / "annotations").mkdir(exist_ok=True)
    table = {"images": images, "annotations": annotations, "categories": categories}
    (options.out / "annotations" / "instances_train2017.json").write_text(json.dumps(table))
    print(f"{options.out}: {len(images)} images, {len(annotations)} objects, {options.crowds} of them crowds")


if __name__ == "__main__":
    main(tyro.cli(Options))
