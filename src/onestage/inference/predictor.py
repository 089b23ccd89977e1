"""A trained detector as a function: an image in, its detections out, in the image's own pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from onestage.compute.device import Precision, choose_compute
from onestage.data.loader import stack_images
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor, Shrunk
from onestage.inference.exported import ExportedPredictor, is_exported
from onestage.models.model_file import load_model
from onestage.postprocess import Selection, to_original
from onestage.structures import Categories, Detections, Predictions


class Predictor(BasePredictor):
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
        self.detector_name, self.categories, self.resize = detector.name, categories, detector.resize
        self.papers_selection = detector.evaluation_selection
        self.selection = selection or replace(detector.evaluation_selection, score_threshold=0.5)

    @torch.no_grad()
    def detect(self, prepared: Sequence[Shrunk]) -> list[Detections]:
        if not prepared:
            return []
        pixels = stack_images([image.pixels for image in prepared], self.resize)
        images = torch.from_numpy(pixels).to(self.compute.device).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
        with self.compute.autocast():
            raw = self.detector(images)
        predictions = Predictions(raw.class_logits.float(), raw.box_deltas.float())
        found = self.detector.detect(predictions, self.selection, (images.shape[2], images.shape[3]))
        return [self._in_original(one, image.original_hw) for one, image in zip(found, prepared, strict=True)]

    def _in_original(self, found: Detections, original_hw: tuple[int, int]) -> Detections:
        return Detections(
            boxes_xyxy=to_original(found.boxes_xyxy, self.resize, original_hw).cpu(),
            scores=found.scores.cpu(),
            labels=found.labels.cpu(),
            names=self.categories.names,
        )


def load(
    model: str | os.PathLike[str],
    device: str | torch.device | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
) -> BasePredictor:
    """The predictor of a trained model: a run folder, its `model.safetensors`, or a file that `onestage export` wrote.

    Raises:
        UserError: a file that is no model or was changed, or a device that this machine lacks.
    """
    if is_exported(model):
        return ExportedPredictor(model, device=device, selection=selection)
    loaded = load_model(Path(model))
    return Predictor(loaded.detector, loaded.categories, selection, device, precision)
