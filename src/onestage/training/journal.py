"""What a run reports while it works: rows of `log.csv`, the terminal, experiment logs, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
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
from onestage.terminal import Display, duration, eta
from onestage.training.experiment_logs import ExperimentLogs, evaluation_scalars
from onestage.training.log_file import LogRow, append_rows
from onestage.training.saved_state import Position
from onestage.training.step import StepLosses
from onestage.training.watch import Watch

LOG_EVERY_STEPS = 10
IMAGES = 8  # of a batch and of the test set, for the experiment logs
SHOWN_SCORE = 0.3  # detections with scores above it are drawn
MAX_SIDE, MIN_SIDE = 640, 320  # pixels of a drawn image; one whose shorter side is below is enlarged,
MOST_ENLARGED = 4  # times at most, so that a very long one does not grow huge
GAP = 8  # pixels between the halves


@dataclass
class Interval:
    """Sums between two rows of the log.

    Attributes:
        start: where the run stood at the last row.
        steps: steps that were taken since, skipped ones left out.
        losses: the sum of their losses, by name.
    """

    start: Position
    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)

    def add(self, losses: StepLosses) -> None:
        """Take in a step; of a skipped one, the names of its losses alone."""
        self.steps += losses.finite
        for name, value in losses.by_name.items():
            self.losses[name] = self.losses.get(name, 0.0) + (value if losses.finite else 0.0)

    def row(self, position: Position, epoch: float, learning_rate: float, map_area: float | None) -> LogRow:
        """The log's row at a position of the run."""
        means = {f"{name}_loss": value / max(1, self.steps) for name, value in self.losses.items()}
        images, seconds = position.images - self.start.images, position.seconds - self.start.seconds
        return {
            "step": position.step,
            "epoch": epoch,
            "images": position.images,
            "lr": learning_rate,
            "loss": sum(means.values()),
            **means,
            "images_per_second": images / max(seconds, 1e-9),
            "seconds": position.seconds,
            "map_area": map_area,
        }


class Journal:
    """Reports on a run. Rank 0 alone has a `log.csv` and experiment logs."""

    def __init__(
        self,
        display: Display,
        watch: Watch,
        experiment_logs: ExperimentLogs,
        log_csv: Path | None,
        position: Position,
        test_table: Table,
    ) -> None:
        self._display, self._watch, self._experiment_logs = display, watch, experiment_logs
        self._log_csv, self._test_table = log_csv, test_table
        self._interval = Interval(replace(position))
        self._first_batch = True

    def step(self, losses: StepLosses, batch: Batch, waited_s: float, spent_s: float) -> None:
        """Take note of a step; `batch` holds this rank's images, in main memory."""
        self._interval.add(losses)
        labels = torch.cat([targets.labels[~targets.ignored] for targets in batch.targets])
        self._watch.step(labels, losses.positives, waited_s, spent_s, len(batch.images))
        if self._first_batch and self._experiment_logs.active:
            images = batch_images(batch, self._test_table.categories.names)
            self._experiment_logs.images("augmented", images, self._interval.start.step + 1)
        self._first_batch = False

    def epoch(self) -> None:
        """Look back at the end of an epoch."""
        self._watch.epoch()

    def row(
        self, position: Position, epoch: float, progress: float, learning_rate: float, map_area: float | None
    ) -> None:
        """Write the row of the steps since the last one, if there were any."""
        if position.step == self._interval.start.step:
            return
        row = self._interval.row(position, epoch, learning_rate, map_area)
        if self._log_csv is not None:
            append_rows(self._log_csv, [row])
        values = {f"train/{name}": v for name, v in row.items() if name not in ("step", "map_area") and v is not None}
        self._experiment_logs.scalars(values, position.step)
        losses = " ".join(f"{name} {row[f'{name}_loss']:.3f}" for name in self._interval.losses)
        facts = (
            f"epoch {epoch:.1f}/{epoch / max(progress, 1e-9):.1f}  step {position.step}  loss {row['loss']:.3f} "
            f"({losses})  {row['images_per_second']:.1f} images/s  lr {learning_rate:.2g}  "
            f"ETA {duration(eta(position.seconds, progress))}"
        )
        self._display.training(facts, progress, epoch)
        self._interval = Interval(replace(position))

    def evaluated(self, metrics: Mapping[str, Any], found: Sequence[Detections], step: int) -> None:
        """Take note of an evaluation; `found` in the test set's order, boxes in original pixels, in main memory."""
        if self._experiment_logs.active:
            self._experiment_logs.scalars(evaluation_scalars(metrics), step)
            images = detection_images(self._test_table, found)
            self._experiment_logs.images("truth and detections", images, step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._experiment_logs.close(failed=kind is not None)


def batch_images(batch: Batch, names: Sequence[str]) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The first images of a batch as the network sees them, with their objects."""
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
    """The first images of a data set, each with its annotated objects (left) and its detections (right).

    Args:
        table: the images.
        found: their detections, boxes in pixels of the original images.
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
        name = table.image_id(index).encode(errors="replace").decode()  # a file's name may hold bytes that are not text
        images[f"{index + 1} {name}"] = np.concatenate([left, gap, right], axis=1)
    return images
