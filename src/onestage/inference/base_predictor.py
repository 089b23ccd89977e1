"""What every predictor does, whatever runs the network: images and videos in, detections in their pixels out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar, cast, overload

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from onestage.compute.threads import reading_threads
from onestage.errors import UserError
from onestage.inference.remote import fetch_image, is_address
from onestage.inference.sources import open_video
from onestage.inference.threads import ahead, mapped_ahead, newest
from onestage.inference.video import Frame, VideoReader
from onestage.input_size import Resize, resize_image
from onestage.postprocess import to_original
from onestage.runtime.decode import ImageError, decode_image
from onestage.runtime.predictor import read_image as read_array_or_file
from onestage.selection import Selection
from onestage.structures import Categories, Detections

AnyImage: TypeAlias = str | Path | bytes | np.ndarray | Image.Image
"""A path, a web address, an encoded file's bytes, an RGB array (H, W, 3) of uint8, or a Pillow image."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class PreparedImage:
    """An image resized for the network."""

    pixels: UInt8[np.ndarray, "h w 3"]  # RGB, at most as large as the network's input
    original_hw: tuple[int, int]  # height and width before resizing


@dataclass(frozen=True)
class FilePrediction:
    """The result for one image file."""

    path: Path | str | bytes  # as given
    image: UInt8[np.ndarray, "H W 3"] | None  # RGB, upright; None where the file could not be read
    outcome: Detections | ImageError


@dataclass(frozen=True)
class FramePrediction:
    """One frame of a video and its detections."""

    frame: Frame
    found: Detections


class BasePredictor:
    """Reads images and videos ahead of a network and gives its detections. Subclasses add the network.

    Attributes:
        detector_name: the name that `onestage.build` takes.
        categories: the classes that the network knows.
        resize: how images are brought to the network's input.
        papers_selection: the post-processing of the detector's paper.
        selection: the post-processing in use: score threshold, NMS and limits; replace it freely between calls.
    """

    detector_name: str
    categories: Categories
    resize: Resize
    papers_selection: Selection
    selection: Selection

    def prepare(self, image_rgb: UInt8[np.ndarray, "H W 3"]) -> PreparedImage:
        """Resize an image for `detect`. The threads that read images call this, so that waiting images are small."""
        height, width = image_rgb.shape[:2]
        return PreparedImage(resize_image(image_rgb, self.resize.image_hw((height, width))), (height, width))

    def detect(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """Detect in one batch: detections on the CPU, in pixels of the original images, with class names."""
        raise NotImplementedError

    def in_original_pixels(self, found: Detections, image: PreparedImage) -> Detections:
        """Detections in pixels of the network's input -> in pixels of the original image, clipped to it."""
        return replace(found, boxes_xyxy=to_original(found.boxes_xyxy, self.resize, image.original_hw))

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
            return self.detect([self.prepare(read_image(images))])[0]
        prepared = mapped_ahead(lambda image: self.prepare(read_image(image)), images, batch_size, reading_threads())
        return [found for batch in _batches(prepared, batch_size) for found in self.detect(batch)]

    def predict_files(self, files: Iterable[str | Path | bytes], batch_size: int = 8) -> Iterator[FilePrediction]:
        """Detect in files, web addresses or encoded bytes, in order, reading the next ones while the network works.

        A file that can't be read doesn't stop the rest. At most about `2 * batch_size` decoded images are in memory,
        however many files there are.
        """
        for batch in _batches(mapped_ahead(self._open, files, batch_size, reading_threads()), batch_size):
            found = iter(self.detect([prepared for _, _, prepared in batch if isinstance(prepared, PreparedImage)]))
            for file, image, prepared in batch:
                yield FilePrediction(file, image, prepared if isinstance(prepared, ImageError) else next(found))

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

    def _open(
        self, file: str | Path | bytes
    ) -> tuple[str | Path | bytes, UInt8[np.ndarray, "H W 3"] | None, PreparedImage | ImageError]:
        try:
            image = decode_image(_local(file))
        except ImageError as error:
            return file, None, error
        return file, image, self.prepare(image)


def read_image(image: AnyImage) -> UInt8[np.ndarray, "H W 3"]:
    """The RGB pixels, upright, of whatever predictors take as an image.

    Raises:
        ImageError: a file or bytes that are no readable image.
        UserError: an array that is not (H, W, 3) of uint8.
    """
    if isinstance(image, Image.Image):
        return _pixels_of(image)
    return read_array_or_file(image if isinstance(image, np.ndarray) else _local(image))


def _pixels_of(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """Encode and decode again, so that palettes, alpha, 16 bits and EXIF give the same pixels as from a file."""
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


def _local(image: str | Path | bytes) -> Path | bytes:
    """A path or encoded bytes, as the decoder takes them; what is at a web address is fetched."""
    if isinstance(image, str):
        return fetch_image(image) if is_address(image) else Path(image)
    return image


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    if size < 1:
        raise UserError(f"batch size {size}: give 1 or more")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
