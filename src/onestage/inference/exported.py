"""The predictor of a file that `onestage export` wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from onestage.errors import UserError
from onestage.export import FORMATS, format_of
from onestage.export.base import as_detections, resize_of, selection_of
from onestage.inference.base_predictor import BasePredictor, PreparedImage
from onestage.selection import Selection
from onestage.structures import Categories, Detections

REPLACEABLE = ("score_threshold", "max_detections")  # fields of `Selection`; the others are part of the file


def is_exported(path: str | os.PathLike[str]) -> bool:
    """True for the path of an exported file, judged by its suffix."""
    return format_of(path) is not None


class ExportedPredictor(BasePredictor):
    """Runs an exported network in its engine.

    The file could resize images itself, to the same pixels. They are resized when they are read all the same, so that
    images of different sizes share a batch and waiting images are small.

    Attributes:
        session: the network in its engine.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        selection: Selection | None = None,
    ) -> None:
        """Load a file. `selection` None keeps detections with a score above 0.5.

        Raises:
            UserError: a file that isn't ours or isn't safe, a missing engine or device, or a selection that differs
                from the file's own in more than `REPLACEABLE`.
        """
        kind = format_of(path)
        if kind is None:
            suffixes = ", ".join(one.suffix for one in FORMATS.values())
            raise UserError(f"{path}: not an exported file; these end in {suffixes}")
        self.session = kind.open_session(Path(path), None if device is None else str(device))
        file = self.session.file
        self.detector_name, self.categories = file.header["detector"], Categories(file.names, file.source_ids)
        self.resize = resize_of(file)
        self.papers_selection = replace(selection_of(file), score_threshold=file.header["evaluation_score_threshold"])
        self.selection = selection or replace(self.papers_selection, score_threshold=0.5)

    @property
    def selection(self) -> Selection:
        """The post-processing; only the fields in `REPLACEABLE` may differ from the file's own."""
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
        self._selection = selection

    def detect(self, images: Sequence[PreparedImage]) -> list[Detections]:
        found = self.session([image.pixels for image in images], self.selection.score_threshold)
        return [
            self.in_original_pixels(as_detections(one)[: self.selection.max_detections], image)
            for one, image in zip(found, images, strict=True)
        ]
