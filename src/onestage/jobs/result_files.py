"""What `predict` writes beside the drawn images: lists of detections, image by image, so that memory stays flat."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.jobs.written_files import WrittenFiles
from onestage.structures import Categories, Detections
from onestage.texts import as_unicode, json_text

CSV_COLUMNS = ["source", "frame", "time_s", "name", "label", "score", "x0", "y0", "x1", "y1", "track_id", "probability"]


@dataclass(frozen=True)
class ImageResult:
    """An image, or a frame of a video, with its detections."""

    where: dict[str, Any]  # the fields of `detections.json` that say which image it is
    name: str  # a file name for the image, unique even without its suffix
    file: Path | None  # the file that it was read from, if it was one
    image_rgb: UInt8[np.ndarray, "H W 3"]  # upright
    found: Detections  # in pixels of the image

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image_rgb.shape[0], self.image_rgb.shape[1]


Add: TypeAlias = Callable[[ImageResult], None]


@dataclass(frozen=True)
class Output:
    """A folder of results, with files that are open until all are written."""

    written: WrittenFiles
    categories: Categories
    model: str  # what made the results
    files: ExitStack

    def opened(self, name: str) -> TextIO:
        """A new file in the folder."""
        path = self.written.begin(self.written.folder / name)
        self.files.callback(self.written.done, path)
        return self.files.enter_context(path.open("w", newline="", encoding="utf-8"))

    def json_list(self, name: str) -> JsonList:
        """A new JSON file that holds one list."""
        found = JsonList(self.opened(name))
        self.files.callback(found.end, "\n")
        return found


class JsonList:
    """A list in a JSON file, written entry by entry."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.separator = file, "[\n"

    def append(self, entry: Any) -> None:
        self.file.write(self.separator + json_text(entry))
        self.separator = ",\n"

    def end(self, behind: str) -> None:
        """Write the end of the list, and what comes behind it."""
        self.file.write(("[]" if self.separator == "[\n" else "\n]") + behind)


def detections_json(output: Output) -> Add:
    """`detections.json`: an entry for each image, with its detections."""
    entries = output.json_list("detections.json")

    def add(result: ImageResult) -> None:
        height, width = result.size_hw
        entries.append({**result.where, "width": width, "height": height, "detections": result.found.to_dict()})

    return add


def csv_file(output: Output) -> Add:
    """`detections.csv`: a row for each detection."""
    writer = csv.DictWriter(output.opened("detections.csv"), CSV_COLUMNS, extrasaction="ignore")
    writer.writeheader()

    def add(result: ImageResult) -> None:
        for row in result.found.to_dict():
            sides = dict(zip(("x0", "y0", "x1", "y1"), row.pop("box_xyxy"), strict=True))
            texts = {"source": as_unicode(result.where["source"]), "name": as_unicode(row["name"])}
            writer.writerow({**result.where, **row, **sides, **texts})

    return add


def coco_files(output: Output) -> Add:
    """COCO's result format in `coco_results.json`, and the images that its ids stand for in `coco_images.json`."""
    results, images = output.json_list("coco_results.json"), output.json_list("coco_images.json")
    image_ids = count(1)

    def add(result: ImageResult) -> None:
        image_id, (height, width) = next(image_ids), result.size_hw
        file_name = str(result.file or result.name)
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for one in result.found.to_coco(image_id, output.categories):
            results.append(one)

    return add


def write_image(path: Path, image_rgb: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an image in the format that the path's suffix says, or raise a UserError."""
    encoded = cv2.imencode(path.suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))[1]
    try:
        path.write_bytes(encoded.tobytes())  # `cv2.imwrite` ends the process where a name is no UTF-8
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}); make room, or choose another --out") from error
