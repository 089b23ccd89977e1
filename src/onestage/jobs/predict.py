"""`onestage predict`: detect in images and videos; write them with boxes drawn, and the detections in several formats.

Everything is written image by image, so that memory stays flat however long a video is.
"""

import csv
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.compute.memory import keep_freed_memory
from onestage.data.formats.voc import voc_annotation
from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.errors import UserError
from onestage.inference.object_tracking import ObjectTracker
from onestage.inference.predictor import BasePredictor, FramePrediction, load
from onestage.inference.sources import ImageSource, Source, VideoSource, open_sources
from onestage.inference.threads import behind
from onestage.inference.video import VideoReader, VideoWriter
from onestage.structures import Categories, Detections
from onestage.terminal import Display

ResultFormat = Literal["csv", "coco", "voc"]
CSV_COLUMNS = ["source", "frame", "time_s", "name", "label", "score", "x0", "y0", "x1", "y1", "track_id"]


@dataclass(frozen=True)
class Predicted:
    """Counts of what `predict` did; the results are in `folder / "detections.json"`."""

    folder: Path
    images: int
    frames: int
    detections: int


@dataclass(frozen=True)
class ImageResult:
    """An image, or a frame of a video, with its detections."""

    where: dict[str, Any]  # the fields of `detections.json` that say which image it is
    name: str  # a file name for the image, unique even without its suffix
    file: Path | None  # the file that it was read from, if it was one
    image_rgb: UInt8[np.ndarray, "H W 3"]  # upright
    found: Detections  # in pixels of the image


Add: TypeAlias = Callable[[ImageResult], None]


