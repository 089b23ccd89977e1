import pytest

from onestage.errors import UserError
from onestage.training.recipe import Recipe
from onestage.training.schedule import learning_rate_factor


def test_steps_divide_the_rate_by_ten_at_each_milestone() -> None:
    recipe = Recipe(schedule="steps", milestones=(0.5, 0.75))
    factors = [learning_rate_factor(recipe, 1000, progress) for progress in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_steps_take_the_factors_that_are_given() -> None:
    recipe = Recipe(schedule="steps", milestones=(0.5, 0.75), milestone_factors=(0.5, 0.02))
    factors = [learning_rate_factor(recipe, 1000, progress) for progress in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)]
    assert factors == pytest.approx([1, 1, 0.5, 0.5, 0.02, 0.02])
    with pytest.raises(UserError, match="2 milestones, but 1 milestone factors"):
        Recipe(milestones=(0.5, 0.75), milestone_factors=(0.5,))


def test_cosine_falls_from_the_whole_rate_to_a_hundredth() -> None:
    recipe = Recipe(schedule="cosine")
    factors = [learning_rate_factor(recipe, 1000, progress) for progress in (0.0, 0.5, 1.0)]
    assert factors == pytest.approx([1.0, 0.505, 0.01])


def test_one_cycle_rises_first_and_is_continuous_at_its_peak() -> None:
    recipe = Recipe(schedule="one_cycle")
    start, before, after, end = (learning_rate_factor(recipe, 1000, p) for p in (0.0, 0.14999, 0.15001, 1.0))
    assert start == pytest.approx(0.04)
    assert before == pytest.approx(1.0, abs=1e-6)
    assert after == pytest.approx(1.0, abs=1e-6)
    assert end == pytest.approx(0.01)


def test_the_warm_up_multiplies_whatever_the_schedule_says() -> None:
    recipe = Recipe(schedule="steps", milestones=(0.5,), warmup_steps=100)
    factors = [learning_rate_factor(recipe, step, progress) for step, progress in ((0, 0.0), (50, 0.6), (100, 0.0))]
    assert factors == pytest.approx([0.01, 0.505 * 0.1, 1.0])


def test_a_warm_up_by_fraction_follows_the_length_of_the_run() -> None:
    recipe = Recipe(schedule="steps", milestones=(0.5,), warmup=0.1, warmup_start=0.25)
    factors = [learning_rate_factor(recipe, 10**6, progress) for progress in (0.0, 0.05, 0.1, 0.4, 0.5)]
    assert factors == pytest.approx([0.25, 0.625, 1.0, 1.0, 0.1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 500.0}, "warmup is 500; expected a fraction of the run, from 0 and below 1"),
        ({"warmup": 0.1, "warmup_steps": 500}, "warmup is 0.1 of the run and warmup_steps is 500; give one"),
        ({"warmup_start": 1.5}, "warmup_start is 1.5; expected 0 to 1"),
    ],
)
def test_a_warm_up_that_says_nothing_sensible_is_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe(**settings)
