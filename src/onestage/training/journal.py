"""What a run tells while it works: rows of `log.csv`, the terminal, trackers, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from onestage.data.table import Table
from onestage.drawing import draw_objects
from onestage.runtime.decode import decode_image
from onestage.structures import Batch, Detections
from onestage.terminal import Display
from onestage.training.log_file import LogFile, LogRow
from onestage.training.saved_state import Position
from onestage.training.step import StepLosses
from onestage.training.trackers import Trackers
from onestage.training.watch import Watch

LOG_EVERY_STEPS = 10
IMAGES = 8  # of a batch and of the test set, for the trackers
SHOWN_SCORE = 0.3  # detections from here on are drawn
MAX_SIDE, MIN_SIDE = 640, 320  # pixels of a drawn image; one whose shorter side is below is enlarged,
MOST_ENLARGED = 4  # times, so that a very long one does not grow huge
GAP = 8  # pixels between the halves


class Interval:
    """The sums between two rows of the log."""

    def __init__(self, start: Position) -> None:
        self.start = replace(start)
        self.steps = 0  # those that were taken
        self.classification = 0.0
        self.box = 0.0

    def row(self, position: Position, epoch: float, learning_rate: float, map_area: float | None) -> LogRow:
        steps = max(1, self.steps)
        classification, box = self.classification / steps, self.box / steps
        images, seconds = position.images - self.start.images, position.seconds - self.start.seconds
        return LogRow(
            step=position.step,
            epoch=epoch,
            images=position.images,
            lr=learning_rate,
            loss=classification + box,
            classification_loss=classification,
            box_loss=box,
            images_per_second=images / max(seconds, 1e-9),
            seconds=position.seconds,
            map_area=map_area,
        )


@dataclass
class Journal:
    """Written by process 0 of a run; those of the others have neither log nor trackers."""

    display: Display
    watch: Watch
    trackers: Trackers
    log: LogFile | None
    interval: Interval
    test_table: Table
    first_batch: bool = True  # to come

    def step(self, losses: StepLosses, batch: Batch, waited_s: float, spent_s: float) -> None:
        """Take note of a step; `batch` holds this process's images, in main memory."""
        if losses.finite:
            self.interval.steps += 1
            self.interval.classification += losses.classification
            self.interval.box += losses.box
        labels = torch.cat([targets.labels[~targets.ignored] for targets in batch.targets])
        self.watch.step(labels, losses.positives, waited_s, spent_s, len(batch.images))
        if self.first_batch and self.trackers.on:
            images = batch_images(batch, self.test_table.categories.names)
            self.trackers.images("augmented", images, self.interval.start.step + 1)
        self.first_batch = False

    def epoch(self) -> None:
        self.watch.epoch()

    def row(
        self, position: Position, epoch: float, progress: float, learning_rate: float, map_area: float | None
    ) -> None:
        """Write the row of the steps since the last, if there were any."""
        if position.step == self.interval.start.step:
            return
        row = self.interval.row(position, epoch, learning_rate, map_area)
        if self.log is not None:
            self.log.write(row)
        self.trackers.log(row)
        self.display.training(row, progress, epoch / max(progress, 1e-9))
        self.interval = Interval(position)

    def evaluated(self, metrics: Mapping[str, Any], found: Sequence[Detections], step: int) -> None:
        """Take note of an evaluation; `found` in the test set's order, boxes in original pixels, in main memory."""
        if self.trackers.on:
            self.trackers.evaluation(metrics, step)
            self.trackers.images("truth and detections", detection_images(self.test_table, found), step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=kind is not None)

    def close(self, failed: bool = False) -> None:
        """End it; `failed`: by an error of the run, which services then show."""
        self.trackers.close(failed)
        if self.log is not None:
            self.log.close()


def batch_images(batch: Batch, names: Sequence[str]) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The first images of a batch as the network sees them, with their objects drawn on them."""
    return {
        str(number): draw_objects(
            image.permute(1, 2, 0).numpy(),  # (3, H, W) -> (H, W, 3)
            targets.boxes_xyxy.numpy(),
            targets.labels.numpy(),
            targets.ignored.numpy(),
            names,
            min_side=MIN_SIDE,
        )
        for number, (image, targets) in enumerate(zip(batch.images[:IMAGES], batch.targets, strict=False), start=1)
    }


def detection_images(table: Table, found: Sequence[Detections]) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The first images of a data set twice side by side: with the annotated objects, with what was found.

    Args:
        table: the images.
        found: their detections, in pixels of the original images.
    """
    images, names = {}, table.categories.names
    for index, one in enumerate(found[:IMAGES]):
        image = decode_image(table.image_path(index), min_side=MAX_SIDE)
        scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
        size_wh = [max(1, round(scale * side)) for side in (image.shape[1], image.shape[0])]
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
        scales = np.array([*size_wh, *size_wh] / table.image_sizes_hw[index][[1, 0, 1, 0]], dtype=np.float32)
        min_side = min(MIN_SIDE, MOST_ENLARGED * min(size_wh))
        objects = table.objects(index)
        boxes_xyxy = objects.boxes_xyxy * scales
        left = draw_objects(image, boxes_xyxy, objects.labels, objects.ignored, names, min_side=min_side)
        scaled = replace(one, boxes_xyxy=one.boxes_xyxy * torch.from_numpy(scales))
        right = scaled.filter(score=SHOWN_SCORE).draw(image, min_side=min_side)
        gap = np.full((len(left), GAP, 3), 255, dtype=np.uint8)
        name = table.image_id(index).encode(errors="replace").decode()  # a file's name may be bytes that are no text
        images[f"{index + 1} {name}"] = np.concatenate([left, gap, right], axis=1)
    return images
