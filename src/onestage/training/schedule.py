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
    return _warmup(step, recipe.warmup_steps) * _SCHEDULES[recipe.schedule](progress, recipe.milestones)


def _warmup(step: int, warmup_steps: int) -> float:
    if step >= warmup_steps:
        return 1.0
    return WARMUP_START + (1 - WARMUP_START) * step / warmup_steps


def _steps(progress: float, milestones: tuple[float, ...]) -> float:
    return 0.1 ** sum(progress >= milestone for milestone in milestones)


def _cosine(progress: float, milestones: tuple[float, ...]) -> float:
    return _half_cosine(1.0, FINAL, progress)


def _one_cycle(progress: float, milestones: tuple[float, ...]) -> float:
    if progress < ONE_CYCLE_RISE:
        return _half_cosine(0.04, 1.0, progress / ONE_CYCLE_RISE)
    return _half_cosine(1.0, FINAL, (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2


_SCHEDULES = {"steps": _steps, "cosine": _cosine, "one_cycle": _one_cycle}
