"""AP, AP50 and F1 over many resamples of the images at once: the bootstrap (Efron 1979) behind a comparison.

A resample draws as many images as there are, with repetition. It is a row of whole weights, how often each image is in
it, and its AP that of the data set in which images stand so often. COCO matches detections within an image, so they are
matched once; a resample then only adds up weights. Between two hits precision only falls, so it is looked at where hits
are. Legend: I images, K classes, T IoU thresholds, R resamples, M detections, C the whole and
then the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int32

from onestage.evaluation.coco_matching import coco_matches
from onestage.evaluation.voc import assign_detections
from onestage.structures import DetectionTable, GroundTruth

IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # COCO's
RECALLS = np.linspace(0.0, 1.0, 101)  # the same
VALUES_AT_ONCE = 1 << 20  # 8 MB an array, which stay near the processor


@dataclass(frozen=True)
class Counts:
    """Hits, false positives and objects of each image and class, by VOC's protocol: IoU 0.5, above score thresholds."""

    hits: Float[np.ndarray, "I K"]
    wrong: Float[np.ndarray, "I K"]
    objects: Float[np.ndarray, "I K"]

    @property
    def f1_by_image(self) -> Float[np.ndarray, " I"]:
        """2 hits / (2 hits + mistakes), over all classes; 1 for an empty image without detections."""
        hits, others = self.hits.sum(axis=1), (self.wrong + self.objects).sum(axis=1)
        return np.where(hits + others == 0, 1.0, 2 * hits / np.maximum(1, hits + others))

    @property
    def mistakes_by_image(self) -> Float[np.ndarray, " I"]:
        """False positives and missed objects."""
        return (self.wrong + self.objects - self.hits).sum(axis=1)

    def f1(self, weights: Int32[np.ndarray, "R I"]) -> Float[np.ndarray, "C R"]:
        """F1 over all objects, then by class; NaN where there are neither objects nor detections."""
        drawn = weights.astype(np.float64)  # BLAS multiplies no integers
        hits, wrong, objects = ((drawn @ counts).T for counts in (self.hits, self.wrong, self.objects))
        by_class, below = 2 * hits, hits + wrong + objects  # (K, R)
        above, below = (np.concatenate([one.sum(axis=0)[None], one]) for one in (by_class, below))
        return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def count_objects(truth: GroundTruth, found: DetectionTable, score_thresholds: Float[np.ndarray, " K"]) -> Counts:
    """Count hits, false positives and objects. Detections count whose score is above their class's threshold."""
    kept = found.scores > score_thresholds[found.labels]
    found = DetectionTable(found.image_index[kept], found.labels[kept], found.scores[kept], found.boxes_xyxy[kept])
    assigned, shape = assign_detections(truth, found), (truth.num_images, len(score_thresholds))

    def counted(rows: GroundTruth | DetectionTable, chosen: np.ndarray) -> Float[np.ndarray, "I K"]:
        keys = rows.image_index[chosen] * shape[1] + rows.labels[chosen]
        return np.bincount(keys, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)

    return Counts(counted(found, assigned.hit), counted(found, assigned.false_positive), counted(truth, ~truth.ignored))


def draw_resamples(num_images: int, resamples: int, seed: int = 0) -> Int32[np.ndarray, "D I"]:
    """How often each image is in each resample; the first row is the data set itself."""
    drawn = np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    return np.concatenate([np.ones((1, num_images), dtype=np.int32), drawn.astype(np.int32)])


def average_precision(
    truth: GroundTruth,
    found: DetectionTable,
    num_classes: int,
    weights: Int32[np.ndarray, "R I"],
    *,
    iou_thresholds: Sequence[float] = IOUS,
    advance: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "K T R"]:
    """COCO's AP of each class at each IoU threshold, where image i stands `weights[r, i]` times in the data set.

    NaN for a class without objects (crowds aside) in a resample. `advance` is called after each class.
    """
    matches = coco_matches(truth, found, num_classes, iou_thresholds)
    bounds = np.searchsorted(matches.labels, np.arange(num_classes + 1))
    by_image = np.ascontiguousarray(weights.T)  # sums run along the first axis, resamples side by side
    result = np.empty((num_classes, len(iou_thresholds), len(weights)))
    for label in range(num_classes):
        rows = slice(bounds[label], bounds[label + 1])
        columns = matches.image_index[rows], matches.hit[rows], matches.ignored[rows]
        objects = truth.image_index[(truth.labels == label) & ~truth.ignored]
        at_once = max(1, VALUES_AT_ONCE // max(1, len(columns[0])))
        for first in range(0, len(weights), at_once):
            part = slice(first, first + at_once)
            result[label, :, part] = _of_class(*columns, objects, by_image[:, part])
        advance()
    return result


def _of_class(
    image_index: np.ndarray, hit: np.ndarray, ignored: np.ndarray, objects: np.ndarray, weights: np.ndarray
) -> Float[np.ndarray, "T R"]:
    """AP of a class by its detections, best first, the images of its objects, and the weights of images (I, R)."""
    result = np.full((hit.shape[1], weights.shape[1]), np.nan)
    num_objects = weights[objects].sum(axis=0)  # (R,)
    known = np.flatnonzero(num_objects)
    weights, num_objects = weights[:, known], num_objects[known]
    last = 1 + np.flatnonzero(hit.any(axis=1)).max(initial=-1)  # what follows the last hit changes nothing
    of_detection = weights[image_index[:last]]  # (M, R)
    detections = np.cumsum(of_detection, axis=0, dtype=np.int32)
    for threshold in range(len(result)):
        hits, crowds = (np.flatnonzero(which[:last, threshold]) for which in (hit, ignored))
        true = np.cumsum(of_detection[hits], axis=0, dtype=np.int32)
        counted = detections[hits]
        if len(crowds):
            before = np.concatenate(
                [np.zeros((1, len(known)), np.int32), np.cumsum(of_detection[crowds], axis=0, dtype=np.int32)]
            )
            counted = counted - before[np.searchsorted(crowds, hits)]
        best = np.maximum.accumulate((true / np.maximum(1, counted))[::-1])[::-1]  # at this recall or beyond
        reached = np.searchsorted(RECALLS, true / num_objects, side="right")  # how many recalls, after each hit
        newly = np.diff(reached, axis=0, prepend=np.zeros((1, len(known)), dtype=reached.dtype))
        result[threshold, known] = (best * newly).sum(axis=0) / len(RECALLS)
    return result
