"""Objects keep their numbers from frame to frame."""

from __future__ import annotations

import sys

import pytest
import torch

from onestage.errors import UserError
from onestage.inference.object_tracking import ObjectTracker
from onestage.structures import Detections

NAMES = ("car", "dog")


def found(*boxes_xyxy: tuple[float, float, float, float], scores: tuple[float, ...]) -> Detections:
    boxes = torch.tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores), torch.arange(len(boxes)), NAMES)


def test_two_objects_that_move_keep_a_number_each_and_their_class() -> None:
    tracker = ObjectTracker(frame_rate=10.0, score_threshold=0.5)
    seen: dict[int, set[int]] = {0: set(), 1: set()}
    for frame in range(12):
        x = 5.0 * frame
        tracked = tracker.update(found((x, 10, x + 40, 50), (200 - x, 80, 240 - x, 120), scores=(0.9, 0.6)))
        for label, track in zip(tracked.labels.tolist(), tracked.track_ids.tolist(), strict=True):
            seen[label].add(track)
    assert len(seen[0]) == len(seen[1]) == 1
    assert seen[0] != seen[1]
    assert len(tracked) == 2
    assert tracked.scores.tolist() == pytest.approx([0.9, 0.6])
    assert tracked.names == NAMES


def test_an_object_hidden_for_a_moment_keeps_its_number() -> None:
    tracker = ObjectTracker(frame_rate=10.0, score_threshold=0.5)
    tracks: list[int] = []
    for frame in range(12):
        hidden = frame in (5, 6)
        tracked = tracker.update(found(*(() if hidden else ((10, 10, 50, 50),)), scores=() if hidden else (0.9,)))
        tracks += tracked.track_ids.tolist()
    assert len(set(tracks)) == 1
    assert len(tracks) >= 8


def test_frames_without_objects_have_no_tracks() -> None:
    tracker = ObjectTracker(frame_rate=10.0, score_threshold=0.5)
    assert [len(tracker.update(found(scores=()))) for _ in range(3)] == [0, 0, 0]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match="pip install --no-deps trackers"):
        ObjectTracker(frame_rate=10.0, score_threshold=0.5)
