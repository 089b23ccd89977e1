"""`onestage predict`: detect in images and videos; write them with boxes drawn, and the detections in several formats.

Everything is written image by image, so that memory stays flat however long a video is.
"""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.compute.memory import keep_freed_memory
from onestage.data.formats.voc import voc_annotation
from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.errors import UserError
from onestage.inference.object_tracking import LOWEST_SCORE, ObjectTracker
from onestage.inference.predictor import BasePredictor, FramePrediction, load
from onestage.inference.sources import ImageSource, Source, VideoSource, open_sources
from onestage.inference.threads import behind
from onestage.inference.video import TIME_DIGITS, VideoError, VideoReader, check_chosen_frames
from onestage.inference.video_writer import VideoWriter
from onestage.jobs.written_files import WrittenFiles
from onestage.structures import Categories, Detections
from onestage.terminal import Display, command_display
from onestage.texts import as_file_name, as_unicode, json_text

ResultFormat = Literal["csv", "coco", "voc"]
FILES_OF: dict[str, tuple[str, ...]] = {  # of each format, beside the files of images
    "json": ("detections.json",),
    "csv": ("detections.csv",),
    "coco": ("coco_results.json", "coco_images.json"),
    "voc": (),
}
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
    tile: int | str | None = None,
    tile_overlap: int | None = None,
    every: int = 1,
    start_s: float = 0.0,
    end_s: float | None = None,
    track: bool = False,
    formats: tuple[ResultFormat, ...] = (),
    batch_size: int = 8,
    device: str | None = None,
    overwrite: bool = False,
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
        tile, tile_overlap: how images are cut into tiles that go through the network one by one; see `changed_tiling`.
            None keeps the model's.
        every: detect in each n-th frame of a video only.
        start_s, end_s: detect in the frames of a video from one time to before the other, seconds.
        track: give each object of a video a number that it keeps from frame to frame (ByteTrack). Detections with
            lower scores are kept, too, where they go on with a track.
        formats: also write "csv", "coco" (its result format) or "voc" (a folder to correct and train on).
        batch_size: number of images that go through the network together.
        device: as "cpu" or "cuda". None: a GPU where there is one.
        overwrite: replace files in `out`, too, that no earlier `predict` wrote or that were changed since.
        display: where messages go.

    Raises:
        UserError: no model, no sources, or files in `out` that would be overwritten; or, when all others are done,
            sources that could not be read.
    """
    display = command_display(display)
    check_chosen_frames(every, start_s, end_s)
    keep_freed_memory()
    predictor = load(model, device=device, tile=tile, tile_overlap=tile_overlap)
    asked = {"score_threshold": score_threshold, "nms": nms, "iou_threshold": iou_threshold}
    asked["class_agnostic"] = class_agnostic or None  # an exported file may have it inside
    asked["max_detections"] = predictor.usual_detections if max_detections is None else max_detections
    predictor.selection = predictor.papers_selection.changed(**asked)
    opened, folder, written = open_sources(sources), Path(out), WrittenFiles(Path(out), overwrite)
    _ = ObjectTracker(1.0, score_threshold) if track else None  # or the line about the missing package, before all work
    written.check(_targets(opened, folder, formats), [source.name for source in opened])
    with written, _result_files(written, predictor.categories, formats) as (add, done):
        unreadable = _predict_images(predictor, opened, add, written, batch_size, display)
        lowest = min(LOWEST_SCORE, score_threshold) if track else score_threshold
        predictor.selection = replace(predictor.selection, score_threshold=lowest)
        for video in (source for source in opened if isinstance(source, VideoSource)):
            try:
                reader = VideoReader(video, every=every, start_s=start_s, end_s=end_s, report=display.say)
                tracker = ObjectTracker(float(reader.rate) / every, score_threshold) if track else None
                _predict_video(predictor, reader, tracker, add, written, batch_size, display)
            except VideoError as error:
                unreadable += 1
                display.say(f"passed over: {error}")
    display.say(f"{_counted(done, score_threshold, track)}, in {display.took}: {folder}")
    if unreadable:
        raise UserError(f"{unreadable} of {len(opened)} sources could not be read (named above)")
    return Predicted(folder, done["images"], done["frames"], done["detections"])


def _counted(done: Counter[str], score_threshold: float, track: bool) -> str:
    inputs = " and ".join(f"{done[what]:,} {what}" for what in ("images", "frames") if done[what]) or "0 images"
    which = f"scores above {score_threshold:g}{' or a track' if track else ''}"
    return f"{inputs}, {done['detections']} detections with {which}"


def _targets(sources: Sequence[Source], folder: Path, formats: Sequence[str]) -> Iterator[Path]:
    """The files that a run will write, or that lie where it may write."""
    yield from (folder / source.output_name for source in sources)
    for name in ("json", *formats):
        yield from (folder / file for file in FILES_OF[name])
    if "voc" in formats:
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            yield from (folder / "voc" / part).glob("[!.]*")


def _predict_images(
    predictor: BasePredictor,
    sources: Sequence[Source],
    add: Add,
    written: WrittenFiles,
    batch_size: int,
    display: Display,
) -> int:
    """Detect in the images among the sources and draw them; returns how many could not be read."""
    images = [source for source in sources if isinstance(source, ImageSource)]
    unreadable = 0

    def draw(result: ImageResult) -> None:
        target = written.begin(written.folder / result.name)
        write_image(target, result.found.draw(result.image_rgb, min_side=SMALLEST_DRAWN_SIDE))
        written.done(target)

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
    predictor: BasePredictor,
    reader: VideoReader,
    tracker: ObjectTracker | None,
    add: Add,
    written: WrittenFiles,
    batch_size: int,
    display: Display,
) -> None:
    """Decode, detect, draw and encode at the same time. Ctrl-C ends a live source, and all files are whole."""
    source = reader.source
    if source.live:
        display.say(f"{source.name}: Ctrl-C ends it")
    ended_by = suppress(KeyboardInterrupt) if source.live else nullcontext()
    with ended_by, display.stage(source.name, reader.expected_frames) as stage:
        predictions = predictor.predict_video(reader, batch_size=batch_size)
        predictions = predictions if tracker is None else tracker.follow(predictions)
        first = next(predictions, None)
        if first is None:
            return
        begin, (height, width) = first.frame.time, first.frame.image.shape[:2]
        path = written.begin(written.folder / source.output_name)
        copy = VideoWriter(
            path,
            (height, width),
            reader.rate / reader.every,
            reader.time_base,
            source,
            reader.begin + begin,
            colours=reader.colours,
            pixel_aspect=first.frame.pixel_aspect,
            report=display.say,
        )

        def draw(prediction: FramePrediction) -> None:
            copy.write(prediction.found.draw(prediction.frame.image), prediction.frame.time - begin)

        with closing(copy), behind(draw, depth=batch_size) as draw_behind:
            for prediction in chain([first], predictions):
                frame = prediction.frame
                name = f"{Path(source.output_name).with_suffix('')}-{frame.index:06d}.jpg"
                where = {"source": source.name, "frame": frame.index, "time_s": round(float(frame.time), TIME_DIGITS)}
                add(ImageResult(where, name, None, frame.image, prediction.found))
                draw_behind(prediction)
                stage.advance()
        written.done(path)


@contextmanager
def _result_files(
    written: WrittenFiles, categories: Categories, formats: Sequence[str]
) -> Iterator[tuple[Add, Counter[str]]]:
    """Open `detections.json` and files of other formats.

    Gives a function that adds an image to all of them, and the number of "images", "frames" and "detections" so far.
    """
    done: Counter[str] = Counter()
    with ExitStack() as files:
        writers = [WRITERS[name](written, categories, files) for name in ("json", *dict.fromkeys(formats))]

        def add(result: ImageResult) -> None:
            done.update({"frames" if "frame" in result.where else "images": 1, "detections": len(result.found)})
            for write in writers:
                write(result)

        yield add, done


def _opened(name: str, written: WrittenFiles, files: ExitStack) -> TextIO:
    """A file of results, open until all are written."""
    path = written.begin(written.folder / name)
    files.callback(written.done, path)
    return files.enter_context(path.open("w", newline="", encoding="utf-8"))


def _json_list(name: str, written: WrittenFiles, files: ExitStack) -> Callable[[Any], None]:
    """A JSON file that holds one list, written entry by entry."""
    file = _opened(name, written, files)
    separator = "[\n"

    def append(entry: Any) -> None:
        nonlocal separator
        file.write(separator + json_text(entry))
        separator = ",\n"

    files.callback(lambda: file.write("[]\n" if separator == "[\n" else "\n]\n"))
    return append


def _detections_json(written: WrittenFiles, categories: Categories, files: ExitStack) -> Add:
    """`detections.json`: an entry for each image, with its detections."""
    append = _json_list("detections.json", written, files)

    def add(result: ImageResult) -> None:
        height, width = result.image_rgb.shape[:2]
        append({**result.where, "width": width, "height": height, "detections": result.found.to_dict()})

    return add


def _csv_file(written: WrittenFiles, categories: Categories, files: ExitStack) -> Add:
    """`detections.csv`: a row for each detection."""
    writer = csv.DictWriter(_opened("detections.csv", written, files), CSV_COLUMNS)
    writer.writeheader()

    def add(result: ImageResult) -> None:
        for row in result.found.to_dict():
            sides = dict(zip(("x0", "y0", "x1", "y1"), row.pop("box_xyxy"), strict=True))
            texts = {"source": as_unicode(result.where["source"]), "name": as_unicode(row["name"])}
            writer.writerow({**result.where, **row, **sides, **texts})

    return add


def _coco_files(written: WrittenFiles, categories: Categories, files: ExitStack) -> Add:
    """COCO's result format in `coco_results.json`, and the images that its ids stand for in `coco_images.json`."""
    append = _json_list("coco_results.json", written, files)
    append_image = _json_list("coco_images.json", written, files)
    image_ids = count(1)

    def add(result: ImageResult) -> None:
        image_id, (height, width) = next(image_ids), result.image_rgb.shape[:2]
        file_name = str(result.file or result.name)
        append_image({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for one in result.found.to_coco(image_id, categories):
            append(one)

    return add


def _voc_folder(written: WrittenFiles, categories: Categories, files: ExitStack) -> Add:
    """`voc/`, a data set to correct in a labelling tool and to train on: images, annotations, `trainval.txt`."""
    root, taken = written.folder / "voc", set[str]()
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    names_file = _opened("voc/ImageSets/Main/trainval.txt", written, files)

    def add(result: ImageResult) -> None:
        flat = Path(as_file_name(result.name.replace("/", "-")))
        stem, numbers = flat.stem, count(2)
        while stem.lower() in taken:
            stem = f"{flat.stem}-{next(numbers)}"
        taken.add(stem.lower())
        image = written.begin(root / "JPEGImages" / f"{stem}{(result.file or flat).suffix}")
        if result.file is not None:
            shutil.copyfile(result.file, image)
        else:
            write_image(image, result.image_rgb)
        corners = result.found.boxes_xyxy
        found = result.found[
            (corners[:, 2:] > corners[:, :2]).all(dim=1)
        ]  # VOC has no box without area, as at a border
        names = [found.name_of(label) for label in found.labels.tolist()]
        boxes_xyxy, (height, width) = found.boxes_xyxy.cpu().numpy(), result.image_rgb.shape[:2]
        text = voc_annotation(image.name, (height, width), boxes_xyxy, names, [False] * len(names))
        annotation = written.begin(root / "Annotations" / f"{stem}.xml")
        annotation.write_text(text, encoding="utf-8")
        written.done(image)
        written.done(annotation)
        names_file.write(f"{stem}\n")

    return add


WRITERS: dict[str, Callable[[WrittenFiles, Categories, ExitStack], Add]] = {
    "json": _detections_json,
    "csv": _csv_file,
    "coco": _coco_files,
    "voc": _voc_folder,
}


def write_image(path: Path, image_rgb: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an image in the format that the path's suffix says, or raise a UserError."""
    encoded = cv2.imencode(path.suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))[1]
    try:
        path.write_bytes(encoded.tobytes())  # `cv2.imwrite` ends the process where a name is no UTF-8
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}); make room, or choose another --out") from error
