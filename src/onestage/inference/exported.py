"""A file that `onestage export` wrote as a predictor like any other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from onestage.errors import UserError
from onestage.inference.openvino import OpenVinoSession, read_openvino
from onestage.inference.pictures import PicturePredictor
from onestage.postprocess import Selection
from onestage.runtime import detections
from onestage.runtime.exported_file import ExportedFile, read_exported
from onestage.runtime.session import OnnxSession, Session
from onestage.structures import Categories, Detections

BAKED_IN = ("nms", "iou_threshold", "candidates_per_class", "class_agnostic", "sigma")  # fields of `Selection`


class ExportedPredictor(PicturePredictor):
    """An exported network in its engine. Pictures go in whole: the file resizes them itself.

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
        self.categories = Categories(file.names, file.source_ids)
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

    def prepare(self, image_rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        return image_rgb

    def detect(self, prepared: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[Detections]:
        found = self.session(prepared, self.selection.score_threshold)
        return [_in_torch(one)[: self.selection.max_detections] for one in found]


def _in_torch(found: detections.Detections) -> Detections:
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
    return read_openvino(path) if Path(path).suffix == ".xml" else read_exported(path)


def selection_of(file: ExportedFile) -> Selection:
    """The selection that is part of an exported file.

    Raises:
        UserError: a header that holds another thing.
    """
    known, given = {field.name: field.default for field in fields(Selection)}, file.header["selection"]
    fits = given.keys() == known.keys() and isinstance(given["max_detections"], int)
    if not fits or any(type(given[name]) is not type(known[name]) for name in known):
        raise UserError(f"{file.name}: the selection in its header is damaged; export it again")
    return Selection(**given)


def _session(path: str | os.PathLike[str], device: str | None) -> Session:
    if Path(path).suffix == ".xml":
        return OpenVinoSession(path, device=device)
    return OnnxSession(read_exported(path), device=device)
