"""Writes the results of `onestage predict` image by image, so that memory stays flat however long a video is."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.data.voc import voc_annotation
from onestage.errors import UserError
from onestage.structures import Categories, Detections

ResultFormat = Literal["csv", "coco", "voc"]
CSV_COLUMNS = ["source", "frame", "time_s", "name", "label", "score", "x0", "y0", "x1", "y1", "track_id"]


@dataclass(frozen=True)
class ImageResult:
    """An image, or a frame of a video, with its detections."""

    where: dict[str, Any]  # the fields of `detections.json` that say which image it is
    name: str  # a file name for the image, unique even without its suffix
    file: Path | None  # the file that it was read from, if it was one
    image_rgb: UInt8[np.ndarray, "H W 3"]  # upright
    found: Detections  # in pixels of the image


Add: TypeAlias = Callable[[ImageResult], None]


@contextmanager
def result_files(
    folder: Path, categories: Categories, formats: tuple[ResultFormat, ...] = ()
) -> Iterator[tuple[Add, Counter[str]]]:
    """Open `detections.json` and files of other formats.

    Gives a function that adds an image to all of them, and the number of "images", "frames" and "detections" so far.
    """
    done: Counter[str] = Counter()
    with ExitStack() as files:
        writers = [files.enter_context(WRITERS[name](folder, categories)) for name in ("json", *dict.fromkeys(formats))]

        def add(result: ImageResult) -> None:
            done.update({"frames" if "frame" in result.where else "images": 1, "detections": len(result.found)})
            for write in writers:
                write(result)

        yield add, done


@contextmanager
def _json_list(path: Path) -> Iterator[Callable[[Any], None]]:
    """A JSON file that holds one list, written entry by entry."""
    with path.open("w", encoding="utf-8") as file:
        separator = "[\n"

        def append(entry: Any) -> None:
            nonlocal separator
            file.write(separator + json.dumps(entry))
            separator = ",\n"

        try:
            yield append
        finally:
            file.write("[]\n" if separator == "[\n" else "\n]\n")


@contextmanager
def _detections_json(folder: Path, categories: Categories) -> Iterator[Add]:
    """`detections.json`: an entry for each image, with its detections."""
    with _json_list(folder / "detections.json") as append:

        def add(result: ImageResult) -> None:
            height, width = result.image_rgb.shape[:2]
            append({**result.where, "width": width, "height": height, "detections": result.found.to_dict()})

        yield add


@contextmanager
def _csv_file(folder: Path, categories: Categories) -> Iterator[Add]:
    """`detections.csv`: a row for each detection."""
    with (folder / "detections.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()

        def add(result: ImageResult) -> None:
            for row in result.found.to_dict():
                sides = dict(zip(("x0", "y0", "x1", "y1"), row.pop("box_xyxy"), strict=True))
                writer.writerow({**result.where, **row, **sides})

        yield add


@contextmanager
def _coco_files(folder: Path, categories: Categories) -> Iterator[Add]:
    """COCO's result format in `coco_results.json`, and the images that its ids stand for in `coco_images.json`."""
    with _json_list(folder / "coco_results.json") as append, _json_list(folder / "coco_images.json") as append_image:
        image_id = 0

        def add(result: ImageResult) -> None:
            nonlocal image_id
            image_id += 1
            height, width = result.image_rgb.shape[:2]
            file_name = result.name if result.file is None else str(result.file)
            append_image({"id": image_id, "file_name": file_name, "width": width, "height": height})
            for one in result.found.to_coco(image_id, categories):
                append(one)

        yield add


@contextmanager
def _voc_folder(folder: Path, categories: Categories) -> Iterator[Add]:
    """`voc/`, a data set to correct in a labelling tool and to train on: images, annotations, `trainval.txt`."""
    root, taken = folder / "voc", set[str]()
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    with (root / "ImageSets/Main/trainval.txt").open("w", encoding="utf-8") as names_file:

        def add(result: ImageResult) -> None:
            flat = Path(result.name.replace("/", "-"))
            stem, number = flat.stem, 1
            while stem.lower() in taken:
                number += 1
                stem = f"{flat.stem}-{number}"
            taken.add(stem.lower())
            image = root / "JPEGImages" / f"{stem}{(result.file or flat).suffix}"
            if result.file is not None:
                shutil.copyfile(result.file, image)
            else:
                write_image(image, result.image_rgb)
            names = [result.found.name_of(label) for label in result.found.labels.tolist()]
            boxes_xyxy, (height, width) = result.found.boxes_xyxy.cpu().numpy(), result.image_rgb.shape[:2]
            text = voc_annotation(image.name, (height, width), boxes_xyxy, names, [False] * len(names))
            (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
            names_file.write(f"{stem}\n")

        yield add


WRITERS: dict[str, Callable[[Path, Categories], AbstractContextManager[Add]]] = {
    "json": _detections_json,
    "csv": _csv_file,
    "coco": _coco_files,
    "voc": _voc_folder,
}


def write_image(path: Path, image_rgb: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an image in the format that the path's suffix says.

    Raises:
        UserError: it can't be written.
    """
    if not cv2.imwrite(str(path), cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)):
        raise UserError(f"{path}: can't be written; is the disk full?")
