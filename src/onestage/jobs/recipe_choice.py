"""Which recipe a run follows: the one that was named, that of the run that goes on, or one made for the data."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from onestage.data.table import Table
from onestage.jobs.beginning import Beginning
from onestage.recipes import DEFAULT_DETECTOR, Tile, default_recipe, tiling_for
from onestage.terminal import Display
from onestage.training.recipe import Recipe


def choose_recipe(
    recipe: Recipe | None,
    resumed: Recipe | None,
    changes: dict[str, Any],
    table: Table,
    beginning: Beginning,
    tiles: tuple[Tile | None, int | None],
    fit: Callable[..., dict[str, Any]],
    display: Display,
) -> Recipe:
    """The recipe that was named or given; else that of the resumed run; else one made for the data.

    Tiles, and where it is made anchors, follow the input that the changes of the recipe ask for. `fit` gives more
    changes of a recipe that is made, by what the minutes of the run allow.
    """
    detector = changes["detector"]
    if recipe is not None:
        length = resumed or recipe
        recipe = replace(recipe, epochs=length.epochs, steps=length.steps, minutes=length.minutes)
        recipe = beginning.recipe_for(recipe, detector, display)
        tile, overlap = tiles
        if tile is None:
            return recipe
        tiling, reasons = tiling_for(table, recipe.with_settings(changes).network, tile, overlap)
        display.say(*(f"recipe: {reason}" for reason in reasons))
        return recipe.with_tiling(tiling)
    if resumed is not None:
        return resumed
    trained = beginning.start.detector if beginning.start is not None else None
    name = detector or (trained.name if trained is not None else DEFAULT_DETECTOR)
    tile, overlap = tiles
    asked = {setting: value for setting, value in changes.items() if value is not None}
    made = partial(
        default_recipe, name, table, pretrained=beginning.pretrained, start=trained, tile=tile, tile_overlap=overlap
    )
    chosen, reasons = made(settings=asked)
    if trained is None and (fitted := fit(chosen.with_settings(asked), table=table, asked=asked, say=display.say)):
        chosen, reasons = made(settings=asked | fitted)
        chosen = chosen.with_settings(fitted)
    for reason in reasons:
        display.say(f"recipe: {reason}")
    return chosen


def keeps_best(changes: dict[str, Any], recipe: Recipe | None) -> bool:
    """True if images have to choose the weights."""
    return (changes.get("keep") or getattr(recipe, "keep", "best")) == "best"
