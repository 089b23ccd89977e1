"""A trained detector as a function: images and videos in, detections out, in the images' own pixels."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, overload

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from onestage.compute.device import Precision, choose_compute, use_in_a_fork
from onestage.compute.threads import reading_threads
from onestage.data.loader import stack_images
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.export import FORMATS, format_of
from onestage.export.base import as_detections, resize_of, selection_of
from onestage.inference.sources import fetch_image, is_address, open_video
from onestage.inference.threads import ahead, mapped_ahead, newest
from onestage.inference.video import Frame, VideoReader
from onestage.input_size import Resize
from onestage.models.model_file import load_model
from onestage.runtime.calibration import ScoreCalibration
from onestage.runtime.decode import ImageError, decode_image, decode_pillow
from onestage.runtime.session import read_image as read_array_or_file
from onestage.runtime.tiles import Tiling
from onestage.selection import USUAL_THRESHOLD, Nms, Selection
from onestage.structures import Categories, Detections, Predictions
from onestage.tiled_detections import PreparedImage, changed_tiling, kept_in_tiles, of_image

ImageFile: TypeAlias = str | Path | bytes
"""A path, a web address, or an encoded file's bytes."""

AnyImage: TypeAlias = ImageFile | np.ndarray | Image.Image
"""An image file, an RGB array (H, W, 3) of uint8, or a Pillow image."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Error = TypeVar("_Error", bound=ImageError)

TILES_AT_ONCE = 8  # through the network
REPLACEABLE = ("score_threshold", "class_thresholds", "max_detections")  # of `Selection`; others are part of a file
USUAL_DETECTIONS = 200  # the most of an image, where nothing else is asked for


@dataclass(frozen=True)
class FilePrediction:
    """The result for one image file."""

    path: ImageFile  # as given
    image: UInt8[np.ndarray, "H W 3"] | None  # RGB, upright; None where the file could not be read
    outcome: Detections | ImageError


@dataclass(frozen=True)
class FramePrediction:
    """One frame of a video and its detections."""

    frame: Frame
    found: Detections


class BasePredictor:
    """Reads images and videos ahead of a network and gives its detections. Subclasses add the network."""

    detector_name: str  # as `onestage.build` takes it
    categories: Categories  # the classes that the network knows
    resize: Resize  # how images are brought to the network's input
    papers_selection: Selection  # the post-processing of the detector's paper
    usual_selection: Selection  # the same above the thresholds that were found for the model's classes, else above 0.5
    selection: Selection  # that in use: score thresholds, NMS and limits; replace it freely between calls
    input_bits: int = 16  # how many bits of 16-bit images hold values
    tiling: Tiling | None = None  # how images are cut into tiles; replace it freely between calls
    calibration: ScoreCalibration | None = None  # what the scores mean; None: nobody has found it

    @property
    def usual_detections(self) -> int:
        """The most detections of an image where nothing else is asked for: more where the model was made for crowds."""
        return max(USUAL_DETECTIONS, self.papers_selection.max_detections or 0)

    def selection_for(
        self,
        score_threshold: float | Literal["auto"] = "auto",
        nms: Literal["hard", "soft"] | Nms | None = None,
        iou_threshold: float | None = None,
        class_agnostic: bool = False,
        max_detections: int | None = None,
    ) -> Selection:
        """The post-processing that a user asks for; None keeps the model's own, of detections `usual_detections`.

        "auto" keeps detections above the thresholds that were found for the model's classes, or above 0.5.

        Raises:
            UserError: a value out of its range.
        """
        if isinstance(score_threshold, str) and score_threshold != "auto":
            raise UserError(f"score threshold {score_threshold!r}: give a number from 0 to 1, or auto")
        own = self.usual_selection if score_threshold == "auto" else self.papers_selection
        return own.changed(
            score_threshold=None if score_threshold == "auto" else score_threshold,
            nms=nms,
            iou_threshold=iou_threshold,
            class_agnostic=class_agnostic or None,  # an exported file may have it inside
            max_detections=self.usual_detections if max_detections is None else max_detections,
        )

    def prepare(self, image_rgb: UInt8[np.ndarray, "H W 3"]) -> PreparedImage:
        """Resize an image for `detect`. The threads that read images call this, so that waiting images are small."""
        return PreparedImage.of(image_rgb, self.tiling, self.resize)

    def detect(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """Detect in one batch: detections on the CPU, in pixels of the original images, with class names."""
        return [found for _, found in self.detect_each(((None, one) for one in images), len(images))]

    def detect_each(
        self, images: Iterable[tuple[_Item, PreparedImage | _Error]], batch_size: int
    ) -> Iterator[tuple[_Item, Detections | _Error]]:
        """Detect in images as they come, each with what the caller keeps beside it; an error takes its place.

        Tiles go through the network in batches of `TILES_AT_ONCE` at least, whatever images they are of, so that few
        images have to wait for each other.
        """
        waiting: deque[tuple[_Item, PreparedImage | _Error]] = deque()
        found: list[Detections] = []  # of tiles of the first that waits, and of the next ones

        def inputs() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
            for one in images:
                waiting.append(one)
                if isinstance(one[1], PreparedImage):
                    yield from one[1].pixels

        def complete() -> Iterator[tuple[_Item, Detections | _Error]]:
            while waiting:
                beside, image = waiting[0]
                count = len(image.pixels) if isinstance(image, PreparedImage) else 0
                if len(found) < count:
                    return
                waiting.popleft()
                yield beside, self.of_image(image, found[:count]) if isinstance(image, PreparedImage) else image
                del found[:count]

        for batch in _batches(inputs(), batch_size if self.tiling is None else max(batch_size, TILES_AT_ONCE)):
            found += self.detect_resized(batch)
            yield from complete()
        yield from complete()

    def of_image(self, image: PreparedImage, found: Sequence[Detections]) -> Detections:
        """The detections of an image from those that `detect_resized` has of each of its tiles."""
        return of_image(found, image.windows_xyxy, image.original_hw, self.resize, self.selection)

    def detect_resized(self, images_rgb: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Detections]:
        """Detect in one batch of resized images, in pixels of the network's input, by `selection_in_tiles`."""
        raise NotImplementedError

    @property
    def selection_in_tiles(self) -> Selection:
        """What `detect_resized` keeps."""
        return kept_in_tiles(self.selection, self.papers_selection, self.tiling)

    @overload
    def __call__(self, images: AnyImage, batch_size: int = 8) -> Detections: ...
    @overload
    def __call__(self, images: Sequence[AnyImage], batch_size: int = 8) -> list[Detections]: ...
    def __call__(self, images: AnyImage | Sequence[AnyImage], batch_size: int = 8) -> Detections | list[Detections]:
        """Detect in one image, or in a list of images (a list in gives a list out, in order).

        Returns:
            Detections on the CPU, best first, in pixels of the upright original, with class names.

        Raises:
            ImageError: an image that cannot be read; `predict_files` goes on with the rest instead.
            UserError: an array that is not (H, W, 3) of uint8.
        """
        if isinstance(images, AnyImage):
            return self.detect([self.prepare(read_image(images, self.input_bits))])[0]
        bits = self.input_bits
        prepared = self._read_ahead(lambda one: (None, self.prepare(read_image(one, bits))), images, batch_size)
        return [found for _, found in self.detect_each(prepared, batch_size)]

    def _read_ahead(
        self, read: Callable[[_Item], _Result], images: Iterable[_Item], batch_size: int
    ) -> Iterator[_Result]:
        """Images read by threads, a batch ahead of the network; large ones that are cut into tiles, a few."""
        threads = reading_threads()
        return mapped_ahead(read, images, batch_size if self.tiling is None else min(batch_size, threads), threads)

    def predict_files(self, files: Iterable[ImageFile], batch_size: int = 8) -> Iterator[FilePrediction]:
        """Detect in files, web addresses or encoded bytes, in order, reading the next ones while the network works.

        A file that can't be read doesn't stop the rest. At most about `2 * batch_size` decoded images are in memory,
        however many files there are; of those that are cut into tiles, about six.
        """

        def opened(file: ImageFile) -> tuple[tuple[ImageFile, np.ndarray | None], PreparedImage | ImageError]:
            try:
                image = read_image(file, self.input_bits)
            except ImageError as error:
                return (file, None), error
            return (file, image), self.prepare(image)

        for file, outcome in self.detect_each(self._read_ahead(opened, files, batch_size), batch_size):
            yield FilePrediction(*file, outcome)

    def predict_video(
        self,
        video: str | os.PathLike[str] | VideoReader,
        *,
        every: int = 1,
        start_s: float = 0.0,
        end_s: float | None = None,
        batch_size: int = 8,
    ) -> Iterator[FramePrediction]:
        """Detect in the frames of a video file, a camera or a stream, decoding the next ones meanwhile.

        Of a live source only the newest frame is taken each time; frames that come while the network works are dropped.

        Args:
            video: a file, `camera:0`, an address, or an open reader (whose own settings hold).
            every: take each n-th frame only.
            start_s, end_s: take frames from one time to before the other, seconds since the video's beginning.
            batch_size: frames that go through the network together.

        Raises:
            UserError: PyAV is missing, or this is no video.
        """
        if not isinstance(video, VideoReader):
            video = VideoReader(open_video(video), every=every, start_s=start_s, end_s=end_s)
        live = video.source.live
        prepared = ((frame, self.prepare(frame.image)) for frame in video.frames())
        frames = newest(prepared) if live else ahead(prepared, depth=2 * batch_size)
        for batch in _batches(frames, 1 if live else batch_size):
            found = self.detect([image for _, image in batch])
            yield from (FramePrediction(frame, one) for (frame, _), one in zip(batch, found, strict=True))


