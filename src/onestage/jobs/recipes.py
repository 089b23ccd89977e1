"""The recipes that come with the package."""

from __future__ import annotations

from onestage.recipes import RECIPES, RecipeSummary, summary
from onestage.terminal import Display


def list_recipes(*, display: Display | None = None) -> list[RecipeSummary]:
    """Print every recipe with the result to expect, its source, and the result measured with this package.

    Args:
        display: where to print.

    Returns:
        What was printed, a recipe each.
    """
    display = display or Display()
    summaries = [summary(name) for name in RECIPES]
    for one in summaries:
        display.say(f"{one.name}\n  {one.what}\n  expected  {one.expected}\n  measured  {one.measured}")
    display.say("onestage train DATA --recipe NAME")
    return summaries
