"""The detections on NEU-DET whose figures other evaluators gave, as tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from onestage.structures import DetectionTable, GroundTruth

GOLDEN = Path(__file__).parent / "golden" / "voc_ap"
# The golden boxes are inclusive 1-based pixels; ours are half-open: only the first corner moves.
TO_HALF_OPEN = np.array([1.0, 1.0, 0.0, 0.0])


def golden_tables() -> tuple[GroundTruth, DetectionTable]:
    """810 objects of six classes in 360 images, 17 of them ignored (difficult), and 1,487 detections."""
    num_images = json.loads((GOLDEN / "reference.json").read_text())["num_images"]
    with np.load(GOLDEN / "ground_truth.npz") as rows:
        boxes_xyxy = rows["boxes_xyxy_inclusive"] - TO_HALF_OPEN
        areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
        truth = GroundTruth(num_images, rows["image"], rows["label"], boxes_xyxy, rows["difficult"], areas)
    with np.load(GOLDEN / "detections.npz") as rows:
        found = DetectionTable(rows["image"], rows["label"], rows["score"], rows["boxes_xyxy"] - TO_HALF_OPEN)
    return truth, found