def predict(
    model: str | os.PathLike[str],
    sources: Sequence[str],
    *,
    out: str | os.PathLike[str] = "predictions",
    score_threshold: float = 0.5,
    nms: Literal["hard", "soft"] | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool = False,
    max_detections: int | None = None,
    every: int = 1,
    start_s: float = 0.0,
    end_s: float | None = None,
    track: bool = False,
    formats: tuple[ResultFormat, ...] = (),
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> Predicted:
    """Detect in every image and video of the sources; write them drawn, and `detections.json`, into `out`.

    Args:
        model: a run folder, a model file or an exported file.
        sources: images, videos, folders, globs, lists, cameras, addresses; see `open_sources`.
        out: the folder for the results; drawn images keep their paths below the folder that was named. Small images
            are drawn enlarged by a whole factor; `detections.json` is in pixels of the original all the same.
        score_threshold: the score above which a detection is kept and drawn.
        nms, iou_threshold, class_agnostic, max_detections: fields of `Selection`; "soft" is Gaussian soft-NMS. None
            keeps the model's own; of detections 200, or as many as an exported file gives.
        every: detect in each n-th frame of a video only.
        start_s, end_s: detect in the frames of a video from one time to before the other, seconds.
        track: give each object of a video a number that it keeps from frame to frame (ByteTrack).
        formats: also write "csv", "coco" (its result format) or "voc" (a folder to correct and train on).
        batch_size: number of images that go through the network together.
        device: as "cpu" or "cuda". None: a GPU where there is one.
        display: where messages go.

    Raises:
        UserError: no model, no sources, or an `out` in which a drawn copy would overwrite its source; or, when all
            others are done, sources that could not be read.
    """
    display = display or Display()
    keep_freed_memory()
    predictor = load(model, device=device)
    predictor.selection = predictor.papers_selection.changed(
        score_threshold=score_threshold,
        nms=nms,
        iou_threshold=iou_threshold,
        class_agnostic=class_agnostic or None,  # an exported file may have it inside
        max_detections=predictor.usual_detections if max_detections is None else max_detections,
    )
    opened, folder = open_sources(sources), Path(out)
    _refuse_to_overwrite(opened, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _result_files(folder, predictor.categories, formats) as (add, done):
        unreadable = _predict_images(predictor, opened, add, folder, batch_size, display)
        for video in (source for source in opened if isinstance(source, VideoSource)):
            try:
                reader = VideoReader(video, every=every, start_s=start_s, end_s=end_s, report=display.say)
            except UserError as error:
                unreadable += 1
                display.say(f"passed over: {error}")
                continue
            _predict_video(predictor, reader, track, add, folder / video.output_name, batch_size, display)
    inputs = " and ".join(f"{done[what]:,} {what}" for what in ("images", "frames") if done[what]) or "0 images"
    display.say(f"{inputs}, {done['detections']} detections with scores above {score_threshold:g}: {folder}")
    if unreadable:
        raise UserError(f"{unreadable} of {len(opened)} sources could not be read (named above)")
    return Predicted(folder, done["images"], done["frames"], done["detections"])


def _refuse_to_overwrite(sources: Sequence[ImageSource | VideoSource], folder: Path) -> None:
    for source in sources:
        target = folder / source.output_name
        if target.exists() and os.path.exists(source.name) and os.path.samefile(target, source.name):
            raise UserError(f"{source.name}: the drawn copy would take its place; choose another --out than {folder}")


def _predict_images(
    predictor: BasePredictor, sources: Sequence[Source], add: Add, folder: Path, batch_size: int, display: Display
) -> int:
    """Detect in the images among the sources and draw them; returns how many could not be read."""
    images = [source for source in sources if isinstance(source, ImageSource)]
    unreadable = 0

    def draw(result: ImageResult) -> None:
        target = folder / result.name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_image(target, result.found.draw(result.image_rgb, min_side=SMALLEST_DRAWN_SIDE))

    with display.stage("predicting", len(images)) as stage, behind(draw, depth=2 * batch_size) as draw_behind:
        files = predictor.predict_files([source.content for source in images], batch_size)
        for source, file in zip(images, files, strict=True):
            stage.advance()
            if file.image is None or not isinstance(file.outcome, Detections):
                unreadable += 1
                display.say(f"passed over: {file.outcome}")
                continue
            path = source.content if isinstance(source.content, Path) else None
            result = ImageResult({"source": source.name}, source.output_name, path, file.image, file.outcome)
            add(result)
            draw_behind(result)
    return unreadable


def _predict_video(
    predictor: BasePredictor, reader: VideoReader, track: bool, add: Add, path: Path, batch_size: int, display: Display
) -> None:
    """Decode, detect, draw and encode at the same time. Ctrl-C ends a live source, and all files are whole."""
    source, rate = reader.source, reader.rate / reader.every
    tracker = ObjectTracker(float(reader.rate) / reader.every, predictor.selection.score_threshold) if track else None
    if source.live:
        display.say(f"{source.name}: Ctrl-C ends it")
    ended_by = suppress(KeyboardInterrupt) if source.live else nullcontext()
    with ended_by, display.stage(source.name, reader.expected_frames) as stage:
        predictions = predictor.predict_video(reader, batch_size=batch_size)
        first = next(predictions, None)
        if first is None:
            return
        begin, (height, width) = first.frame.time, first.frame.image.shape[:2]
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = VideoWriter(path, (height, width), rate, reader.time_base, source, reader.begin + begin)

        def draw(prediction: FramePrediction) -> None:
            copy.write(prediction.found.draw(prediction.frame.image), prediction.frame.time - begin)

        with closing(copy), behind(draw, depth=batch_size) as draw_behind:
            for prediction in chain([first], predictions):
                if tracker is not None:
                    prediction = replace(prediction, found=tracker.update(prediction.found))
                frame = prediction.frame
                name = f"{Path(source.output_name).with_suffix('')}-{frame.index:06d}.jpg"
                where = {"source": source.name, "frame": frame.index, "time_s": round(float(frame.time), 4)}
                add(ImageResult(where, name, None, frame.image, prediction.found))
                draw_behind(prediction)
                stage.advance()


@contextmanager
def _result_files(folder: Path, categories: Categories, formats: Sequence[str]) -> Iterator[tuple[Add, Counter[str]]]:
    """Open `detections.json` and files of other formats.

    Gives a function that adds an image to all of them, and the number of "images", "frames" and "detections" so far.
    """
    done: Counter[str] = Counter()
    with ExitStack() as files:
        writers = [WRITERS[name](folder, categories, files) for name in ("json", *dict.fromkeys(formats))]

        def add(result: ImageResult) -> None:
            done.update({"frames" if "frame" in result.where else "images": 1, "detections": len(result.found)})
            for write in writers:
                write(result)

        yield add, done


def _json_list(path: Path, files: ExitStack) -> Callable[[Any], None]:
    """A JSON file that holds one list, written entry by entry."""
    file = files.enter_context(path.open("w", encoding="utf-8"))
    separator = "[\n"

    def append(entry: Any) -> None:
        nonlocal separator
        file.write(separator + json.dumps(entry))
        separator = ",\n"

    files.callback(lambda: file.write("[]\n" if separator == "[\n" else "\n]\n"))
    return append


def _detections_json(folder: Path, categories: Categories, files: ExitStack) -> Add:
    """`detections.json`: an entry for each image, with its detections."""
    append = _json_list(folder / "detections.json", files)

    def add(result: ImageResult) -> None:
        height, width = result.image_rgb.shape[:2]
        append({**result.where, "width": width, "height": height, "detections": result.found.to_dict()})

    return add


def _csv_file(folder: Path, categories: Categories, files: ExitStack) -> Add:
    """`detections.csv`: a row for each detection."""
    file = files.enter_context((folder / "detections.csv").open("w", newline="", encoding="utf-8"))
    writer = csv.DictWriter(file, CSV_COLUMNS)
    writer.writeheader()

    def add(result: ImageResult) -> None:
        for row in result.found.to_dict():
            sides = dict(zip(("x0", "y0", "x1", "y1"), row.pop("box_xyxy"), strict=True))
            writer.writerow({**result.where, **row, **sides})

    return add


def _coco_files(folder: Path, categories: Categories, files: ExitStack) -> Add:
    """COCO's result format in `coco_results.json`, and the images that its ids stand for in `coco_images.json`."""
    append = _json_list(folder / "coco_results.json", files)
    append_image = _json_list(folder / "coco_images.json", files)
    image_ids = count(1)

    def add(result: ImageResult) -> None:
        image_id, (height, width) = next(image_ids), result.image_rgb.shape[:2]
        file_name = str(result.file or result.name)
        append_image({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for one in result.found.to_coco(image_id, categories):
            append(one)

    return add


def _voc_folder(folder: Path, categories: Categories, files: ExitStack) -> Add:
    """`voc/`, a data set to correct in a labelling tool and to train on: images, annotations, `trainval.txt`."""
    root, taken = folder / "voc", set[str]()
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    names_file = files.enter_context((root / "ImageSets/Main/trainval.txt").open("w", encoding="utf-8"))

    def add(result: ImageResult) -> None:
        flat = Path(result.name.replace("/", "-"))
        stem, numbers = flat.stem, count(2)
        while stem.lower() in taken:
            stem = f"{flat.stem}-{next(numbers)}"
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

    return add


WRITERS: dict[str, Callable[[Path, Categories, ExitStack], Add]] = {
    "json": _detections_json,
    "csv": _csv_file,
    "coco": _coco_files,
    "voc": _voc_folder,
}


def write_image(path: Path, image_rgb: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an image in the format that the path's suffix says, or raise a UserError."""
    if not cv2.imwrite(str(path), cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)):
        raise UserError(f"{path}: can't be written; is the disk full?")
