"""The recipe made for data, fitted to the minutes of a run: a smaller input and smaller batches, where these are few.

A detector that starts from ImageNet weights learns more from many small images, in many steps, than from few large
ones; docs/ledger.md, "The made recipe", has the runs that say so.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

from onestage.compute.device import choose_compute
from onestage.data.table import Table
from onestage.detectors import build
from onestage.input_size import typical_input_hw
from onestage.recipes.smaller_inputs import smaller_inputs
from onestage.training.batch_size import scaled_rate, seconds_of_a_step
from onestage.training.optimizer import freeze_untrained
from onestage.training.recipe import Recipe

WANTED_IMAGES, WANTED_STEPS = 7_500, 1_000  # of a run
SMALLEST_BATCH = 8


def fitted_to_minutes(
    recipe: Recipe,
    *,
    minutes: float | None,
    table: Table,
    device: str | None,
    asked: Collection[str],
    ranks: int = 1,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Settings that let a run of so many minutes see enough images, in enough steps, by the time of a trial step.

    Args:
        minutes: None for a run that counts steps or epochs: nothing changes.
        table: the training images.
        asked: settings that the user wants as they are.
        ranks: processes that share a step.
    """
    if minutes is None or {"batch_size", "learning_rate"} & set(asked):
        return {}
    compute = choose_compute(device, recipe.precision)
    detector = build(recipe.detector, len(table.categories), config=recipe.network)
    freeze_untrained(detector, recipe)
    seconds = seconds_of_a_step(detector, compute, max(2, recipe.batch_size // ranks))
    if seconds is None:  # memory runs out, which the run will say
        return {}
    images, changes, reasons = 60 * minutes * recipe.batch_size / seconds, dict[str, Any](), list[str]()
    before = images
    if not {"image_size", "edges"} & set(asked) and recipe.tile is None:
        usual = recipe.network.input_resize
        for side in smaller_inputs(table, recipe.network):
            if images >= WANTED_IMAGES:
                break
            images = before * math.prod(typical_input_hw(usual)) / side**2
            changes["image_size"] = side
        if changes:
            reasons.append("an input of {0} x {0}, not {1}".format(changes["image_size"], usual))
    batch_size = recipe.batch_size
    while images / batch_size < WANTED_STEPS and batch_size // 2 >= SMALLEST_BATCH:
        batch_size //= 2
    if batch_size != recipe.batch_size:
        rate = scaled_rate(recipe.optimizer, recipe.learning_rate, batch_size / recipe.batch_size)
        changes |= {"batch_size": batch_size, "learning_rate": round(rate, 6)}
        reasons.append(f"batches of {batch_size}, not {recipe.batch_size}, at a rate of {rate:.2g}")
    if reasons:
        say(
            f"{minutes:g} minutes are some {before:,.0f} images here, which is few: {' and '.join(reasons)} let "
            f"the detector see {images:,.0f} in {images / batch_size:,.0f} steps"
        )
    return changes
