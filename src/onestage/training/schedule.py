"""The learning rate over a run, as a factor of the recipe's rate."""

from __future__ import annotations

import math

from onestage.training.recipe import Recipe

WARMUP_START = 0.01
ONE_CYCLE_RISE = 0.15  # Smith & Topin 2017 (arXiv 1708.07120): a rise, then a long fall far below where it began
FINAL = 0.01


def learning_rate_factor(recipe: Recipe, step: int, progress: float) -> float:
    """The factor on the recipe's learning rate.

    Args:
        recipe: names the schedule.
        step: the number of steps done, which the warm-up counts.
        progress: the part of the run that is done, 0 to 1, which the schedule follows.
    """
    warmup = _warmup(step, recipe.warmup_steps)
    if recipe.schedule == "steps":
        return warmup * _steps(progress, recipe.milestones, recipe.milestone_factors)
    return warmup * (_cosine(progress) if recipe.schedule == "cosine" else _one_cycle(progress))


def _warmup(step: int, warmup_steps: int) -> float:
    if step >= warmup_steps:
        return 1.0
    return WARMUP_START + (1 - WARMUP_START) * step / warmup_steps


def _steps(progress: float, milestones: tuple[float, ...], factors: tuple[float, ...] | None) -> float:
    passed = sum(progress >= milestone for milestone in milestones)
    if factors is None or passed == 0:
        return 0.1**passed
    return factors[passed - 1]


def _cosine(progress: float) -> float:
    return _half_cosine(1.0, FINAL, progress)


def _one_cycle(progress: float) -> float:
    if progress < ONE_CYCLE_RISE:
        return _half_cosine(0.04, 1.0, progress / ONE_CYCLE_RISE)
    return _half_cosine(1.0, FINAL, (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
