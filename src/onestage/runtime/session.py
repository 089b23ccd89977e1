"""An exported detector: its network in an engine, and a function of images that gives detections."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from .decode import MAX_PIXELS, decode_image
from .detections import DetectionArrays
from .errors import UserError
from .exported_file import ExportedFile, read_exported
from .threads import cpu_threads
from .tiles import TileDetections, Tiling, merge_tiles

AnyImage: TypeAlias = str | Path | bytes | np.ndarray
"""A path, an encoded file's bytes, or an RGB array (H, W, 3) of uint8."""

PIXELS_AT_ONCE = 1 << 22  # of the images in a batch; the graph takes 12 bytes a pixel while it resizes
DEVICES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Outputs(NamedTuple):
    """Outputs of the graph for a batch of images, with room for M detections each."""

    boxes_xyxy: Float32[np.ndarray, "B M 4"]  # pixels of the images
    scores: Float32[np.ndarray, "B M"]
    labels: Int64[np.ndarray, "B M"]
    counts: Int64[np.ndarray, " B"]  # number of detections; the rest of the M is padding


class Session:
    """Detects with an exported network. Subclasses bring the engine.

    Threads may share one, and so do copies: it keeps nothing of a call. A pickle opens the file again.
    """

    def __init__(self, file: ExportedFile) -> None:
        self.file, self.calibration = file, file.calibration
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """True in a process that was forked off the one that opened the engine: a fork has none of its threads."""
        return self._process != os.getpid()

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        """Outputs of the graph for images of one size."""
        raise NotImplementedError

    def __call__(
        self,
        images_rgb: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        score_threshold: float | Sequence[float] | Literal["auto"] = "auto",
    ) -> list[DetectionArrays]:
        """Detections in images of any sizes, in pixels of each; images of one size go through the network together.

        Scores are above `score_threshold`, or above that of their class, by label; "auto" takes those in the file.
        """
        if isinstance(score_threshold, str):
            score_threshold = self.file.score_thresholds
        least = score_threshold if isinstance(score_threshold, int | float) else min(score_threshold)
        found: dict[int, DetectionArrays] = {}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images_rgb):
            by_size.setdefault(image.shape[:2], []).append(index)
        for (height, width), indices in by_size.items():
            at_once = max(1, PIXELS_AT_ONCE // (height * width))
            for start in range(0, len(indices), at_once):
                batch = indices[start : start + at_once]
                outputs = self.run(np.stack([images_rgb[index] for index in batch]), least)
                labels = outputs.labels.astype(np.int64)  # an engine may have its own type of 64 bits
                for row, (index, count) in enumerate(zip(batch, outputs.counts.tolist(), strict=True)):
                    kept = row, slice(count)
                    all_above_least = DetectionArrays(
                        outputs.boxes_xyxy[kept], outputs.scores[kept], labels[kept], self.file.names, self.calibration
                    )
                    found[index] = all_above_least.filter(score=score_threshold)
        return [found[index] for index in range(len(images_rgb))]


class OnnxSession(Session):
    """An exported network in ONNX Runtime."""

    def __init__(self, file: ExportedFile, *, device: str | None = None, threads: int | None = None) -> None:
        """Load the network; device and threads as in `load`.

        Raises:
            UserError: ONNX Runtime is missing, can't read the file, or doesn't have the device.
        """
        super().__init__(file)
        self._device, self._threads = device, threads
        self._session = self._opened()

    def __reduce__(self) -> Any:
        return partial(OnnxSession, device=self._device, threads=self._threads), (self.file,)

    def _opened(self) -> Any:
        file, device = self.file, self._device
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("ONNX Runtime is missing: pip install onnxruntime") from error
        provider, available = DEVICES.get(device or "cpu", "none"), onnxruntime.get_available_providers()
        if provider not in available:
            raise UserError(
                f"{device}: this ONNX Runtime runs on {', '.join(available)}; give cpu, or cuda with onnxruntime-gpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads or cpu_threads()
        options.log_severity_level = 3  # errors
        try:
            session = onnxruntime.InferenceSession(file.content, options, providers=[provider])
        except Exception as error:  # its classes have no common base
            reason = str(error).splitlines()[0]
            raise UserError(f"{file.name}: ONNX Runtime {onnxruntime.__version__} can't run it ({reason})") from error
        if provider not in (used := session.get_providers()):  # it is built in, and its libraries are missing
            raise UserError(
                f"{device}: ONNX Runtime {onnxruntime.__version__} can't use it here and took {', '.join(used)}; give "
                "cpu, or install the CUDA and cuDNN that it names in its messages"
            )
        return session

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        if self.forked:  # the engine is not freed: that would wait for its threads
            self._left, self._session, self._process = self._session, self._opened(), os.getpid()
        inputs = {"images": images_rgb, "score_threshold": np.array([score_threshold], dtype=np.float32)}
        return Outputs(*self._session.run(list(Outputs._fields), inputs))


@dataclass
class OnnxPredictor:
    """An exported detector that takes images and gives detections."""

    session: Session  # the network in its engine
    # Above which a detection is kept: one for all classes, or one for each, by label; "auto": those in the file.
    score_threshold: float | Sequence[float] | Literal["auto"] = "auto"  # may be changed between calls
    tiling: Tiling | None = None  # how images are cut into tiles; `load` takes the file's

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.session.file.names

    @overload
    def __call__(self, images: AnyImage, batch_size: int = 8) -> DetectionArrays: ...
    @overload
    def __call__(self, images: Sequence[AnyImage], batch_size: int = 8) -> list[DetectionArrays]: ...
    def __call__(
        self, images: AnyImage | Sequence[AnyImage], batch_size: int = 8
    ) -> DetectionArrays | list[DetectionArrays]:
        """Detect in one image, or in a list of images (a list in gives a list out, in order).

        Raises:
            ImageError: an image that can't be read.
            UserError: an array that is not (H, W, 3) of uint8.
        """
        if isinstance(images, AnyImage):
            return self([images])[0]
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: give 1 or more")
        found: list[DetectionArrays] = []
        for start in range(0, len(images), batch_size):
            bits = self.session.file.input_bits
            pixels = [read_image(image, bits) for image in images[start : start + batch_size]]
            if self.tiling is None:
                found += self.session(pixels, self.score_threshold)
            else:
                found += [self._of_tiles(image, self.tiling, batch_size) for image in pixels]
        return found

    def _of_tiles(self, image_rgb: np.ndarray, tiling: Tiling, batch_size: int) -> DetectionArrays:
        """Detections in an image whose tiles go through the network."""
        size_hw = (image_rgb.shape[0], image_rgb.shape[1])
        windows_xyxy, parts = tiling.windows_xyxy(size_hw), []
        file, asked = self.session.file, self.score_threshold
        asked = file.score_thresholds if isinstance(asked, str) else asked
        # All that evaluations look at is merged, or tiles would merge to other boxes at other thresholds.
        least = min(file.header["evaluation_score_threshold"], *np.atleast_1d(asked).tolist())
        for start in range(0, len(windows_xyxy), batch_size):
            windows = windows_xyxy[start : start + batch_size].tolist()
            parts += self.session([image_rgb[y0:y1, x0:x1] for x0, y0, x1, y1 in windows], least)
        found = TileDetections.of_tiles(windows_xyxy, [(one.boxes_xyxy, one.scores, one.labels) for one in parts])
        if len(windows_xyxy) > 1:
            iou_threshold, class_agnostic = file.merging
            found = merge_tiles(found, size_hw, iou_threshold, class_agnostic=class_agnostic)
        boxes_xyxy, scores = found.boxes_xyxy.astype(np.float32), found.scores.astype(np.float32)
        merged = DetectionArrays(boxes_xyxy, scores, found.labels, self.names, self.session.calibration)
        return merged.filter(score=asked)


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    score_threshold: float | Sequence[float] | Literal["auto"] = "auto",
    threads: int | None = None,
) -> OnnxPredictor:
    """Load a file that `onestage export --format onnx` wrote.

    Args:
        device: "cpu" or "cuda"; None: "cpu".
        score_threshold: score above which a detection is kept, of all classes or of each, by label. "auto": as in the
            file, which has what was found best for each class of the model.
        threads: number of CPU threads; None: as many as this process may use.

    Raises:
        UserError: no such file, a file that isn't safe or isn't ours, or no ONNX Runtime.
    """
    file = read_exported(path)
    return OnnxPredictor(OnnxSession(file, device=device, threads=threads), score_threshold, file.tiling)


def read_image(image: AnyImage, bits: int = 16) -> np.ndarray:
    """RGB pixels, upright, (H, W, 3) of uint8; `bits`: see `decode_image`."""
    if not isinstance(image, np.ndarray):
        limit = MAX_PIXELS if isinstance(image, bytes) else None  # what comes as bytes may be a stranger's
        return decode_image(image, max_pixels=limit, bits=bits)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UserError(
            f"array of shape {image.shape} and type {image.dtype} is not an image; "
            "give RGB pixels, (height, width, 3) of uint8"
        )
    return image
