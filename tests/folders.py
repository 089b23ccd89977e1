"""Small data sets on disk for the tests, written without the package's own writers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onestage.data import find_datasets
from onestage.data.rows import read_source
from onestage.data.table import Table
from onestage.data.validate import Problem
from onestage.structures import Categories

VocObject = tuple[str, Any, Any, Any, Any]  # name, xmin, ymin, xmax, ymax as the file has them


def write_image(path: Path, size_hw: tuple[int, int] = (60, 80), seed: int = 0) -> None:
    """A coloured image, in the format of the path's extension."""
    height, width = size_hw
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


def write_files(root: Path, images: Sequence[str], texts: Mapping[str, str]) -> Path:
    """A folder of images, and of texts by their paths."""
    for image in images:
        write_image(root / image)
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def voc_xml(
    objects: Sequence[VocObject] = (),
    *,
    size_hw: tuple[int, int] | None = (60, 80),
    filename: str = "",
    difficult: Sequence[int] = (),
) -> str:
    parts = [f"<filename>{filename}</filename>" if filename else ""]
    if size_hw is not None:
        parts.append(f"<size><width>{size_hw[1]}</width><height>{size_hw[0]}</height><depth>3</depth></size>")
    for number, (name, *sides) in enumerate(objects):
        tags = zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True)
        box = "".join(f"<{tag}>{side}</{tag}>" for tag, side in tags)
        hard = difficult[number] if difficult else 0
        parts.append(f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox>{box}</bndbox></object>")
    return f"<annotation>{''.join(parts)}</annotation>"


def write_voc_folder(root: Path, annotations: Mapping[str, str], split: str = "train", size_hw=(60, 80)) -> Path:
    """A VOC folder of the given XML texts by stem, with an image for each."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (stem, xml) in enumerate(annotations.items()):
        (root / "Annotations" / f"{stem}.xml").write_text(xml)
        write_image(root / "JPEGImages" / f"{stem}.jpg", size_hw, seed)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in annotations))
    return root


def write_coco_folder(root: Path, content: dict, split: str = "train2017", images: bool = True) -> Path:
    """A COCO folder of the given JSON content, with an image for each image that has a name and a size."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for seed, image in enumerate(content["images"] if images else ()):
        write_image(root / split / image["file_name"], (int(image["height"]), int(image["width"])), seed)
    return root


def read_split(root: Path, split: str, categories: Categories | None = None) -> tuple[Table, list[Problem]]:
    """What the reader of a folder makes of a split, also where nothing in it is usable."""
    ((folder, kind, source, *_),) = find_datasets(root)
    return read_source(source, folder, kind, split, categories)
