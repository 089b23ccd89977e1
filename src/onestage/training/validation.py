"""A detector over a whole labelled data set: its detections in original pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from onestage.boxes import rescale_boxes
from onestage.data.loader import evaluation_loader
from onestage.data.table import Table
from onestage.detectors import Detector
from onestage.postprocess import Selection
from onestage.structures import Detections
from onestage.training.precision import Compute

# The settings of the SSD paper's evaluation (Liu 2016, 3.1): everything above 0.01, 200 a picture.
EVALUATION_SELECTION = Selection(score_threshold=0.01, iou_threshold=0.45, max_detections=200)


@torch.inference_mode()
def detect_all(
    detector: Detector,
    table: Table,
    compute: Compute,
    *,
    selection: Selection = EVALUATION_SELECTION,
    batch_size: int = 8,
    workers: int = 0,
    advance: Callable[[int], None] = lambda images: None,
) -> list[Detections]:
    """Detect in every picture of a data set.

    Args:
        detector: placed by `compute`; the training mode of each of its parts is put back afterwards.
        table: the pictures.
        compute: the device and numbers to use.
        selection: which detections to keep.
        batch_size: pictures at once.
        workers: loader processes.
        advance: told the number of pictures after each batch.

    Returns:
        One `Detections` a picture, in the table's order, boxes in the original picture's pixels.
    """
    modes = {module: module.training for module in detector.modules()}
    detector.eval()
    found: list[Detections] = []
    network_hw = (detector.image_size, detector.image_size)
    for batch in evaluation_loader(table, image_size=detector.image_size, batch_size=batch_size, workers=workers):
        images = batch.images.to(compute.device, non_blocking=True)
        with compute.autocast():
            predictions = detector(images)
        sizes_hw = table.image_sizes_hw[batch.image_indices.numpy()].tolist()
        for one, (height, width) in zip(detector.detect(predictions, selection), sizes_hw, strict=True):
            boxes_xyxy = rescale_boxes(one.boxes_xyxy, network_hw, (height, width))
            found.append(dataclasses.replace(one, boxes_xyxy=boxes_xyxy, names=table.categories.names))
        advance(len(sizes_hw))
    for module, training in modes.items():  # not all the same: frozen batch norms stay in evaluation mode
        module.training = training
    return found


def on_cpu(found: Sequence[Detections]) -> list[Detections]:
    """The same detections in main memory."""
    return [
        dataclasses.replace(d, boxes_xyxy=d.boxes_xyxy.cpu(), scores=d.scores.cpu(), labels=d.labels.cpu())
        for d in found
    ]
