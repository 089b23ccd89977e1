"""Recipes: each paper's and each data set's settings, stated as values.

A recipe is a function that returns the whole configuration, with the result to expect and its source in its docstring.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from onestage.errors import UserError
from onestage.recipes.default import default_recipe
from onestage.recipes.ssd import ssd300_coco, ssd300_voc0712, ssd512_coco, ssd512_voc0712
from onestage.training.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "ssd300-voc0712": ssd300_voc0712,
    "ssd512-voc0712": ssd512_voc0712,
    "ssd300-coco": ssd300_coco,
    "ssd512-coco": ssd512_coco,
}

__all__ = ["RECIPES", "default_recipe", "named_recipe"]


def named_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: none is called so.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.3) or list(RECIPES)
        raise UserError(f"recipe {name!r}: unknown; the nearest is {near[0]!r}, all are {', '.join(RECIPES)}")
    return RECIPES[name]()
