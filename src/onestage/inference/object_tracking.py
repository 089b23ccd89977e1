"""Follows objects from frame to frame: ByteTrack (Zhang et al., ECCV 2022, arXiv 2110.06864) from the package trackers.

trackers requires opencv-python, which would replace opencv-python-headless and fails where a desktop's libraries are
missing. So it is installed without its requirements; the extra `track` brings the others.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from onestage.errors import UserError
from onestage.inference.predictor import FramePrediction
from onestage.runtime.detections import score_thresholds
from onestage.selection import Selection
from onestage.structures import Detections

INSTALL = "pip install 'onestage[track]' && pip install --no-deps trackers"
LOWEST_SCORE = 0.1  # detections with scores from here on may go on with a track (section 3 of the paper: "low")
NO_TRACK = -1  # in `Detections.track_ids`
SHORTEST_STEP_S = 1e-6  # the tracker wants times that rise


class ObjectTracker:
    """Gives each object a number that it keeps while it is seen. One tracker follows one video, frame by frame."""

    def __init__(self, frame_rate: float, selection: Selection) -> None:
        """Begin with an empty memory. Needs the package trackers, or raises `UserError`.

        Args:
            frame_rate: frames a second. An object that was not seen for a second is forgotten.
            selection: detections with a score above its thresholds begin new tracks, those with a lower one only go on
                with a track that has nothing better.
        """
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise UserError(f"tracking needs the package trackers: {INSTALL}") from error
        least = selection.score_threshold
        self._own_thresholds, self._least, self._time_s = selection.class_thresholds or least, least, 0.0
        self._tracker = ByteTrackTracker(
            frame_rate=frame_rate, track_activation_threshold=least, high_conf_det_threshold=least
        )

    def follow(self, predictions: Iterable[FramePrediction]) -> Iterator[FramePrediction]:
        """The frames with track numbers, each as soon as the next one is known.

        A track gets its number when its object is found a second time, and its first detection gets it, too.
        Detections are kept if their score is above the threshold or they belong to a track.
        """
        waiting: FramePrediction | None = None
        first_of: list[tuple[Any, int]] = []  # tracks that began in the waiting frame, and their rows in it
        for prediction in predictions:
            found, begun = self._update(prediction.found, float(prediction.frame.time))
            if waiting is not None:
                yield self._numbered(waiting, first_of)
            waiting, first_of = replace(prediction, found=found), begun
        if waiting is not None:
            yield self._numbered(waiting, first_of)

    def _update(self, found: Detections, time_s: float) -> tuple[Detections, list[tuple[Any, int]]]:
        """The detections of the next frame with `track_ids`; and the tracks that begin in it, with their rows."""
        self._time_s = max(time_s, self._time_s + SHORTEST_STEP_S)
        detections = found.to_supervision()
        detections.data["row"] = np.arange(len(found))
        # The tracker has one threshold for all classes: scores move by what their class's differs from it.
        detections.confidence = found.scores.numpy() - score_thresholds(self._own_thresholds, found.labels.numpy())
        detections.confidence += self._least
        followed = self._tracker.update(detections, timestamp=self._time_s)
        track_ids = torch.full((len(found),), NO_TRACK)
        if len(followed):
            rows, numbers = torch.from_numpy(np.array([followed.data["row"], followed.tracker_id], dtype=np.int64))
            track_ids[rows] = numbers
        boxes = found.boxes_xyxy.numpy()
        begun = [
            (track, int(np.abs(boxes - track.get_state_bbox()).sum(axis=1).argmin()))
            for track in self._tracker.tracks
            if track.tracker_id == NO_TRACK
        ]
        return replace(found, track_ids=track_ids), begun

    def _numbered(self, prediction: FramePrediction, first_of: list[tuple[Any, int]]) -> FramePrediction:
        found = prediction.found
        assert found.track_ids is not None
        for track, row in first_of:
            found.track_ids[row] = track.tracker_id  # still none if the object was not found again
        own = torch.as_tensor(score_thresholds(self._own_thresholds, found.labels.numpy()))
        return replace(prediction, found=found[(found.scores > own) | (found.track_ids != NO_TRACK)])
