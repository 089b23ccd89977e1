"""A detector over a whole labelled data set: its detections in original pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing

import torch

from onestage.compute.device import Compute
from onestage.data.loader import evaluation_loader
from onestage.data.loader_workers import StartMethod
from onestage.data.table import Table
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.input_size import Resize
from onestage.postprocess import Selection, to_original
from onestage.structures import Detections
from onestage.training.processes import ALONE, World


class StoppedError(Exception):
    """A signal came in mid-evaluation."""


@torch.inference_mode()
def detect_all(
    detector: Detector,
    table: Table,
    compute: Compute,
    *,
    selection: Selection | None = None,
    batch_size: int = 8,
    workers: int = 0,
    start_method: StartMethod | None = None,
    advance: Callable[[int], None] = lambda images: None,
    stopped: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] | None = None,
    world: World = ALONE,
) -> list[Detections]:
    """Detect in every image of a data set, each process of the run in its share of the batches.

    Args:
        detector: placed by `compute`; the training mode of each of its parts is put back afterwards.
        table: the images.
        compute: the device and numbers to use.
        selection: which detections to keep; None: as the detector's paper evaluates.
        batch_size: images at once.
        workers: loader processes.
        start_method: how they are started.
        advance: told the number of images after each batch.
        stopped: asked before each batch.
        warn: told in one line of images that are long in coming.
        world: the processes that share the work.

    Returns:
        One `Detections` an image in main memory, in the table's order, boxes in the original image's pixels.

    Raises:
        StoppedError: `stopped` said so in one of the processes.
        UserError: an image can't be read.
    """
    modes = {module: module.training for module in detector.modules()}
    detector.eval()
    selection = selection or detector.evaluation_selection
    found: dict[int, Detections] = {}
    error: UserError | None = None
    shard = (world.rank, world.size)
    how = {"workers": workers, "start_method": start_method, "shard": shard, "warn": warn}
    loader = evaluation_loader(table, resize=detector.resize, batch_size=batch_size, **how)
    with closing(loader) as batches:
        try:
            for batch in batches:
                if stopped():
                    break
                images = batch.images.to(compute.device, non_blocking=True)
                with compute.autocast():
                    predictions = detector(images)
                detected = detector.detect(predictions, selection, (images.shape[2], images.shape[3]))
                indices = batch.image_indices.tolist()
                found |= dict(zip(indices, in_images(detected, indices, table, detector.resize), strict=True))
                advance(len(images) * world.size)
        except UserError as raised:
            error = raised
    for module, training in modes.items():  # not all the same: frozen batch norms stay in evaluation mode
        module.training = training
    if world.agree(error, stopped()):
        raise StoppedError
    together = {index: one for part in world.gather(found) for index, one in part.items()}
    return [together[index] for index in range(len(table))]


def in_images(detected: Sequence[Detections], indices: Sequence[int], table: Table, resize: Resize) -> list[Detections]:
    """Detections of a batch in pixels of the original images, with names, in main memory."""
    sizes_hw = table.image_sizes_hw[list(indices)].tolist()
    return [
        dataclasses.replace(
            one,
            boxes_xyxy=to_original(one.boxes_xyxy, resize, (height, width)).cpu(),
            scores=one.scores.cpu(),
            labels=one.labels.cpu(),
            names=table.categories.names,
        )
        for one, (height, width) in zip(detected, sizes_hw, strict=True)
    ]
