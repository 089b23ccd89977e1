"""The check of a data set's ground truth and detections before a protocol counts anything.

The libraries behind the metrics accept a NaN score or a label beyond the last class in silence and lower the average
precision; here it is an error that names the row.
"""

from __future__ import annotations

import numpy as np

from onestage.errors import UserError
from onestage.structures import DetectionTable, GroundTruth


def check_tables(truth: GroundTruth, found: DetectionTable, num_classes: int) -> None:
    """Refuse rows that no protocol has an answer for.

    Raises:
        UserError: a score or box that is not finite, a label outside 0..num_classes-1, or an image outside
            0..truth.num_images-1; names the table, the row and the value.
    """
    for table, rows in (("ground truth", truth), ("detections", found)):
        good_boxes = np.asarray(np.isfinite(rows.boxes_xyxy).all(axis=1))
        good_labels = (rows.labels >= 0) & (rows.labels < num_classes)
        good_images = (rows.image_index >= 0) & (rows.image_index < truth.num_images)
        _refuse(table, "box", rows.boxes_xyxy, good_boxes, "four finite numbers")
        _refuse(table, "label", rows.labels, good_labels, f"0..{num_classes - 1}; use the categories of the checkpoint")
        _refuse(
            table, "image", rows.image_index, good_images, f"0..{truth.num_images - 1}; evaluate one split at a time"
        )
    _refuse("detections", "score", found.scores, np.isfinite(found.scores), "a finite number; the model diverged")


def _refuse(table: str, column: str, values: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise UserError(f"{table}, row {row}: {column} is {values[row].tolist()}, expected {expected}")
