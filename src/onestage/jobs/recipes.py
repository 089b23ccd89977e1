"""List the recipes that come with the package."""

from onestage.recipes import RECIPES, RecipeSummary, summary
from onestage.terminal import Display, command_display


def list_recipes(*, display: Display | None = None) -> list[RecipeSummary]:
    """Print and return every recipe with its expected result, the source of that, and our measured result."""
    display = command_display(display)
    summaries = [summary(name) for name in RECIPES]
    for one in summaries:
        display.say(one.name, f"  {one.what}", f"  expected  {one.expected}", f"  measured  {one.measured}")
    display.say("onestage train DATA --recipe NAME")
    return summaries
