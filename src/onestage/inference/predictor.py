"""A trained detector as a function: an image in, its detections out, in the image's own pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from onestage.compute.device import Precision, choose_compute
from onestage.data.loader import stack_images
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.inference.base_predictor import BasePredictor, PreparedImage
from onestage.inference.exported import ExportedPredictor, is_exported
from onestage.models.model_file import load_model
from onestage.selection import Selection
from onestage.structures import Categories, Detections, Predictions


class Predictor(BasePredictor):
    """Runs a detector in torch.

    Attributes:
        detector: the network, in evaluation mode on its device (the one that was given, not a copy).
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
        """See `load` for the usual way here. `selection` None keeps detections with a score above 0.5.

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
    def detect(self, images: Sequence[PreparedImage]) -> list[Detections]:
        if not images:
            return []
        pixels = stack_images([image.pixels for image in images], self.resize)
        batch = torch.from_numpy(pixels).to(self.compute.device).permute(0, 3, 1, 2)  # (B, 3, H, W), channels last
        with self.compute.autocast():
            raw = self.detector(batch)
        predictions = Predictions(raw.class_logits.float(), raw.box_deltas.float())
        found = self.detector.detect(predictions, self.selection, (batch.shape[2], batch.shape[3]))
        return [
            self.in_original_pixels(
                Detections(one.boxes_xyxy.cpu(), one.scores.cpu(), one.labels.cpu(), self.categories.names), image
            )
            for one, image in zip(found, images, strict=True)
        ]


def load(
    model: str | os.PathLike[str],
    device: str | torch.device | None = None,
    selection: Selection | None = None,
    precision: Precision = "auto",
) -> BasePredictor:
    """The predictor of a trained model: a run folder, its `model.safetensors`, or a file that `onestage export` wrote.

    Args:
        device: as "cpu", "cuda" or "cuda:1". None: a GPU where there is one.
        selection: the post-processing. None: as the model's own, keeping detections with a score above 0.5.
        precision: the network's number format in torch; exported files have their own.

    Raises:
        UserError: a file that is no model or was changed, or a device that this machine lacks.
    """
    if is_exported(model):
        return ExportedPredictor(model, device=device, selection=selection)
    loaded = load_model(model)
    return Predictor(loaded.detector, loaded.categories, selection, device, precision)
