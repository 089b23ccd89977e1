"""An exported network in its engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from .detections import DetectionArrays
from .errors import UserError
from .exported_file import ExportedFile
from .threads import cpu_threads

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

    Attributes:
        file: the exported file.
    """

    def __init__(self, file: ExportedFile) -> None:
        self.file = file

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        """Outputs of the graph for images of one size."""
        raise NotImplementedError

    def __call__(
        self, images_rgb: Sequence[UInt8[np.ndarray, "_ _ 3"]], score_threshold: float | None = None
    ) -> list[DetectionArrays]:
        """Detect in images of any sizes; images of one size go through the network together.

        Args:
            score_threshold: score above which a detection is kept; None: the threshold in the file.

        Returns:
            Detections of each image, in pixels of the image.
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
                batch = indices[start : start + at_once]
                outputs = self.run(np.stack([images_rgb[index] for index in batch]), score_threshold)
                labels = outputs.labels.astype(np.int64)  # an engine may have its own type of 64 bits
                for row, (index, count) in enumerate(zip(batch, outputs.counts.tolist(), strict=True)):
                    found[index] = DetectionArrays(
                        outputs.boxes_xyxy[row, :count],
                        outputs.scores[row, :count],
                        labels[row, :count],
                        self.file.names,
                    )
        return [found[index] for index in range(len(images_rgb))]


class OnnxSession(Session):
    """An exported network in ONNX Runtime."""

    def __init__(self, file: ExportedFile, *, device: str | None = None, threads: int | None = None) -> None:
        """Load the network.

        Args:
            device: "cpu" or "cuda"; None: "cpu".
            threads: number of CPU threads; None: as many as this process may use.

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
        options.intra_op_num_threads = threads or cpu_threads()
        options.log_severity_level = 3  # errors
        try:
            self._session: Any = onnxruntime.InferenceSession(file.content, options, providers=[provider])
        except Exception as error:  # its classes have no common base
            reason = str(error).splitlines()[0]
            raise UserError(f"{file.name}: ONNX Runtime {onnxruntime.__version__} can't run it ({reason})") from error

    def run(self, images_rgb: UInt8[np.ndarray, "B H W 3"], score_threshold: float) -> Outputs:
        inputs = {"images": images_rgb, "score_threshold": np.array([score_threshold], dtype=np.float32)}
        return Outputs(*self._session.run(list(Outputs._fields), inputs))
