"""What a measurement means for its user: the figures at the thresholds, the kinds of mistakes, and where they are."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from onestage.evaluation.at_thresholds import AtThresholds, count_at_thresholds, share, wilson_interval
from onestage.evaluation.by_attribute import Part, by_attribute
from onestage.evaluation.calibration import ScoresMean, what_scores_mean
from onestage.evaluation.mistakes import KINDS, Tide, tide
from onestage.runtime.calibration import ScoreCalibration
from onestage.structures import Categories, DetectionTable, GroundTruth


@dataclass(frozen=True)
class Explained:
    """The parts of the report beyond average precision; `as_json` is what they add to `metrics.json`."""

    at: AtThresholds
    tide: Tide
    by: dict[str, list[Part]]
    scores_mean: ScoresMean

    def as_json(self, categories: Categories) -> dict[str, Any]:
        """`at_thresholds`, `mistakes`, `confusion`, `by`, `calibration`; None for a value that does not exist."""
        at, names = self.at, categories.names
        of_classes = _columns(at.objects, at.hits, at.false_alarms)
        of_classes = {"score_threshold": at.score_thresholds, **of_classes}
        kinds = [dict(zip(KINDS, row, strict=True)) for row in at.kinds.tolist()]
        per_class = {
            name: {**{key: _plain(column[row]) for key, column in of_classes.items()}, "mistakes": kinds[row]}
            for row, name in enumerate(names)
        }
        whole = _columns(*(column.sum(keepdims=True) for column in (at.objects, at.hits, at.false_alarms)))
        rows, columns = np.nonzero(at.confusion)
        counts = at.confusion[rows, columns]
        labelled = (*names, None)  # None: background
        return {
            "at_thresholds": {**{key: _plain(column[0]) for key, column in whole.items()}, "per_class": per_class},
            "mistakes": {
                "count": dict(zip(KINDS, at.kinds.sum(axis=0).tolist(), strict=True)),
                "ap50": _plain(self.tide.ap50),
                "ap50_gain": {kind: _plain(gain) for kind, gain in zip(KINDS, self.tide.gain, strict=True)},
            },
            "confusion": [
                {"object": labelled[rows[one]], "detected_as": labelled[columns[one]], "count": int(counts[one])}
                for one in np.argsort(-counts, kind="stable").tolist()
            ],
            "by": {name: [_part_json(part) for part in parts] for name, parts in self.by.items()},
            "calibration": self.scores_mean.as_json(),
        }


def explain(
    truth: GroundTruth,
    found: DetectionTable,
    categories: Categories,
    score_thresholds: Float[np.ndarray, " K"],
    anchor_iou: Float[np.ndarray, " N"] | None = None,
    calibration: ScoreCalibration | None = None,
) -> Explained:
    """Judge the detections at the score threshold of each class, and tell mistakes apart.

    `anchor_iou` is each object's IoU with the best anchor (`anchors.best_anchor_iou`); None leaves that part out.
    `calibration` is the model's, if it has one.
    """
    at = count_at_thresholds(truth, found, score_thresholds)
    parts = by_attribute(truth, found, at, anchor_iou)
    return Explained(at, tide(truth, found, len(categories)), parts, what_scores_mean(truth, found, calibration))


def _columns(objects: np.ndarray, hits: np.ndarray, false_alarms: np.ndarray) -> dict[str, np.ndarray]:
    marks = hits + false_alarms
    return {
        "objects": objects,
        "hits": hits,
        "false_alarms": false_alarms,
        "recall": share(hits, objects),
        "precision": share(hits, marks),
        "f1": share(2 * hits, objects + marks),
        "recall_95": wilson_interval(hits, objects),
        "precision_95": wilson_interval(hits, marks),
    }


def _part_json(part: Part) -> dict[str, Any]:
    known = {"part": part.name, "objects": part.objects, "recall": part.hits / part.objects}
    return {**known, "recall_95": list(part.recall_95), "ap50": _plain(part.ap50)}


def _plain(value: Any) -> Any:
    """A number, or a list of them, for JSON, which has no NaN."""
    value = np.asarray(value).tolist()
    return None if isinstance(value, float) and math.isnan(value) else value