class Predictor(BasePredictor):
    """Runs a detector in torch: the one that is given, not a copy, in evaluation mode on its device."""

    def __init__(
        self,
        detector: Detector,
        categories: Categories,
        selection: Selection | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
    ) -> None:
        """See `load` for the usual way here. `selection` None keeps detections with a score above 0.5.

        Raises:
            UserError: a device that this machine lacks, or categories that do not fit the detector.
        """
        if len(categories) != detector.num_classes:
            raise UserError(
                f"{detector.name} knows {detector.num_classes} classes, but {len(categories)} names were given; "
                "pass the categories it was trained with"
            )
        self.compute = choose_compute(None if device is None else str(device), precision)
        self.detector = detector
        self.compute.place(detector).eval()
        self.detector_name, self.categories, self.resize = detector.name, categories, detector.resize
        self.papers_selection, self.input_bits = detector.evaluation_selection, detector.input_bits
        self.tiling = detector.tiling
        self.usual_selection = selection or replace(detector.evaluation_selection, score_threshold=USUAL_THRESHOLD)
        self.selection = self.usual_selection

    @torch.no_grad()
    def detect_resized(self, images_rgb: Sequence[np.ndarray]) -> list[Detections]:
        use_in_a_fork(self.compute.device)
        pixels = stack_images(images_rgb, self.resize)
        batch = torch.from_numpy(pixels).to(self.compute.device).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
        with self.compute.autocast():
            raw = self.detector(batch)
        predictions = Predictions(raw.class_logits.float(), raw.box_deltas.float())
        found = self.detector.detect(predictions, self.selection_in_tiles, (batch.shape[2], batch.shape[3]))
        return [replace(one, names=self.categories.names, calibration=self.calibration) for one in found]


