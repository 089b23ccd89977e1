"""The learning rate over a run, as a factor on the recipe's rate."""

import math

from onestage.training.recipe import Recipe

CYCLE_START, CYCLE_RISE = 0.04, 0.15  # Smith & Topin 2017 (arXiv 1708.07120): a rise, then a long fall far below it
FINAL = 0.01


def learning_rate_factor(recipe: Recipe, step: int, progress: float) -> float:
    """The factor on the recipe's rate after `step` steps (for `warmup_steps`) and a part `progress` of the run."""
    warmed, end = (progress, recipe.warmup) if recipe.warmup else (step, recipe.warmup_steps)
    factor = 1.0
    if warmed < end:
        factor = recipe.warmup_start + (1 - recipe.warmup_start) * warmed / end
    if recipe.schedule == "cosine":
        return factor * _half_cosine(1.0, FINAL, progress)
    if recipe.schedule == "one_cycle":
        if progress < CYCLE_RISE:
            return factor * _half_cosine(CYCLE_START, 1.0, progress / CYCLE_RISE)
        return factor * _half_cosine(1.0, FINAL, (progress - CYCLE_RISE) / (1 - CYCLE_RISE))
    passed = sum(progress >= milestone for milestone in recipe.milestones)
    if recipe.milestone_factors is None or passed == 0:
        return factor * 0.1**passed
    return factor * recipe.milestone_factors[passed - 1]


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
