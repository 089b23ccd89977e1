"""What an export format is, and what every exported file says about its model."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Resize, Stretch
from onestage.runtime.calibration import ScoreCalibration
from onestage.runtime.detections import DetectionArrays
from onestage.runtime.exported_file import FORMAT, ExportedFile
from onestage.runtime.session import Session
from onestage.selection import Selection
from onestage.settings import read
from onestage.structures import Categories, Detections, Predictions
from onestage.terminal import Display, quiet

Read = Callable[[], UInt8[np.ndarray, "H W 3"]]


@dataclass(frozen=True)
class Calibration:
    """What an int8 export is made by.

    Attributes:
        images: each reads an image at the size at which it goes into the network.
        measured: the same for the images that AP is measured on.
        map_area: takes positions in `measured` and the detections there, in pixels of what was read. None: the loss of
            accuracy is not measured.
        measured_on: what these images are, for people.
        search: look for layers to keep in float32, one after the other.
        display: shows progress and the result.
    """

    images: Sequence[Read]
    measured: Sequence[Read] = ()
    map_area: Callable[[Sequence[int], Sequence[Detections]], float] | None = None
    measured_on: str = "images"
    search: bool = False
    display: Display = field(default_factory=quiet)


@dataclass(frozen=True)
class ModelToExport:
    """A detector and everything else that goes into its exported file."""

    detector: Detector
    categories: Categories
    selection: Selection  # the post-processing in the file; every call may give another score threshold
    origin: dict[str, Any]  # JSON-able facts about where the model comes from
    precision: str = "fp32"  # the network's number format
    calibration: Calibration | None = None  # for int8
    score_calibration: ScoreCalibration | None = None  # what the scores mean

    def header(self) -> dict[str, Any]:
        """The file's JSON header without "sha256", which the writer adds when it knows the content."""
        return {
            "format": FORMAT,
            "detector": self.detector.name,
            "categories": {"names": self.categories.names, "source_ids": self.categories.source_ids},
            "resize": asdict(self.detector.resize),
            "selection": asdict(self.selection),
            "evaluation_score_threshold": self.detector.evaluation_selection.score_threshold,
            "calibration": None if self.score_calibration is None else asdict(self.score_calibration),
            "input_bits": self.detector.input_bits,
            "tiling": None if self.detector.tiling is None else asdict(self.detector.tiling),
            "origin": self.origin,
        }


class ScoredBoxes(nn.Module):
    """A detector with the decoding of its output: the part of an export that torch traces."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, h, w) of 0..255 -> boxes (B, A, 4), in pixels of the input, and scores (B, A, K)."""
        raw = self.detector(images)
        return self.detector.scored_boxes(Predictions(*raw), (images.shape[2], images.shape[3]))


@dataclass(frozen=True)
class ExportFormat:
    """A file format for another engine.

    `read` checks a file without trusting it, and returns its header. It raises `UserError` for a file that is not ours,
    was changed, or is not safe to run. `open_session` does the same and loads the network into its engine, on a device
    ("cpu", "cuda", None).
    """

    suffix: str  # of the file that users name
    extra: str  # the X of `pip install 'onestage[X]'`, which installs what `write` imports
    write: Callable[[ModelToExport, Path], None]
    read: Callable[[Path], ExportedFile]
    open_session: Callable[[Path, str | None], Session]
    precisions: tuple[str, ...] = ("fp32",)  # the number formats that `write` knows
    beside: tuple[str, ...] = ()  # suffixes of further files that belong to the one that users name

    def files(self, path: Path) -> list[Path]:
        """All files of an export to `path`."""
        return [path, *(path.with_suffix(suffix) for suffix in self.beside)]

    def megabytes(self, path: Path) -> float:
        """Size of all files of an export to `path`."""
        return sum(file.stat().st_size for file in self.files(path)) / 1e6


def resize_of(file: ExportedFile) -> Resize:
    """How images are brought to an exported network's input. A damaged header is a `UserError`."""
    for kind in (Stretch, KeepRatio):
        with suppress(UserError):
            return read(kind, file.header["resize"], "resize")
    raise UserError(f"{file.name}: the input size in its header is damaged; export it again")


def selection_of(file: ExportedFile) -> Selection:
    """The post-processing inside an exported file. A damaged header is a `UserError`."""
    try:
        selection = read(Selection, file.header["selection"], "selection")
        if selection.max_detections is None:
            raise UserError("selection: max_detections is none")
    except UserError as error:
        raise UserError(f"{file.name}: the selection in its header is damaged ({error}); export it again") from error
    return selection


def as_detections(found: DetectionArrays) -> Detections:
    """A session's detections as predictors give them."""
    arrays = (found.boxes_xyxy, found.scores, found.labels)
    columns = (torch.from_numpy(array.copy()) for array in arrays)
    return Detections(*columns, names=found.names, calibration=found.calibration)
