"""What a run reports while it works: rows of `log.csv`, the terminal, experiment logs, warnings.

`log.csv` has a row every few steps. Its columns are `step`, `epoch`, `images` (seen since the run began), `lr`, `loss`,
`NAME_loss` for each part of it (means over the steps since the last row, per positive anchor), `images_per_second`,
`seconds` (of training since the run began) and `map_area` (VOC's, in the rows where the run was evaluated).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from onestage.data.table import Table
from onestage.drawing import draw_objects
from onestage.errors import UserError
from onestage.structures import Batch, Detections
from onestage.terminal import TrainingStage
from onestage.texts import one_line
from onestage.training.experiment_logs import ExperimentLogs, evaluation_scalars
from onestage.training.saved_state import Position
from onestage.training.shown_batches import ShownBatches
from onestage.training.step import StepLosses
from onestage.training.watch import Watch
from onestage.whole_file import written_whole

LOG_EVERY_STEPS = 10
IMAGES = 8  # of a batch and of the test set, for the experiment logs
SHOWN_SCORE = 0.3  # detections with scores above it are drawn
MAX_SIDE, MIN_SIDE = 640, 320  # pixels of a drawn image; one whose shorter side is below is enlarged,
MOST_ENLARGED = 4  # times at most, so that a very long one does not grow huge
GAP = 8  # pixels between the halves

LogRow = dict[str, float | None]  # numbers by column


class Journal:
    """Reports on a run. Rank 0 alone has a `log.csv` and experiment logs."""

    def __init__(
        self,
        stage: TrainingStage,
        watch: Watch,
        logs: ExperimentLogs,
        log_csv: Path | None,
        start: Position,
        test: Table,
    ) -> None:
        self._stage, self._watch, self._logs, self._log_csv, self._test_table = stage, watch, logs, log_csv, test
        self._first_batch = True
        shown = None if log_csv is None else log_csv.with_name("batches.png")
        self._shown = ShownBatches(shown, test.categories.names)
        # Where the run stood at the last row; since then: steps that were taken, sums of their losses by name.
        self._last, self._taken, self._sums = replace(start), 0, dict[str, float]()

    def step(self, losses: StepLosses, batch: Batch, waited_s: float, spent_s: float) -> None:
        """Take note of a step; `batch` holds this rank's images, in main memory."""
        self._taken += losses.finite
        for name, value in losses.by_name.items():  # of a skipped step, the names alone
            self._sums[name] = self._sums.get(name, 0.0) + (value if losses.finite else 0.0)
        labels = torch.cat([targets.labels[~targets.ignored] for targets in batch.targets])
        self._watch.step(labels, losses.positives, waited_s, spent_s, len(batch.images))
        self._shown.add(batch)
        if self._first_batch and self._logs.active:
            images = batch_images(batch, self._test_table.categories.names)
            self._logs.images("augmented", images, self._last.step + 1)
        self._first_batch = False

    def epoch(self) -> None:
        """Look back at the end of an epoch."""
        self._watch.epoch()

    def row(self, position: Position, epoch: float, progress: float, rate: float, map_area: float | None) -> None:
        """Write the row of the steps since the last one, if there were any."""
        if position.step == self._last.step:
            return
        means = {name: value / max(1, self._taken) for name, value in self._sums.items()}
        images, seconds = position.images - self._last.images, position.seconds - self._last.seconds
        row: LogRow = {
            "step": position.step,
            "epoch": epoch,
            "images": position.images,
            "lr": rate,
            "loss": sum(means.values()),
            **{f"{name}_loss": mean for name, mean in means.items()},
            "images_per_second": images / max(seconds, 1e-9),
            "seconds": position.seconds,
            "map_area": map_area,
        }
        if self._log_csv is not None:
            append_rows(self._log_csv, [row])
        values = {f"train/{name}": v for name, v in row.items() if name not in ("step", "map_area") and v is not None}
        self._logs.scalars(values, position.step)
        losses = " ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        self._stage.about = (
            f"epoch {epoch:.1f}/{epoch / max(progress, 1e-9):.1f}  step {position.step}  loss {row['loss']:.3f} "
            f"({losses})  {row['images_per_second']:.1f} images/s  lr {rate:.2g}"
        )
        self._last, self._taken, self._sums = replace(position), 0, {}

    def evaluated(self, metrics: Mapping[str, Any], found: Sequence[Detections], step: int) -> None:
        """Take note of an evaluation; `found` in the test set's order, boxes in original pixels, in main memory."""
        if self._logs.active:
            self._logs.scalars(evaluation_scalars(metrics), step)
            self._logs.images("truth and detections", detection_images(self._test_table, found), step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._logs.close(failed=error[0] is not None)


# --- log.csv


def begin_log(path: Path, *, resume_at_step: int = 0) -> None:
    """Begin a `log.csv`; a resumed run keeps the rows up to its checkpoint. A crash leaves the old file or the new."""
    kept = [row for row in read_log(path) if (row["step"] or 0) <= resume_at_step] if resume_at_step else []
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        _write_rows(file, kept)


def append_rows(path: Path, rows: Iterable[LogRow]) -> None:
    """Write more rows, with the header before the first one of the file.

    Raises:
        UserError: the file can't be written; it may then end in the middle of a row.
    """
    try:
        with path.open("a", newline="") as file:
            _write_rows(file, rows)
    except OSError as error:
        line = f"{path}: can't be written ({error.strerror}); make room for it, then go on with --resume"
        raise UserError(line) from error


def _write_rows(file: TextIO, rows: Iterable[LogRow]) -> None:
    for row in rows:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})


def read_log(path: Path) -> list[LogRow]:
    """The rows of a `log.csv`; none where there is no file. What a full disk or a power cut left of a row is none."""
    if not path.exists():
        return []
    header, *lines = [line.split(",") for line in path.read_text(errors="replace").split("\n")[:-1]] or [[]]
    return [row for cells in lines if "step" in header and (row := _row(header, cells)) is not None]


def _row(header: Sequence[str], cells: Sequence[str]) -> LogRow | None:
    """Numbers by column; None for the remains of a row."""
    try:
        return {name: _number(text) for name, text in zip(header, cells, strict=True)}
    except ValueError:
        return None


def _number(text: str) -> float | None:
    if text.isdecimal():  # steps and images keep all their digits when they are written again
        return int(text)
    return float(text) if text else None


# --- images for the experiment logs


def batch_images(batch: Batch, names: Sequence[str]) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The first images of a batch as the network sees them, with their objects."""
    images = {}
    for image, targets in zip(batch.images[:IMAGES].permute(0, 2, 3, 1).numpy(), batch.targets, strict=False):
        objects = targets.boxes_xyxy.numpy(), targets.labels.numpy(), targets.ignored.numpy()
        images[str(len(images) + 1)] = draw_objects(image, *objects, names, min_side=MIN_SIDE)
    return images


def detection_images(table: Table, found: Sequence[Detections]) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """The first images of a data set, each with its annotated objects (left) and its detections (right).

    The boxes of `found` are in pixels of the original images.
    """
    images, names = {}, table.categories.names
    for index, one in enumerate(found[:IMAGES]):
        image = table.pixels(index, min_side=MAX_SIDE)
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
        images[f"{index + 1} {one_line(table.image_id(index))}"] = np.concatenate([left, gap, right], axis=1)
    return images
