"""Objects keep their numbers from frame to frame."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from onestage.errors import UserError
from onestage.inference.object_tracking import NO_TRACK, ObjectTracker
from onestage.inference.predictor import FramePrediction
from onestage.inference.video import Frame
from onestage.selection import Selection
from onestage.structures import Detections

NAMES = ("car", "dog")
BOX = (10.0, 10.0, 50.0, 50.0)


def found(*boxes_xyxy: tuple[float, float, float, float], scores: tuple[float, ...]) -> Detections:
    boxes = torch.tensor(boxes_xyxy, dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor(scores), torch.arange(len(boxes)), NAMES)


def followed(frames: list[Detections], times_s: list[float] | None = None, rate: float = 10.0) -> list[Detections]:
    """The detections of each frame after tracking; without times, frames come at the rate."""
    times = [index / rate for index in range(len(frames))] if times_s is None else times_s
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    predictions = [
        FramePrediction(Frame(image, index, Fraction(time)), one)
        for index, (one, time) in enumerate(zip(frames, times, strict=True))
    ]
    tracked = list(ObjectTracker(frame_rate=rate, selection=Selection(score_threshold=0.5)).follow(predictions))
    assert [one.frame for one in tracked] == [one.frame for one in predictions]
    return [one.found for one in tracked]


def ids(tracked: Detections) -> list[int]:
    assert tracked.track_ids is not None
    return tracked.track_ids.tolist()


def test_two_objects_that_move_keep_a_number_each_and_their_class_from_their_first_frame_on() -> None:
    boxes = [((x, 10, x + 40, 50), (200 - x, 80, 240 - x, 120)) for x in range(0, 60, 5)]
    tracked = followed([found(*pair, scores=(0.9, 0.6)) for pair in boxes])
    assert [len(one) for one in tracked] == [2] * 12
    first, second = ids(tracked[0])
    assert first != second
    assert min(first, second) >= 0
    assert [ids(one) for one in tracked] == [[first, second]] * 12
    assert [one.labels.tolist() for one in tracked] == [[0, 1]] * 12
    assert tracked[-1].scores.tolist() == pytest.approx([0.9, 0.6])
    assert tracked[-1].names == NAMES


def test_an_object_that_comes_later_has_its_number_in_its_first_frame() -> None:
    other = (100.0, 10.0, 140.0, 50.0)
    tracked = followed([found(BOX, scores=(0.9,))] * 3 + [found(BOX, other, scores=(0.9, 0.8))] * 3)
    numbers = ids(tracked[-1])
    assert len(set(numbers)) == 2
    assert [ids(one) for one in tracked] == [numbers[:1]] * 3 + [numbers] * 3


def test_what_is_seen_in_one_frame_only_is_kept_without_a_number() -> None:
    tracked = followed([found(scores=()), found(BOX, scores=(0.9,)), found(scores=()), found(scores=())])
    assert [ids(one) for one in tracked] == [[], [NO_TRACK], [], []]
    (row,) = tracked[1].to_dict()
    assert "track_id" not in row


def test_an_object_hidden_for_a_moment_keeps_its_number() -> None:
    seen, hidden = found(BOX, scores=(0.9,)), found(scores=())
    tracked = followed([seen] * 5 + [hidden] * 2 + [seen] * 5)
    assert {track for one in tracked for track in ids(one)} == {0}
    assert [len(one) for one in tracked] == [1] * 5 + [0] * 2 + [1] * 5


def test_detections_below_the_threshold_go_on_with_a_track_and_begin_none() -> None:
    """Zhang et al., section 3: low detections are matched to the tracks that the high ones left over."""
    high, low = found(BOX, scores=(0.9,)), found(BOX, scores=(0.2,))
    tracked = followed([low] * 3 + [high] * 3 + [low] * 3 + [high] * 2)
    assert [ids(one) for one in tracked] == [[]] * 3 + [[0]] * 8
    assert tracked[7].scores.tolist() == pytest.approx([0.2])


@pytest.mark.parametrize(("away_s", "same"), [(0.8, True), (1.5, False)])
@pytest.mark.parametrize("frames_away", [0, 40])
def test_a_lost_object_is_kept_for_a_second_whatever_the_frames_of_a_live_camera(
    away_s: float, same: bool, frames_away: int
) -> None:
    """Of a camera of 30 frames a second, few are looked at where the network is slow."""
    seen, hidden = found(BOX, scores=(0.9,)), found(scores=())
    gaps = [0.4 + away_s * (step + 1) / (frames_away + 1) for step in range(frames_away)]
    times = [0.0, 0.2, 0.4, *gaps, 0.4 + away_s, 0.6 + away_s]
    tracked = followed([seen] * 3 + [hidden] * frames_away + [seen] * 2, times, rate=30.0)
    assert (ids(tracked[0]) == ids(tracked[-1])) is same


def test_times_that_stand_still_or_fall_do_not_end_tracks() -> None:
    tracked = followed([found(BOX, scores=(0.9,))] * 6, [0.0, 0.1, 0.1, 0.05, 0.2, 0.3])
    assert [ids(one) for one in tracked] == [[0]] * 6


def test_frames_without_objects_have_no_tracks() -> None:
    assert [len(one) for one in followed([found(scores=())] * 3)] == [0, 0, 0]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match="pip install --no-deps trackers"):
        ObjectTracker(frame_rate=10.0, selection=Selection(score_threshold=0.5))
