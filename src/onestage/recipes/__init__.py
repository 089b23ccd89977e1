"""Recipes: each paper's and each data set's settings, stated as values.

A recipe is a function that returns the whole configuration. Its docstring says what is trained on what, in its first
line, and has the result to expect with its source ("Expected:") and the one that we measured ("Ours:").
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onestage.errors import UserError
from onestage.recipes.default import DEFAULT_DETECTOR, default_recipe
from onestage.recipes.gfl import gfl_r50_coco
from onestage.recipes.m2det import (
    m2det320_vgg16_coco,
    m2det512_vgg16_coco,
    m2det512_vgg16_voc0712,
    m2det800_vgg16_coco,
)
from onestage.recipes.recipe_file import as_toml, read_recipe
from onestage.recipes.retinanet import retinanet_r50_coco, retinanet_r50_voc0712
from onestage.recipes.ssd import ssd300_coco, ssd300_voc0712, ssd512_coco, ssd512_voc0712
from onestage.recipes.tiles import Tile, tiles_for, tiling_for
from onestage.training.recipe import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    "ssd300-voc0712": ssd300_voc0712,
    "ssd512-voc0712": ssd512_voc0712,
    "ssd300-coco": ssd300_coco,
    "ssd512-coco": ssd512_coco,
    "retinanet-r50-coco": retinanet_r50_coco,
    "retinanet-r50-voc0712": retinanet_r50_voc0712,
    "gfl-r50-coco": gfl_r50_coco,
    "m2det320-vgg16-coco": m2det320_vgg16_coco,
    "m2det512-vgg16-coco": m2det512_vgg16_coco,
    "m2det800-vgg16-coco": m2det800_vgg16_coco,
    "m2det512-vgg16-voc0712": m2det512_vgg16_voc0712,
}

__all__ = [
    "DEFAULT_DETECTOR",
    "RECIPES",
    "RecipeSummary",
    "Tile",
    "as_toml",
    "default_recipe",
    "named_recipe",
    "read_recipe",
    "summary",
    "tiles_for",
    "tiling_for",
]


def named_recipe(name: str, detector: str | None = None) -> Recipe:
    """The recipe of that name, or of a TOML file, which may leave the detector to the caller.

    Raises:
        UserError: none is called so, or the file does not fit.
    """
    return read_recipe(Path(name), detector) if name.endswith(".toml") else _maker(name)()


@dataclass(frozen=True)
class RecipeSummary:
    """What a recipe's docstring says of it."""

    name: str
    what: str
    expected: str  # with its source
    measured: str  # ours; "not run" where nobody has


def summary(name: str) -> RecipeSummary:
    """What the recipe of that name trains, and how well.

    Raises:
        UserError: none is called so.
    """
    text = inspect.getdoc(_maker(name)) or ""
    expected, _, measured = text.partition("Expected:")[2].partition("Ours:")
    return RecipeSummary(name, text.partition("\n")[0], *(" ".join(part.split()) for part in (expected, measured)))


def _maker(name: str) -> Callable[[], Recipe]:
    path = Path(name)
    if name not in RECIPES and path.exists():
        beside = (path if path.is_dir() else path.parent) / "recipe.toml"
        raise UserError(f"recipe {name}: expected a TOML file, as a run has it: {beside}")
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.3) or list(RECIPES)
        raise UserError(f"recipe {name!r}: unknown; the nearest is {near[0]!r}, all are {', '.join(RECIPES)}")
    return RECIPES[name]
