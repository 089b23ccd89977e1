"""A detector over a whole labelled data set: its detections in original pixels."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from itertools import takewhile

import numpy as np
import torch
from jaxtyping import Int64

from onestage.compute.device import Compute
from onestage.data.loader import evaluation_loader
from onestage.data.loader_workers import StartMethod
from onestage.data.table import Table
from onestage.data.tiles import image_tiles
from onestage.detectors import Detector
from onestage.errors import UserError
from onestage.selection import Selection
from onestage.structures import Detections, to_device
from onestage.tiled_detections import kept_in_tiles, of_image, windows_of
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
    selection = selection or detector.evaluation_selection
    in_tiles = kept_in_tiles(selection, detector.evaluation_selection, detector.tiling)
    found: dict[int, Detections] = {}
    rows, image = (table, None) if detector.tiling is None else image_tiles(table, detector.tiling, table.decoded)
    rows_done, error = 0, None
    loader = evaluation_loader(
        rows,
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
                detected = detector.detect(predictions, in_tiles, (images.shape[2], images.shape[3]))
                found |= dict(zip(batch.image_indices.tolist(), detected, strict=True))
                before, rows_done = rows_done, min(len(rows), rows_done + len(images) * world.size)
                advance(rows_done * len(table) // len(rows) - before * len(table) // len(rows))
        except UserError as raised:
            error = raised
    for module, training in modes.items():  # not all the same: frozen batch norms stay in evaluation mode
        module.training = training
    if world.agree(error, stopped()):
        raise StoppedError
    by_row = {row: one for part in world.gather(found) for row, one in part.items()}
    return _of_images(by_row, image, table, detector, selection)


def _of_images(
    by_row: Mapping[int, Detections],
    image: Int64[np.ndarray, " R"] | None,
    table: Table,
    detector: Detector,
    selection: Selection,
) -> list[Detections]:
    """The detections of each image from those of its rows, in pixels of the input; `image` is that of each row."""
    first = np.arange(len(table) + 1) if image is None else np.searchsorted(image, np.arange(len(table) + 1))
    detections = []
    for index, (height, width) in enumerate(table.image_sizes_hw.tolist()):
        found = [by_row[row] for row in range(first[index], first[index + 1])]
        windows_xyxy = windows_of(detector.tiling, (height, width))
        whole = of_image(found, windows_xyxy, (height, width), detector.resize, selection)
        detections.append(replace(whole, names=table.categories.names))
    return detections
