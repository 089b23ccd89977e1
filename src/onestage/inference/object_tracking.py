"""Follows objects from frame to frame: ByteTrack (Zhang et al., ECCV 2022, arXiv 2110.06864) from the package trackers.

trackers requires opencv-python, which would replace opencv-python-headless and fails where a desktop's libraries are
missing. So it is installed without its requirements; the extra `track` brings the others.
"""

from dataclasses import replace

import numpy as np
import torch

from onestage.errors import UserError
from onestage.structures import Detections

INSTALL = "pip install 'onestage[track]' && pip install --no-deps trackers"


class ObjectTracker:
    """Gives each object a number that it keeps while it is seen. One tracker follows one video, frame by frame."""

    def __init__(self, frame_rate: float, score_threshold: float) -> None:
        """Begin with an empty memory. Needs the package trackers, or raises `UserError`.

        Args:
            frame_rate: frames a second. An object that was not seen for a second is forgotten.
            score_threshold: detections with a score above it begin new tracks.
        """
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise UserError(f"tracking needs the package trackers: {INSTALL}") from error
        self._tracker = ByteTrackTracker(
            frame_rate=frame_rate, track_activation_threshold=score_threshold, high_conf_det_threshold=score_threshold
        )

    def update(self, found: Detections) -> Detections:
        """Those of the next frame's detections that belong to a track, with its number in `track_ids`."""
        detections = found.to_supervision()
        detections.data["row"] = np.arange(len(found))
        followed = self._tracker.update(detections)
        if len(followed) == 0:
            return replace(found[[]], track_ids=torch.zeros(0, dtype=torch.int64))
        track_ids, rows = torch.from_numpy(np.array([followed.tracker_id, followed.data["row"]], dtype=np.int64))
        confirmed = track_ids >= 0  # -1 until an object was seen often enough
        best_first = rows[confirmed].sort()
        return replace(found[best_first.values], track_ids=track_ids[confirmed][best_first.indices])