class ExportedPredictor(BasePredictor):
    """Runs a file that `onestage export` wrote, in its engine.

    The file could resize images itself, to the same pixels. They are resized when they are read all the same, so that
    images of different sizes share a batch and waiting images are small.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        selection: Selection | None = None,
    ) -> None:
        """Load a file. `selection` None keeps detections above the thresholds in it.

        Raises:
            UserError: a file that isn't ours or isn't safe, a missing engine or device, or a selection that differs
                from the file's own in more than `REPLACEABLE`, or asks for more detections than it gives.
        """
        kind = format_of(path)
        if kind is None:
            suffixes = ", ".join(one.suffix for one in FORMATS.values())
            raise UserError(f"{path}: not an exported file; these end in {suffixes}")
        self.session = kind.open_session(Path(path), None if device is None else str(device))
        file = self.session.file
        self.detector_name, self.categories = file.header["detector"], Categories(file.names, file.source_ids)
        self.resize, self.input_bits, self.tiling = resize_of(file), file.input_bits, file.tiling
        self.usual_selection, self.calibration = selection_of(file), self.session.calibration
        self.papers_selection = self.usual_selection.changed(score_threshold=file.header["evaluation_score_threshold"])
        self.selection = selection or self.usual_selection

    @property
    def selection(self) -> Selection:
        """The post-processing; only the fields in `REPLACEABLE` may differ from the file's own, the limit downwards."""
        return self._selection

    @selection.setter
    def selection(self, selection: Selection) -> None:
        for name in (field.name for field in fields(Selection) if field.name not in REPLACEABLE):
            asked, exported = getattr(selection, name), getattr(self.papers_selection, name)
            if asked != exported:
                raise UserError(
                    f"{self.session.file.name}: {name} {asked!r}, but {exported!r} is part of this file; "
                    "leave it, or export the model again with what you want"
                )
        asked, most = selection.max_detections, self.papers_selection.max_detections
        if most is not None and (asked is None or asked > most):
            raise UserError(
                f"{self.session.file.name}: max_detections {asked}, but this file gives at most {most} an image; "
                "ask for no more, or export the model again with that --max-detections"
            )
        self._selection = selection

    @property
    def usual_detections(self) -> int:
        return self.papers_selection.max_detections or USUAL_DETECTIONS

    def detect_resized(self, images_rgb: Sequence[np.ndarray]) -> list[Detections]:
        found = self.session(images_rgb, self.selection_in_tiles.score_thresholds)
        return [as_detections(one)[: self.selection.max_detections] for one in found]


