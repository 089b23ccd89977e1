"""An exported network in its engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from .detections import DetectionArrays
from .errors import UserError
from .exported_file import ExportedFile

PIXELS_AT_ONCE = 1 << 22  # of original images; the graph takes 12 bytes for each while it resizes
DEVICES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Outputs(NamedTuple):
    """A file's own outputs for a batch of images, with room for M detections each."""

    boxes_xyxy: Float32[np.ndarray, "B M 4"]  # pixels of the images
    scores: Float32[np.ndarray, "B M"]
    labels: Int64[np.ndarray, "B M"]
    counts: Int64[np.ndarray, " B"]  # so many of the M are detections


class Session:
    """Images in, detections out, in the images' own pixels. Subclasses bring the engine.

    Attributes:
        file: what runs.
    """

    def __init__(self, file: ExportedFile) -> None:
        self.file = file

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        """The file's own outputs for images of one size."""
        raise NotImplementedError

    def __call__(
        self, images_rgb: Sequence[UInt8[np.ndarray, "_ _ 3"]], score_threshold: float | None = None
    ) -> list[DetectionArrays]:
        """Detect in images of any sizes; those of one size go together.

        Args:
            score_threshold: a detection's score is above it; None: as the file has it.
        """
        if score_threshold is None:
            score_threshold = float(self.file.header["selection"]["score_threshold"])
        found: dict[int, DetectionArrays] = {}
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images_rgb):
            by_size.setdefault(image.shape[:2], []).append(index)
        for (height, width), indices in by_size.items():
            at_once = max(1, PIXELS_AT_ONCE // (height * width))
            for start in range(0, len(indices), at_once):
                some = indices[start : start + at_once]
                outputs = self.run(np.stack([images_rgb[index] for index in some]), score_threshold)
                found |= zip(some, self._by_image(outputs), strict=True)
        return [found[index] for index in range(len(images_rgb))]

    def _by_image(self, outputs: Outputs) -> list[DetectionArrays]:
        boxes_xyxy, scores, labels, counts = outputs
        labels = labels.astype(np.int64)  # of an engine's own 64 bits
        return [
            DetectionArrays(boxes_xyxy[row, :count], scores[row, :count], labels[row, :count], self.file.names)
            for row, count in enumerate(counts.tolist())
        ]


class OnnxSession(Session):
    """In ONNX Runtime."""

    def __init__(self, file: ExportedFile, *, device: str | None = None, threads: int | None = None) -> None:
        """Hand the network to ONNX Runtime.

        Args:
            device: "cpu" (None) or "cuda".
            threads: of the processor; None for as many as this process may use.

        Raises:
            UserError: ONNX Runtime is missing, can't read the file, or doesn't have the device.
        """
        super().__init__(file)
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
        options.intra_op_num_threads = threads or cores()
        options.log_severity_level = 3  # errors
        try:
            self._session: Any = onnxruntime.InferenceSession(file.content, options, providers=[provider])
        except Exception as error:  # of classes of its own, which have no common base
            reason = str(error).splitlines()[0]
            raise UserError(f"{file.name}: ONNX Runtime {onnxruntime.__version__} can't run it ({reason})") from error

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        inputs = {"images": images_rgb, "score_threshold": np.array([score_threshold], dtype=np.float32)}
        return Outputs(*self._session.run(list(Outputs._fields), inputs))


def cores() -> int:
    """That this process may use: what OMP_NUM_THREADS says, else, in a container, fewer than the machine has."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
