"""How good detections are: the VOC and COCO protocols, their table, and the report."""

from onestage.evaluation.coco import coco_metrics
from onestage.evaluation.metrics import Measurement, measure, print_table
from onestage.evaluation.voc import VocClassResult, VocResult, voc_average_precision

__all__ = [
    "Measurement",
    "VocClassResult",
    "VocResult",
    "coco_metrics",
    "measure",
    "print_table",
    "voc_average_precision",
]
