"""A detector over a whole labelled data set: its detections in original pixels."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import takewhile

import torch

from onestage.compute.device import Compute
from onestage.data.loader import evaluation_loader
from onestage.data.loader_workers import StartMethod
from onestage.data.table import Table
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.postprocess import to_original
from onestage.selection import Selection
from onestage.structures import Detections, to_device
from onestage.training.processes import ALONE, World


class StoppedError(Exception):
    """A signal stopped an evaluation."""


@torch.no_grad()
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
    """Detect in every image of a data set, each rank in its share of the batches.

    Args:
        detector: on `compute.device`. Afterwards its modules are in training or evaluation mode as before.
        selection: which detections are kept; None: the detector's `evaluation_selection`.
        advance: called with the number of images after each batch.
        stopped: called before each batch; true ends the evaluation.
        warn: prints a line about images that take long to read.

    Returns one `Detections` an image in main memory, in the table's order, boxes in the original image's pixels.
    A `StoppedError` if `stopped` was true in one of the ranks; a UserError if an image can't be read.
    """
    modes = {module: module.training for module in detector.modules()}
    detector.eval()
    selection, names = selection or detector.evaluation_selection, table.categories.names
    found: dict[int, Detections] = {}
    error: UserError | None = None
    loader = evaluation_loader(
        table,
        resize=detector.resize,
        batch_size=batch_size,
        workers=workers,
        pin_memory=compute.device.type == "cuda",
        start_method=start_method,
        shard=(world.rank, world.size),
        warn=warn,
    )
    with closing(loader) as batches:
        try:
            for batch in takewhile(lambda _: not stopped(), batches):
                images = to_device(batch.images, compute.device)
                with compute.autocast():
                    predictions = detector(images)
                detected = detector.detect(predictions, selection, (images.shape[2], images.shape[3]))
                for index, one in zip(batch.image_indices.tolist(), detected, strict=True):
                    height, width = table.image_sizes_hw[index].tolist()
                    boxes_xyxy = to_original(one.boxes_xyxy, detector.resize, (height, width))
                    found[index] = replace(one, boxes_xyxy=boxes_xyxy, names=names)
                advance(len(images) * world.size)
        except UserError as raised:
            error = raised
    for module, training in modes.items():  # not all the same: frozen batch norms stay in evaluation mode
        module.training = training
    if world.agree(error, stopped()):
        raise StoppedError
    by_index = {index: one for part in world.gather(found) for index, one in part.items()}
    return [by_index[index] for index in range(len(table))]
