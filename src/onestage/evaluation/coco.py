"""COCO's 12 numbers (Lin et al. 2014; cocodataset.org, detection evaluation), counted by hotcoco.

AP is the mean over classes, the IoUs 0.50, 0.55, ... 0.95 and 101 recalls; s, m and l are objects below 32x32, up to
96x96, and above; AR1, AR10 and AR100 are recalls with that many detections an image and class. Ignored objects are
COCO's crowds. A number without any object behind it (no small object, say) is -1, as in COCO's own program.
"""

import hotcoco
import numpy as np

from onestage.evaluation.voc import check_tables
from onestage.structures import DetectionTable, GroundTruth

COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_metrics(truth: GroundTruth, found: DetectionTable, num_classes: int) -> dict[str, float]:
    """COCO's 12 numbers over a data set; boxes are pixels of the original images.

    What `check_tables` refuses is a `UserError`.
    """
    check_tables(truth, found, num_classes)
    # Ids of images, classes and objects begin at 1: COCO's program takes id 0 for "no object".
    objects = hotcoco.COCO.from_arrays(
        [{"id": 1 + index} for index in range(truth.num_images)],
        [{"id": 1 + label, "name": str(label)} for label in range(num_classes)],
        1 + truth.image_index,
        1 + truth.labels,
        _xywh(truth.boxes_xyxy),
        area=truth.areas.astype(np.float64),
        iscrowd=truth.ignored,
    )
    columns = [1 + found.image_index, _xywh(found.boxes_xyxy), found.scores, 1 + found.labels]
    evaluator = hotcoco.COCOeval(objects, objects.load_res(np.column_stack(columns).astype(np.float64)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()  # fills in the results, as summarize() does, but prints nothing
    results = evaluator.get_results()
    return {name: float(results[name]) for name in COCO_METRICS}


def _xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    corners = boxes_xyxy.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
