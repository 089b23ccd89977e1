"""A trained detector as a function: a picture in, its detections out, in the picture's own pixels."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar, cast, overload

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image

from onestage.data.augment import resize_image
from onestage.data.decode import ImageError, decode_image
from onestage.data.loader import stack_images
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.inference.remote import fetch_picture, is_address
from onestage.inference.sources import open_video
from onestage.inference.threads import Newest, ahead, mapped_ahead
from onestage.inference.video import Frame, VideoReader
from onestage.postprocess import Selection
from onestage.structures import Categories, Detections, Predictions
from onestage.training.checkpoint import load_model
from onestage.training.precision import Precision, choose_compute
from onestage.training.validation import to_original

Picture: TypeAlias = str | Path | bytes | np.ndarray | Image.Image
"""A path, a web address, an encoded file's bytes, an RGB array (H, W, 3) of uint8, or a Pillow picture."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class FilePrediction:
    """What came of one file: its pixels and detections, or why it could not be read."""

    path: Path | str | bytes  # as it was given
    image: UInt8[np.ndarray, "H W 3"] | None  # RGB, upright; None where it could not be read
    outcome: Detections | ImageError


@dataclass(frozen=True)
class FramePrediction:
    """One frame of a video and what was found in it."""

    frame: Frame
    found: Detections


class Predictor:
    """Holds a detector in evaluation mode on its device, with the names of its classes and what to keep of its output.

    Attributes:
        detector: the network, moved to the device (the one that was given, not a copy).
        categories: the classes it knows.
        selection: score threshold, NMS and limits; replace it freely between calls.
        compute: the device and the number format, with the reason for them.
    """

    def __init__(
        self,
        detector: Detector,
        categories: Categories,
        selection: Selection | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
    ) -> None:
        """See `load` for the usual way here. `selection` None means scores of 0.5 and more.

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
        self.categories = categories
        self.selection = selection or replace(detector.evaluation_selection, score_threshold=0.5)

    @overload
    def __call__(self, pictures: Picture, batch_size: int = 8) -> Detections: ...
    @overload
    def __call__(self, pictures: Sequence[Picture], batch_size: int = 8) -> list[Detections]: ...
    def __call__(self, pictures: Picture | Sequence[Picture], batch_size: int = 8) -> Detections | list[Detections]:
        """Detect in one picture, or in a list of them (a list in gives a list out, in order).

        Returns:
            Detections on the CPU, best first, in pixels of the upright original, with the names of the classes.

        Raises:
            ImageError: a picture that cannot be read; `predict_files` goes on with the rest instead.
            UserError: an array that is not (H, W, 3) of uint8.
        """
        if isinstance(pictures, Picture):
            return self._detect([self._shrink(read_picture(pictures))])[0]
        shrunk = mapped_ahead(lambda picture: self._shrink(read_picture(picture)), pictures, batch_size, _readers())
        return [found for batch in _batches(shrunk, batch_size) for found in self._detect(batch)]

    def predict_files(self, files: Iterable[str | Path | bytes], batch_size: int = 8) -> Iterator[FilePrediction]:
        """Detect in files, addresses or their bytes, in order; the next ones are read while the network works.

        One that can't be read doesn't stop the rest. At most about `2 * batch_size` decoded pictures are held at a
        time, however many there are.
        """
        for batch in _batches(mapped_ahead(self._open, files, batch_size, _readers()), batch_size):
            found = iter(self._detect([file.shrunk for file in batch if file.shrunk is not None]))
            for file in batch:
                yield FilePrediction(file.path, file.image, file.error or next(found))

    def predict_paths(
        self, paths: Iterable[str | Path], batch_size: int = 8
    ) -> Iterator[tuple[Path, Detections | ImageError]]:
        """`predict_files` without the pixels."""
        for prediction in self.predict_files(map(Path, paths), batch_size):
            yield cast(Path, prediction.path), prediction.outcome

    def predict_video(
        self,
        video: str | os.PathLike[str] | VideoReader,
        *,
        every: int = 1,
        start_s: float = 0.0,
        end_s: float | None = None,
        batch_size: int = 8,
    ) -> Iterator[FramePrediction]:
        """Detect in the frames of a video file, a camera or a stream; the next ones are decoded meanwhile.

        A live source is looked at frame by frame, always the newest: what it shows while the network works is dropped.

        Args:
            video: a file, `camera:0`, an address, or an opened reader (whose own settings count).
            every: look at each n-th frame only.
            start_s, end_s: look at the frames from one time to before the other, seconds since the beginning.
            batch_size: frames at once.

        Raises:
            UserError: PyAV is missing, or this is no video.
        """
        if not isinstance(video, VideoReader):
            video = VideoReader(open_video(video), every=every, start_s=start_s, end_s=end_s)
        live = video.source.live
        shrunk = ((frame, self._shrink(frame.image)) for frame in video.frames())
        line = Newest(shrunk) if live else ahead(shrunk, depth=2 * batch_size)
        for batch in _batches(line, 1 if live else batch_size):
            found = self._detect([small for _, small in batch])
            yield from (FramePrediction(frame, one) for (frame, _), one in zip(batch, found, strict=True))

    def _open(self, file: str | Path | bytes) -> _OpenedFile:
        try:
            image = decode_image(_content(file))
        except ImageError as error:
            return _OpenedFile(file, None, None, error)
        return _OpenedFile(file, image, self._shrink(image), None)

    def _shrink(self, image: UInt8[np.ndarray, "H W 3"]) -> _Shrunk:
        """To the network's input, in the reading thread: the waiting line then holds small pictures."""
        original_hw = image.shape[:2]
        return _Shrunk(resize_image(image, self.detector.resize.picture_hw(original_hw)), original_hw)

    @torch.no_grad()
    def _detect(self, shrunk: Sequence[_Shrunk]) -> list[Detections]:
        if not shrunk:
            return []
        pixels = stack_images([picture.pixels for picture in shrunk], self.detector.resize)
        images = torch.from_numpy(pixels).to(self.compute.device).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
        with self.compute.autocast():
            raw = self.detector(images)
        predictions = Predictions(raw.class_logits.float(), raw.box_deltas.float())
        found = self.detector.detect(predictions, self.selection, (images.shape[2], images.shape[3]))
        return [self._in_original(one, picture.original_hw) for one, picture in zip(found, shrunk, strict=True)]

    def _in_original(self, found: Detections, original_hw: tuple[int, int]) -> Detections:
        return Detections(
            boxes_xyxy=to_original(found.boxes_xyxy, self.detector.resize, original_hw).cpu(),
            scores=found.scores.cpu(),
            labels=found.labels.cpu(),
            names=self.categories.names,
        )


