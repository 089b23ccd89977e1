"""When a run ends and is evaluated. Expected values: by hand."""

import pytest

from onestage.training.pacing import REPORT_SECONDS, Pacing
from onestage.training.recipe import Recipe
from onestage.training.saved_state import Position


def minutes(minutes: float = 30.0, val: int = 100, test: int = 300) -> Pacing:
    return Pacing(Recipe(minutes=minutes, evaluations=8), steps_per_epoch=10, val_inputs=val, test_inputs=test)


def test_steps_evaluate_evenly_however_long_it_takes() -> None:
    pacing = Pacing(Recipe(steps=80, evaluations=8), steps_per_epoch=10, val_inputs=100, test_inputs=100)

    def due(step: int, evaluations: int = 0) -> bool:
        slow = Position(step, evaluations=evaluations, evaluation_seconds=900.0, longest_evaluation_seconds=900.0)
        return pacing.evaluation_due(slow)

    assert not due(9)
    assert due(10)
    assert not due(19, evaluations=1)
    assert due(20, evaluations=1)


def test_an_epoch_is_as_many_steps_as_it_has() -> None:
    pacing = Pacing(Recipe(epochs=4.0), steps_per_epoch=10, val_inputs=1, test_inputs=1)
    assert pacing.progress(Position(step=10)) == 0.25
    assert pacing.progress(Position(step=41)) == 1.0


def test_minutes_leave_time_for_the_last_evaluations_by_the_pace_of_those_before() -> None:
    # 1,800 s; 10 before the first step; 100 images took 25 s, so the 400 of both splits will take 100
    position = Position(set_up_seconds=10.0, evaluation_seconds=25.0, longest_evaluation_seconds=25.0)
    end = 1800.0 - 10.0 - 100.0 - REPORT_SECONDS
    position.seconds = end - 25.0 - 1.0
    assert minutes().progress(position) == pytest.approx((end - 1.0) / end)
    position.seconds += 1.0
    assert minutes().progress(position) == 1.0


def test_before_an_evaluation_its_pace_is_that_of_training_at_half_the_time() -> None:
    # 0.2 s an image in training, so 0.1 s in an evaluation, 40 s for both splits
    position = Position(seconds=878.0, images=4390)
    assert minutes().progress(position) == pytest.approx(878.0 / (1800.0 - 40.0 - REPORT_SECONDS))


def test_a_large_test_set_leaves_half_of_the_minutes_to_training() -> None:
    position = Position(seconds=450.0, images=2250)
    assert minutes(test=1_000_000).progress(position) == 0.5


@pytest.mark.parametrize(
    ("seconds", "evaluations", "spent", "longest", "due"),
    [
        (200.0, 0, 0.0, 0.0, False),  # before an eighth of the run
        (300.0, 0, 0.0, 0.0, True),  # 100 images at half of 0.2 s: 10 s are less than a twentieth of 300
        (600.0, 1, 10.0, 10.0, True),  # 20 seconds after it
        (600.0, 1, 20.0, 20.0, False),  # 40 seconds: more than a twentieth of 600
        (800.0, 1, 20.0, 20.0, True),
        (1649.0, 6, 20.0, 20.0, True),  # of 1,710 seconds before the end 41 are left,
        (1651.0, 6, 20.0, 20.0, False),  # or 39, of which this evaluation would take 20: the last one comes soon
        (1800.0, 6, 900.0, 150.0, True),  # the last one at any price: the run would end without
        (1800.0, 8, 900.0, 150.0, False),
    ],
)
def test_minutes_spend_a_twentieth_on_evaluations_before_the_end(
    seconds: float, evaluations: int, spent: float, longest: float, due: bool
) -> None:
    position = Position(
        seconds=seconds,
        images=round(seconds * 5),
        evaluations=evaluations,
        evaluation_seconds=spent,
        longest_evaluation_seconds=longest,
    )
    assert minutes().evaluation_due(position) is due
