"""How good detections are: the VOC and COCO protocols, their table, and the report."""

from onestage.evaluation.coco import coco_metrics
from onestage.evaluation.metrics import measure, print_at_thresholds, print_table
from onestage.evaluation.thresholds import find_thresholds
from onestage.evaluation.voc import voc_average_precision

__all__ = [
    "coco_metrics",
    "find_thresholds",
    "measure",
    "print_at_thresholds",
    "print_table",
    "voc_average_precision",
]
