"""What every predictor does, whatever runs the network: images and videos in, detections in their pixels out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar, cast, overload

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from onestage.data.augment import resize_image
from onestage.errors import UserError
from onestage.inference.remote import fetch_image, is_address
from onestage.inference.sources import open_video
from onestage.inference.threads import Newest, ahead, mapped_ahead
from onestage.inference.video import Frame, VideoReader
from onestage.input_size import Resize
from onestage.postprocess import Selection
from onestage.runtime.decode import ImageError, decode_image
from onestage.runtime.predictor import read_image as read_array_or_file
from onestage.structures import Categories, Detections

AnyImage: TypeAlias = str | Path | bytes | np.ndarray | Image.Image
"""A path, a web address, an encoded file's bytes, an RGB array (H, W, 3) of uint8, or a Pillow image."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Shrunk:
    """An image at the network's size."""

    pixels: UInt8[np.ndarray, "h w 3"]
    original_hw: tuple[int, int]


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


class BasePredictor:
    """Reads images and videos ahead of a network and gives its detections. Subclasses bring the network.

    Attributes:
        detector_name: as `onestage.build` takes it.
        categories: the classes it knows.
        resize: how images are brought to the network's input.
        papers_selection: which detections its detector's paper keeps.
        selection: which ones it gives: score threshold, NMS and limits; replace it freely between calls.
    """

    detector_name: str
    categories: Categories
    resize: Resize
    papers_selection: Selection
    selection: Selection

    def prepare(self, image_rgb: UInt8[np.ndarray, "H W 3"]) -> Shrunk:
        """An image as `detect` takes it. Called in the threads that read ahead: what waits is small."""
        original_hw = image_rgb.shape[:2]
        return Shrunk(resize_image(image_rgb, self.resize.image_hw(original_hw)), original_hw)

    def detect(self, prepared: Sequence[Shrunk]) -> list[Detections]:
        """The detections of some images at once, on the CPU, named, in pixels of the originals."""
        raise NotImplementedError

    @overload
    def __call__(self, images: AnyImage, batch_size: int = 8) -> Detections: ...
    @overload
    def __call__(self, images: Sequence[AnyImage], batch_size: int = 8) -> list[Detections]: ...
    def __call__(self, images: AnyImage | Sequence[AnyImage], batch_size: int = 8) -> Detections | list[Detections]:
        """Detect in one image, or in a list of them (a list in gives a list out, in order).

        Returns:
            Detections on the CPU, best first, in pixels of the upright original, with the names of the classes.

        Raises:
            ImageError: an image that cannot be read; `predict_files` goes on with the rest instead.
            UserError: an array that is not (H, W, 3) of uint8.
        """
        if isinstance(images, AnyImage):
            return self.detect([self.prepare(read_image(images))])[0]
        prepared = mapped_ahead(lambda image: self.prepare(read_image(image)), images, batch_size, _readers())
        return [found for batch in _batches(prepared, batch_size) for found in self.detect(batch)]

    def predict_files(self, files: Iterable[str | Path | bytes], batch_size: int = 8) -> Iterator[FilePrediction]:
        """Detect in files, addresses or their bytes, in order; the next ones are read while the network works.

        One that can't be read doesn't stop the rest. At most about `2 * batch_size` decoded images are held at a
        time, however many there are.
        """
        for batch in _batches(mapped_ahead(self._open, files, batch_size, _readers()), batch_size):
            found = iter(self.detect([file.prepared for file in batch if file.prepared is not None]))
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
        prepared = ((frame, self.prepare(frame.image)) for frame in video.frames())
        line = Newest(prepared) if live else ahead(prepared, depth=2 * batch_size)
        for batch in _batches(line, 1 if live else batch_size):
            found = self.detect([small for _, small in batch])
            yield from (FramePrediction(frame, one) for (frame, _), one in zip(batch, found, strict=True))

    def _open(self, file: str | Path | bytes) -> _OpenedFile:
        try:
            image = decode_image(_content(file))
        except ImageError as error:
            return _OpenedFile(file, None, None, error)
        return _OpenedFile(file, image, self.prepare(image), None)


def read_image(image: AnyImage) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels, upright, of whatever `Predictor` takes.

    Raises:
        ImageError: a file or bytes that are no readable image.
        UserError: an array that is not (H, W, 3) of uint8.
    """
    if isinstance(image, Image.Image):
        return _pixels_of(image)
    return read_array_or_file(image if isinstance(image, np.ndarray) else _content(image))


def _pixels_of(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """By way of the one decode function, so that palettes, alpha, 16 bits and EXIF turn out as they do from a file."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if image.mode == "RGB" and orientation == 1:
        return np.asarray(image)
    exif, encoded = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    try:
        image.save(encoded, format="TIFF", exif=exif)
    except (OSError, KeyError, ValueError) as error:
        raise ImageError(f"a Pillow image of mode {image.mode} cannot be used ({error}); convert it to RGB") from error
    return decode_image(encoded.getvalue())


@dataclass(frozen=True)
class _OpenedFile:
    path: str | Path | bytes
    image: UInt8[np.ndarray, "H W 3"] | None
    prepared: Shrunk | None
    error: ImageError | None


def _content(image: str | Path | bytes) -> Path | bytes:
    """What the decoder takes: an address is fetched."""
    if isinstance(image, str):
        return fetch_image(image) if is_address(image) else Path(image)
    return image


def _readers() -> int:
    """Threads that read images."""
    return min(4, os.cpu_count() or 1)


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    if size < 1:
        raise UserError(f"batch size {size}: give 1 or more")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
