"""The vectorised VOC protocol against the plain loop that the development kit describes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onestage.evaluation import voc
from onestage.evaluation.voc import assign_detections
from onestage.structures import DetectionTable, GroundTruth


def random_tables(seed: int, num_objects: int, num_detections: int) -> tuple[GroundTruth, DetectionTable]:
    """Two images, two classes, whole-pixel boxes close together, so that overlaps and ties are frequent."""
    rng = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        corner = rng.integers(0, 6, (count, 2))
        return np.concatenate([corner, corner + rng.integers(1, 7, (count, 2))], axis=1).astype(np.float64)

    truth = GroundTruth(
        num_images=2,
        image_index=rng.integers(0, 2, num_objects),
        labels=rng.integers(0, 2, num_objects),
        boxes_xyxy=boxes(num_objects),
        ignored=rng.random(num_objects) < 0.3,
        areas=np.ones(num_objects),
    )
    scores = rng.integers(0, 5, num_detections) / 4
    image_index, labels = rng.integers(0, 2, num_detections), rng.integers(0, 2, num_detections)
    return truth, DetectionTable(image_index, labels, scores, boxes(num_detections))


def judged_one_by_one(truth: GroundTruth, found: DetectionTable, threshold: float) -> list[str]:
    verdicts = ["false positive"] * len(found.scores)
    taken: set[int] = set()
    for d in sorted(range(len(found.scores)), key=lambda d: -found.scores[d]):
        best_iou, best = 0.0, -1
        for t in range(len(truth.labels)):
            if truth.labels[t] != found.labels[d] or truth.image_index[t] != found.image_index[d]:
                continue
            a, b = truth.boxes_xyxy[t], found.boxes_xyxy[d]
            overlap = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
            if overlap / union > best_iou:
                best_iou, best = overlap / union, t
        enough = best_iou >= threshold and best >= 0  # VOCevaldet.m: ovmax>=VOCopts.minoverlap
        if enough and truth.ignored[best]:
            verdicts[d] = "ignored"
        elif enough and best not in taken:
            verdicts[d] = "hit"
            taken.add(best)
    return verdicts


@given(
    seed=st.integers(0, 10_000),
    num_objects=st.integers(0, 12),
    num_detections=st.integers(0, 20),
    threshold=st.sampled_from([0.0, 0.3, 0.5]),
    at_once=st.sampled_from([1, 3, 1000]),
)
def test_assignments_equal_the_plain_loop_of_the_protocol(
    seed: int, num_objects: int, num_detections: int, threshold: float, at_once: int
) -> None:
    truth, found = random_tables(seed, num_objects, num_detections)
    before = voc.PAIRS_AT_ONCE
    voc.PAIRS_AT_ONCE = at_once
    try:
        assigned = assign_detections(truth, found, threshold)
    finally:
        voc.PAIRS_AT_ONCE = before
    words = np.where(assigned.hit, "hit", np.where(assigned.ignored, "ignored", "false positive"))
    assert words.tolist() == judged_one_by_one(truth, found, threshold)
