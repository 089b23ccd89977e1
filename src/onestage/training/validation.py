"""A detector over a whole labelled data set: its detections in original pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from onestage.boxes import clip_boxes, rescale_boxes
from onestage.data.loader import evaluation_loader
from onestage.data.table import Table
from onestage.detectors import Detector
from onestage.input_size import Resize
from onestage.postprocess import Selection
from onestage.structures import Detections
from onestage.training.precision import Compute


@torch.inference_mode()
def detect_all(
    detector: Detector,
    table: Table,
    compute: Compute,
    *,
    selection: Selection | None = None,
    batch_size: int = 8,
    workers: int = 0,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Detections]:
    """Detect in every picture of a data set.

    Args:
        detector: placed by `compute`; the training mode of each of its parts is put back afterwards.
        table: the pictures.
        compute: the device and numbers to use.
        selection: which detections to keep; None: as the detector's paper evaluates.
        batch_size: pictures at once.
        workers: loader processes.
        advance: told the number of pictures after each batch.

    Returns:
        One `Detections` a picture, in the table's order, boxes in the original picture's pixels.
    """
    modes = {module: module.training for module in detector.modules()}
    detector.eval()
    found: list[Detections] = []
    selection = selection or detector.evaluation_selection
    for batch in evaluation_loader(table, resize=detector.resize, batch_size=batch_size, workers=workers):
        images = batch.images.to(compute.device, non_blocking=True)
        with compute.autocast():
            predictions = detector(images)
        detected = detector.detect(predictions, selection, (images.shape[2], images.shape[3]))
        for one, (height, width) in zip(
            detected, table.image_sizes_hw[batch.image_indices.numpy()].tolist(), strict=True
        ):
            boxes_xyxy = to_original(one.boxes_xyxy, detector.resize, (height, width))
            found.append(dataclasses.replace(one, boxes_xyxy=boxes_xyxy, names=table.categories.names))
        advance(len(images))
    for module, training in modes.items():  # not all the same: frozen batch norms stay in evaluation mode
        module.training = training
    return found


def to_original(boxes_xyxy: Float[Tensor, "N 4"], resize: Resize, original_hw: tuple[int, int]) -> Float[Tensor, "N 4"]:
    """Boxes in pixels of the input as boxes in pixels of the picture, clipped to it (the input may be padded)."""
    return clip_boxes(rescale_boxes(boxes_xyxy, resize.picture_hw(original_hw), original_hw), original_hw)


def on_cpu(found: Sequence[Detections]) -> list[Detections]:
    """The same detections in main memory."""
    return [
        dataclasses.replace(d, boxes_xyxy=d.boxes_xyxy.cpu(), scores=d.scores.cpu(), labels=d.labels.cpu())
        for d in found
    ]
