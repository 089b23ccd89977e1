"""What `onestage predict` writes beside the drawn images, row by row: memory stays flat however long a video is."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.data.voc import voc_annotation
from onestage.errors import UserError
from onestage.inference.sources import ImageSource, VideoSource
from onestage.inference.video import Frame
from onestage.structures import Categories, Detections

Format = Literal["csv", "coco", "voc"]
CSV_COLUMNS: tuple[str, ...] = (
    "source",
    "frame",
    "time_s",
    "name",
    "label",
    "score",
    "x0",
    "y0",
    "x1",
    "y1",
    "track_id",
)
JPEG_QUALITY = 95  # of frames that are to be labelled


class ResultFiles:
    """`detections.json`, and by choice `detections.csv`, COCO's result format, or a VOC folder. Use it in `with`.

    Attributes:
        images, frames, detections: how many were written.
    """

    def __init__(self, folder: Path, categories: Categories, formats: tuple[Format, ...] = ()) -> None:
        self.images = self.frames = self.detections = 0
        self._files = ExitStack()
        self._json = self._files.enter_context(JsonList(folder / "detections.json"))
        self._csv = self._files.enter_context(CsvFile(folder / "detections.csv")) if "csv" in formats else None
        self._coco = self._files.enter_context(CocoFiles(folder, categories)) if "coco" in formats else None
        self._voc = self._files.enter_context(VocFolder(folder / "voc")) if "voc" in formats else None

    def __enter__(self) -> ResultFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def add_image(self, source: ImageSource, image_rgb: UInt8[np.ndarray, "H W 3"], found: Detections) -> None:
        """What was found in an image; boxes are its pixels."""
        self.images += 1
        original = source.content if isinstance(source.content, Path) else None
        self._add({"source": source.name}, source.output_name, original, image_rgb, found)

    def add_frame(self, source: VideoSource, frame: Frame, found: Detections) -> None:
        """What was found in a frame of a video."""
        self.frames += 1
        where = {"source": source.name, "frame": frame.index, "time_s": round(float(frame.time), 4)}
        name = f"{Path(source.output_name).with_suffix('')}-{frame.index:06d}.jpg"
        self._add(where, name, None, frame.image, found)

    def _add(
        self,
        where: dict[str, Any],
        name: str,
        original: Path | None,
        image_rgb: UInt8[np.ndarray, "H W 3"],
        found: Detections,
    ) -> None:
        height, width = image_rgb.shape[:2]
        rows = found.to_dict()
        self.detections += len(rows)
        self._json.add({**where, "width": width, "height": height, "detections": rows})
        if self._csv is not None:
            self._csv.add(where, rows)
        if self._coco is not None:
            self._coco.add(name if original is None else str(original), (height, width), found)
        if self._voc is not None:
            self._voc.add(name, original, image_rgb, found)


class JsonList:
    """A JSON file with one list, written entry by entry; whole from the moment it is closed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._separator = "[\n"

    def add(self, entry: Any) -> None:
        """One more entry."""
        self._file.write(self._separator + json.dumps(entry))
        self._separator = ",\n"

    def __enter__(self) -> JsonList:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._file.close()


class CsvFile:
    """A row a detection."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, CSV_COLUMNS)
        self._writer.writeheader()

    def add(self, where: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """The rows of `Detections.to_dict` of one image."""
        for row in rows:
            sides = dict(zip(("x0", "y0", "x1", "y1"), row["box_xyxy"], strict=True))
            self._writer.writerow({**where, **{k: v for k, v in row.items() if k != "box_xyxy"}, **sides})

    def __enter__(self) -> CsvFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class CocoFiles:
    """`coco_results.json` (a list of image_id, category_id, bbox, score), and `coco_images.json`: what the ids mean."""

    def __init__(self, folder: Path, categories: Categories) -> None:
        self._categories = categories
        self._results = JsonList(folder / "coco_results.json")
        self._images = JsonList(folder / "coco_images.json")
        self._count = 0

    def add(self, file_name: str, size_hw: tuple[int, int], found: Detections) -> None:
        """An image and what was found in it."""
        self._count += 1
        height, width = size_hw
        self._images.add({"id": self._count, "file_name": file_name, "width": width, "height": height})
        for result in found.to_coco(self._count, self._categories):
            self._results.add(result)

    def __enter__(self) -> CocoFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._results.__exit__()
        self._images.__exit__()


class VocFolder:
    """A VOC folder to correct in a labelling tool and to train on: images, annotations, `trainval.txt`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._taken: set[str] = set()
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self._list = (root / "ImageSets/Main/trainval.txt").open("w", encoding="utf-8")

    def add(self, name: str, original: Path | None, image_rgb: UInt8[np.ndarray, "H W 3"], found: Detections) -> None:
        """An image, copied as it is where it is a file, and its boxes."""
        flat = Path(name.replace("/", "-"))
        stem, count = flat.stem, 1
        while stem.lower() in self._taken:
            count += 1
            stem = f"{flat.stem}-{count}"
        self._taken.add(stem.lower())
        file_name = f"{stem}{flat.suffix if original is None else original.suffix}"
        target = self._root / "JPEGImages" / file_name
        if original is not None:
            shutil.copyfile(original, target)
        else:
            bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(target), bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise UserError(f"{target}: can't be written; is the disk full?")
        height, width = image_rgb.shape[:2]
        names = [found.name_of(label) for label in found.labels.tolist()]
        boxes_xyxy = found.boxes_xyxy.cpu().numpy()
        text = voc_annotation(file_name, (height, width), boxes_xyxy, names, [False] * len(names))
        (self._root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
        self._list.write(f"{stem}\n")

    def __enter__(self) -> VocFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._list.close()
