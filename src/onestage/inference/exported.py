"""A file that `onestage export` wrote as a predictor like any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor, Shrunk
from onestage.inference.exported_header import resize_of, selection_of
from onestage.inference.openvino import OpenVinoSession, read_openvino

from onestage.postprocess import Selection, to_original
from onestage.runtime.detections import DetectionArrays
from onestage.runtime.exported_file import ExportedFile, read_exported
from onestage.runtime.session import OnnxSession, Session
from onestage.structures import Categories, Detections

BAKED_IN = ("nms", "iou_threshold", "candidates_per_class", "class_agnostic", "sigma")  # fields of `Selection`


class ExportedPredictor(BasePredictor):
    """An exported network in its engine.

    The file would resize images itself, to the same pixels; they are shrunk as they are read all the same, so that
    images of different sizes share a batch and what waits is small.

    Attributes:
        session: the network.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        selection: Selection | None = None,
    ) -> None:
        """`selection` None means scores of 0.5 and more.

        Raises:
            UserError: a file that isn't ours or isn't safe, a missing engine or device, or a selection other than the
                one that is part of the file.
        """
        self.session = _session(path, None if device is None else str(device))
        file = self.session.file
        self.detector_name, self.categories = file.header["detector"], Categories(file.names, file.source_ids)
        self.resize = resize_of(file)
        self.papers_selection = replace(selection_of(file), score_threshold=file.header["evaluation_score_threshold"])
        self.selection = selection or replace(self.papers_selection, score_threshold=0.5)

    @property
    def selection(self) -> Selection:
        """Score threshold and limit may be replaced; the rest is part of the file."""
        return self._selection

    @selection.setter
    def selection(self, selection: Selection) -> None:
        for name in BAKED_IN:
            asked, exported = getattr(selection, name), getattr(self.papers_selection, name)
            if asked != exported:
                raise UserError(
                    f"{self.session.file.name}: {name} {asked!r}, but {exported!r} is part of this file; "
                    "leave it, or export the model again with what you want"
                )
        self._selection = selection

    def detect(self, prepared: Sequence[Shrunk]) -> list[Detections]:
        found = self.session([image.pixels for image in prepared], self.selection.score_threshold)
        return [
            self._in_original(in_torch(one)[: self.selection.max_detections], image.original_hw)
            for one, image in zip(found, prepared, strict=True)
        ]

    def _in_original(self, found: Detections, original_hw: tuple[int, int]) -> Detections:
        return replace(found, boxes_xyxy=to_original(found.boxes_xyxy, self.resize, original_hw))


def in_torch(found: DetectionArrays) -> Detections:
    """What a session found, as predictors give it."""
    boxes_xyxy, scores, labels = (
        torch.from_numpy(part.copy()) for part in (found.boxes_xyxy, found.scores, found.labels)
    )
    return Detections(boxes_xyxy, scores, labels, found.names)


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path names an exported file, by its suffix."""
    return Path(path).suffix in (".onnx", ".xml")


def read_any_exported(path: str | os.PathLike[str]) -> ExportedFile:
    """What an exported file says about itself.

    Raises:
        UserError: nothing there, or a file that isn't ours or isn't safe.
    """
    match Path(path).suffix:
        case ".xml":
            return read_openvino(path)
    return read_exported(path)


def _session(path: str | os.PathLike[str], device: str | None) -> Session:
    match Path(path).suffix:
        case ".xml":
            return OpenVinoSession(path, device=device)
    return OnnxSession(read_exported(path), device=device)