def load(
    model: str | os.PathLike[str],
    device: str | torch.device | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
    *,
    tile: int | str | None = None,
    tile_overlap: int | None = None,
) -> BasePredictor:
    """The predictor of a trained model.

    Args:
        model: a run folder, its `model.safetensors`, a file that `onestage export` wrote, or `hf://USER/NAME[@REVISION]`
            on a hub, which is fetched once (see `models.hub`).
        device: as "cpu", "cuda" or "cuda:1". None: a GPU where there is one.
        selection: the post-processing. None: as the model's own, keeping detections above the score thresholds that
            were found for its classes, or above 0.5 where none were.
        precision: the network's number format in torch; exported files have their own.
        tile, tile_overlap: how images are cut into tiles; see `changed_tiling`. None: as the model was trained.

    Raises:
        UserError: a file that is no model or was changed, or a device that this machine lacks.
    """
    if format_of(model) is not None:
        predictor: BasePredictor = ExportedPredictor(model, device=device, selection=selection)
    else:
        use_in_a_fork(torch.device("cpu"))
        loaded = load_model(model)
        predictor = Predictor(loaded.detector, loaded.categories, selection or loaded.selection, device, precision)
        predictor.calibration = loaded.calibration
    predictor.tiling = changed_tiling(predictor.tiling, tile, tile_overlap)
    return predictor


def read_image(image: AnyImage, bits: int = 16) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB pixels, upright, of whatever predictors take as an image; `bits`: see `decode_image`.

    Raises:
        ImageError: a file, bytes or a Pillow image that can't be read.
        UserError: an array that is not (H, W, 3) of uint8.
    """
    if isinstance(image, str) and is_address(image):
        return decode_image(fetch_image(image), bits=bits)
    return decode_pillow(image, bits=bits) if isinstance(image, Image.Image) else read_array_or_file(image, bits)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    if size < 1:
        raise UserError(f"batch size {size}: give 1 or more")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
