"""What both protocols ask of a data set's ground truth and detections before they count anything.

The libraries behind the metrics take a NaN score or a label beyond the last class in silence and lower the average
precision; here it is an error that names the row.
"""

from __future__ import annotations

import numpy as np

from onestage.errors import UserError
from onestage.structures import DetectionTable, GroundTruth


def check_tables(truth: GroundTruth, found: DetectionTable, num_classes: int) -> None:
    """Refuse tables that no protocol has an answer for.

    Raises:
        UserError: a score or box that is not finite, a label outside 0..num_classes-1, or an image outside
            0..truth.num_images-1; names the table, the row and the value.
    """
    _check_rows("ground truth", truth, truth.num_images, num_classes)
    _check_rows("detections", found, truth.num_images, num_classes)
    _refuse("detections", "score", found.scores, ~np.isfinite(found.scores), "a finite number; the model diverged")


def _check_rows(table: str, rows: GroundTruth | DetectionTable, num_images: int, num_classes: int) -> None:
    bad_boxes = np.any(~np.isfinite(rows.boxes_xyxy), axis=1)
    _refuse(table, "box", rows.boxes_xyxy, np.asarray(bad_boxes), "four finite numbers")
    bad_labels = (rows.labels < 0) | (rows.labels >= num_classes)
    _refuse(table, "label", rows.labels, bad_labels, f"0..{num_classes - 1}; use the categories of the checkpoint")
    bad_images = (rows.image_index < 0) | (rows.image_index >= num_images)
    _refuse(table, "image", rows.image_index, bad_images, f"0..{num_images - 1}; evaluate on one split at a time")


def _refuse(table: str, column: str, values: np.ndarray, bad: np.ndarray, expected: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise UserError(f"{table}, row {row}: {column} is {values[row].tolist()}, expected {expected}")