def load(
    model: str | os.PathLike[str],
    device: str | torch.device | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
) -> Predictor:
    """The predictor of a trained model: a run folder or its `model.safetensors`.

    Raises:
        UserError: a file that is no model, or a device that this machine lacks.
    """
    loaded = load_model(Path(model))
    return Predictor(loaded.detector, loaded.categories, selection, device, precision)


def read_picture(picture: Picture) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels, upright, of whatever `Predictor` takes.

    Raises:
        ImageError: a file or bytes that are no readable picture.
        UserError: an array that is not (H, W, 3) of uint8.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise UserError(
                f"array of shape {picture.shape} and type {picture.dtype} is no picture; "
                "give RGB pixels, (height, width, 3) of uint8"
            )
        return picture
    if isinstance(picture, Image.Image):
        return _pixels_of(picture)
    return decode_image(_content(picture))


def _pixels_of(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """By way of the one decode function, so that palettes, alpha, 16 bits and EXIF turn out as they do from a file."""
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    if picture.mode == "RGB" and orientation == 1:
        return np.asarray(picture)
    exif, encoded = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    try:
        picture.save(encoded, format="TIFF", exif=exif)
    except (OSError, KeyError, ValueError) as error:
        raise ImageError(
            f"a Pillow picture of mode {picture.mode} cannot be used ({error}); convert it to RGB"
        ) from error
    return decode_image(encoded.getvalue())


@dataclass(frozen=True)
class _Shrunk:
    pixels: UInt8[np.ndarray, "h w 3"]
    original_hw: tuple[int, int]


@dataclass(frozen=True)
class _OpenedFile:
    path: str | Path | bytes
    image: UInt8[np.ndarray, "H W 3"] | None
    shrunk: _Shrunk | None
    error: ImageError | None


def _content(picture: str | Path | bytes) -> Path | bytes:
    """What the decoder takes: an address is fetched."""
    if isinstance(picture, str):
        return fetch_picture(picture) if is_address(picture) else Path(picture)
    return picture


def _readers() -> int:
    """Threads that read pictures."""
    return min(4, os.cpu_count() or 1)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    if size < 1:
        raise UserError(f"batch size {size}: give 1 or more")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
