"""How well objects of each size, shape and crowding are found, and those that the anchors fit well or badly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int64

from onestage.evaluation.at_thresholds import AtThresholds, wilson_interval
from onestage.evaluation.voc import assign_detections, pairs, results_by_class
from onestage.structures import DetectionTable, GroundTruth

ASPECT_EDGES = (1 / 3, 3 / 4, 4 / 3, 3.0)  # width / height
ASPECT_NAMES = ("very tall (w/h to 1/3)", "tall", "about square", "wide", "very wide (w/h above 3)")
CROWDING_EDGES, CROWDING_NAMES = (0.5, 2.5, 5.5), ("alone", "1 or 2 near", "3 to 5 near", "6 or more near")
NEAR = 0.25  # of an object's width and height, on each side: another one that reaches in there is near
ANCHOR_EDGES = (0.5, 0.65, 0.8)  # IoU with the best anchor of the same centre
ANCHOR_NAMES = ("IoU below 0.5", "0.5 to 0.65", "0.65 to 0.8", "above 0.8")


@dataclass(frozen=True)
class Part:
    """The objects of one size, say: how many of them are found at the thresholds, and AP as if there were no others."""

    name: str
    objects: int
    hits: int
    recall_95: tuple[float, float]
    ap50: float  # VOC, area, mean over the classes with such objects; NaN where it says nothing


def by_attribute(
    truth: GroundTruth,
    found: DetectionTable,
    at: AtThresholds,
    anchor_iou: Float[np.ndarray, " N"] | None = None,
) -> dict[str, list[Part]]:
    """The parts of the objects by "size", "aspect" and "crowding", and by "anchors" where their fit is given.

    Sizes are sqrt(width * height) in pixels of the original images, cut so that each part has a third of the objects.
    AP counts the false positives whose own box is of the part. `anchor_iou` is each object's IoU with the anchor that
    fits it best; a false positive has none, so there is no AP.
    """
    counted = ~truth.ignored
    if not counted.any():
        return {}
    assigned = assign_detections(truth, found)
    found_objects = at.is_found

    def parts(names: Sequence[str], of_objects: np.ndarray, of_detections: np.ndarray | None) -> list[Part]:
        listed = []
        for number, name in enumerate(names):
            inside = counted & (of_objects == number)
            objects, hits = int(inside.sum()), int((inside & found_objects).sum())
            if not objects:
                continue
            low, high = wilson_interval(np.array([hits]), np.array([objects]))[0].tolist()
            ap50 = float("nan")
            if of_detections is not None:
                some = GroundTruth(**{**vars(truth), "ignored": ~inside})
                hit = assigned.hit & inside[assigned.object_row]
                wrong = assigned.false_positive & (of_detections == number)
                ap50 = results_by_class(some, found, hit, wrong, len(at.objects)).map_area
            listed.append(Part(name, objects, hits, (low, high), ap50))
        return listed

    def both(names: Sequence[str], edges: Sequence[float], value: Callable[[np.ndarray], np.ndarray]) -> list[Part]:
        return parts(
            names, *(np.digitize(value(boxes), edges, right=True) for boxes in (truth.boxes_xyxy, found.boxes_xyxy))
        )

    objects_as_found = DetectionTable(truth.image_index, truth.labels, np.ones(len(counted)), truth.boxes_xyxy)
    near = (_near(truth, objects_as_found) - 1, _near(truth, found))  # an object is near itself
    edges = np.unique(np.quantile(_side(truth.boxes_xyxy[counted]), [1 / 3, 2 / 3]).round()).tolist()
    listed = {
        "size": both(_size_names(edges), edges, _side),
        "aspect": both(ASPECT_NAMES, ASPECT_EDGES, _aspect),
        "crowding": parts(CROWDING_NAMES, *(np.digitize(count, CROWDING_EDGES) for count in near)),
    }
    if anchor_iou is not None:
        listed["anchors"] = parts(ANCHOR_NAMES, np.digitize(anchor_iou, ANCHOR_EDGES), None)
    return listed


def _side(boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    return np.sqrt((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(min=0).prod(axis=1))


def _aspect(boxes_xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    width, height = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(min=1e-9).T
    return width / height


def _size_names(edges: Sequence[float]) -> list[str]:
    """As "up to 31 px", "31 to 60 px", "above 60 px"."""
    bounds = [f"{edge:.0f}" for edge in edges]
    between = [f"{low} to {high} px" for low, high in pairwise(bounds)]
    return [f"up to {bounds[0]} px", *between, f"above {bounds[-1]} px"]


def _near(truth: GroundTruth, boxes: DetectionTable) -> Int64[np.ndarray, " M"]:
    """How many objects of its image each box touches when it is grown by `NEAR` on all sides."""
    count = np.zeros(len(boxes.scores), dtype=np.int64)
    margin = NEAR * np.tile(boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2], (1, 2)) * (-1, -1, 1, 1)
    grown = boxes.boxes_xyxy + margin
    for rows, objects in pairs(truth, boxes, of_one_class=False):
        box, other = grown[rows], truth.boxes_xyxy[objects]
        touches = (box[:, :2] <= other[:, 2:]).all(axis=1) & (other[:, :2] <= box[:, 2:]).all(axis=1)
        count += np.bincount(rows[touches], minlength=len(count))
    return count
