"""Detect in images and videos, and write them with their boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from onestage.compute.device import keep_freed_memory
from onestage.drawing import SMALLEST_DRAWN_SIDE
from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor, FramePrediction
from onestage.inference.object_tracking import ObjectTracker
from onestage.inference.predictor import load
from onestage.inference.sources import ImageSource, VideoSource, open_sources
from onestage.inference.threads import Behind
from onestage.inference.video import Sound, VideoReader, VideoWriter
from onestage.jobs.results import Format, ResultFiles
from onestage.postprocess import Nms, Selection
from onestage.structures import Detections
from onestage.terminal import Display

NMS: dict[str, Nms] = {"hard": "hard", "soft": "soft-gaussian"}


@dataclass(frozen=True)
class Predicted:
    """What `predict` did; its results are in `folder / "detections.json"`."""

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
    class_agnostic: bool = False,
    max_detections: int = 200,
    every: int = 1,
    start_s: float = 0.0,
    end_s: float | None = None,
    track: bool = False,
    formats: tuple[Format, ...] = (),
    batch_size: int = 8,
    device: str | None = None,
    display: Display | None = None,
) -> Predicted:
    """Detect in every image and video of the sources; write them drawn, and `detections.json`, into `out`.

    Args:
        model: a run folder, a model file or an exported file.
        sources: what `open_sources` takes: images, videos, folders, globs, lists, cameras, addresses.
        out: the folder for the results; what is drawn keeps its path below its source. Small images are drawn
            enlarged by a whole factor; `detections.json` is in pixels of the original all the same.
        score_threshold: what is kept and drawn.
        nms: "soft" is Gaussian soft-NMS; None: as the detector's paper does it.
        class_agnostic: boxes of different classes suppress each other too.
        max_detections: at most so many an image.
        every: of videos, each n-th frame only.
        start_s, end_s: of videos, from one time to before the other, seconds.
        track: of videos, give each object a number that it keeps from frame to frame (ByteTrack).
        formats: also write "csv", "coco" (its result format) or "voc" (a folder to correct and train on).
        batch_size: images at once.
        device: None takes a GPU where there is one.
        display: where to print.

    Raises:
        UserError: no model, no sources, an `out` in which a source itself would be overwritten; or, after all others
            were done, sources that could not be read.
    """
    display = display or Display()
    keep_freed_memory()
    predictor = load(model, device=device)
    predictor.selection = chosen_selection(
        predictor.papers_selection, score_threshold, nms, class_agnostic, max_detections
    )
    opened, folder = open_sources(list(sources)), Path(out)
    _refuse_to_overwrite(opened, folder)
    folder.mkdir(parents=True, exist_ok=True)
    images = [source for source in opened if isinstance(source, ImageSource)]
    with ResultFiles(folder, predictor.categories, formats) as results:
        unreadable = _predict_images(predictor, images, results, folder, batch_size, display) if images else 0
        for video in (source for source in opened if isinstance(source, VideoSource)):
            try:
                reader = VideoReader(video, every=every, start_s=start_s, end_s=end_s, report=display.say)
            except UserError as error:
                unreadable += 1
                display.say(f"passed over: {error}")
                continue
            tracker = ObjectTracker(float(reader.rate) / every, score_threshold) if track else None
            _predict_video(predictor, reader, tracker, results, folder, batch_size, display)
    display.say(f"{_counted(results)}, {results.detections} detections of score {score_threshold:g} and more: {folder}")
    if unreadable:
        raise UserError(f"{unreadable} of {len(opened)} sources could not be read (named above)")
    return Predicted(folder, results.images, results.frames, results.detections)


def chosen_selection(
    papers: Selection,
    score_threshold: float,
    nms: Literal["hard", "soft"] | None,
    class_agnostic: bool,
    max_detections: int,
) -> Selection:
    """A detector's paper's selection with what a person asked for; see `predict`."""
    return replace(
        papers,
        score_threshold=score_threshold,
        max_detections=max_detections,
        nms=papers.nms if nms is None else NMS[nms],
        class_agnostic=class_agnostic or papers.class_agnostic,  # which may be part of an exported file
    )


def _refuse_to_overwrite(sources: Sequence[ImageSource | VideoSource], folder: Path) -> None:
    for source in sources:
        target = folder / source.output_name
        if target.exists() and os.path.exists(source.name) and os.path.samefile(target, source.name):
            raise UserError(f"{source.name}: the drawn copy would take its place; choose another --out than {folder}")


def _counted(results: ResultFiles) -> str:
    parts = [(results.images, "images"), (results.frames, "frames")]
    return " and ".join(f"{count:,} {what}" for count, what in parts if count) or "0 images"


def _predict_images(
    predictor: BasePredictor,
    images: list[ImageSource],
    results: ResultFiles,
    folder: Path,
    batch_size: int,
    display: Display,
) -> int:
    """Returns how many could not be read."""
    unreadable = 0
    with display.stage("predicting", len(images)) as stage, Behind(_write_image, depth=2 * batch_size) as writing:
        files = predictor.predict_files([source.content for source in images], batch_size)
        for source, file in zip(images, files, strict=True):
            stage.advance()
            if not isinstance(file.outcome, Detections) or file.image is None:
                unreadable += 1
                display.say(f"passed over: {file.outcome}")
                continue
            results.add_image(source, file.image, file.outcome)
            writing.put(Drawing(file.image, file.outcome, folder / source.output_name))
    return unreadable


@dataclass(frozen=True)
class Drawing:
    """An image to draw and write."""

    image: UInt8[np.ndarray, "H W 3"]
    found: Detections
    target: Path


def _write_image(drawing: Drawing) -> None:
    drawn = drawing.found.draw(drawing.image, min_side=SMALLEST_DRAWN_SIDE)
    drawing.target.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(drawing.target), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)):
        raise UserError(f"{drawing.target}: can't be written; is the disk full?")


def _predict_video(
    predictor: BasePredictor,
    reader: VideoReader,
    tracker: Tracker | None,
    results: ResultFiles,
    folder: Path,
    batch_size: int,
    display: Display,
) -> None:
    """Decoding, detecting and encoding go on at the same time. Ctrl-C ends a live source, and both files are whole."""
    drawn = DrawnVideo(reader, folder / reader.source.output_name)
    if reader.source.live:
        display.say(f"{reader.source.name}: Ctrl-C ends it")
    try:
        with (
            display.stage(reader.source.name, reader.expected_frames or 0) as stage,
            Behind(drawn.write, depth=batch_size) as writing,
        ):
            for prediction in _tracked(predictor.predict_video(reader, batch_size=batch_size), tracker):
                results.add_frame(reader.source, prediction.frame, prediction.found)
                writing.put(prediction)
                stage.advance()
    except KeyboardInterrupt:
        if not reader.source.live:
            raise
    finally:
        drawn.close()


def _tracked(predictions: Iterator[FramePrediction], tracker: Tracker | None) -> Iterator[FramePrediction]:
    for prediction in predictions:
        yield prediction if tracker is None else replace(prediction, found=tracker.update(prediction.found))


class DrawnVideo:
    """The drawn copy of a video, begun with its first frame."""

    def __init__(self, reader: VideoReader, path: Path) -> None:
        self._reader, self._path = reader, path
        self._writer: VideoWriter | None = None
        self._end = Fraction(0)

    def write(self, prediction: FramePrediction) -> None:
        """Draw and encode one frame."""
        reader, frame = self._reader, prediction.frame
        drawn = prediction.found.draw(frame.image)
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._begin = frame.time
            sound = Sound.of(reader.source, reader.begin, float(frame.time))
            rate = reader.rate / reader.every
            self._writer = VideoWriter(self._path, (drawn.shape[0], drawn.shape[1]), rate, reader.time_base, sound)
        self._writer.write(drawn, frame.time - self._begin)
        self._end = frame.time - self._begin + reader.every / reader.rate

    def close(self) -> None:
        """Finish the file, if there was a frame."""
        if self._writer is not None:
            self._writer.close(self._end)
