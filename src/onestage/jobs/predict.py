"""`onestage predict`: detect in images and videos, and write them with boxes drawn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from onestage.compute.memory import keep_freed_memory
from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor, FramePrediction
from onestage.inference.object_tracking import ObjectTracker
from onestage.inference.predictor import load
from onestage.inference.sources import ImageSource, Source, VideoSource, open_sources
from onestage.inference.threads import behind
from onestage.inference.video import VideoReader, VideoWriter
from onestage.jobs.results import Add, ImageResult, ResultFormat, result_files, write_image
from onestage.structures import Detections
from onestage.terminal import Display


@dataclass(frozen=True)
class Predicted:
    """Counts of what `predict` did; the results are in `folder / "detections.json"`."""

    folder: Path
    images: int
    frames: int
    detections: int


def predict(
    model: str | os.PathLike[str],
    sources: Sequence[str],
    *,
    out: str | os.PathLike[str] = "predictions",
    score_threshold: float = 0.5,
    nms: Literal["hard", "soft"] | None = None,
    iou_threshold: float | None = None,
    class_agnostic: bool = False,
    max_detections: int = 200,
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
            keeps the model's own.
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
        max_detections=max_detections,
    )
    opened, folder = open_sources(list(sources)), Path(out)
    _refuse_to_overwrite(opened, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with result_files(folder, predictor.categories, formats) as (add, done):
        unreadable = _predict_images(predictor, opened, add, folder, batch_size, display)
        for video in (source for source in opened if isinstance(source, VideoSource)):
            try:
                reader = VideoReader(video, every=every, start_s=start_s, end_s=end_s, report=display.say)
            except UserError as error:
                unreadable += 1
                display.say(f"passed over: {error}")
                continue
            tracker = ObjectTracker(float(reader.rate) / every, score_threshold) if track else None
            _predict_video(predictor, reader, tracker, add, folder / video.output_name, batch_size, display)
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
    predictor: BasePredictor,
    reader: VideoReader,
    tracker: ObjectTracker | None,
    add: Add,
    target: Path,
    batch_size: int,
    display: Display,
) -> None:
    """Decode, detect, draw and encode at the same time. Ctrl-C ends a live source, and all files are whole."""
    source = reader.source
    if source.live:
        display.say(f"{source.name}: Ctrl-C ends it")
    try:
        with display.stage(source.name, reader.expected_frames or 0) as stage:
            predictions = predictor.predict_video(reader, batch_size=batch_size)
            first = next(predictions, None)
            if first is None:
                return
            begin, size_hw = first.frame.time, (first.frame.image.shape[0], first.frame.image.shape[1])
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = VideoWriter(
                target, size_hw, reader.rate / reader.every, reader.time_base, source, reader.begin + begin
            )

            def draw(prediction: FramePrediction) -> None:
                copy.write(prediction.found.draw(prediction.frame.image), prediction.frame.time - begin)

            with closing(copy), behind(draw, depth=batch_size) as draw_behind:
                for prediction in chain([first], predictions):
                    if tracker is not None:
                        prediction = replace(prediction, found=tracker.update(prediction.found))
                    add(_frame_result(source, prediction))
                    draw_behind(prediction)
                    stage.advance()
    except KeyboardInterrupt:
        if not source.live:
            raise


def _frame_result(source: VideoSource, prediction: FramePrediction) -> ImageResult:
    frame = prediction.frame
    name = f"{Path(source.output_name).with_suffix('')}-{frame.index:06d}.jpg"
    where = {"source": source.name, "frame": frame.index, "time_s": round(float(frame.time), 4)}
    return ImageResult(where, name, None, frame.image, prediction.found)
