"""Tiles as a recipe has them: chosen for a detector and its data, and made of the images that train."""

from typing import Literal, TypeAlias

from onestage.data.decoded_images import DecodedImages
from onestage.data.table import Table
from onestage.data.tiles import choose_tiling, side_of_larger_input, training_tiles
from onestage.detectors import DetectorConfig
from onestage.runtime.tiles import Tiling
from onestage.training.recipe import Recipe

Tile: TypeAlias = int | Literal["auto", "none"]
"""What a user may ask for: tiles that suit the data, none, or their side in pixels."""


def larger_input_for(table: Table, config: DetectorConfig) -> tuple[DetectorConfig, list[str]]:
    """The network with an input in which small objects are large enough, where that takes no tiles; and why."""
    side, reason = side_of_larger_input(table, config.input_resize, config.least_object_side)
    return (config.adjusted({"image_size": side}), [reason]) if side is not None else (config, [])


def tiling_for(
    table: Table, config: DetectorConfig, tile: Tile, overlap: int | None
) -> tuple[Tiling | None, list[str]]:
    """The tiling that is asked for, and lines that say why it is so."""
    if tile == "none":
        return None, []
    tiling, reason = choose_tiling(table, config.input_resize, config.least_object_side, tile, overlap)
    return tiling, [reason] if reason else []


def tiles_for(table: Table, recipe: Recipe, decoded: DecodedImages) -> Table:
    """The rows that train: tiles where the recipe says so, else the images."""
    if recipe.tiling is None:
        return table
    return training_tiles(
        table,
        recipe.tiling,
        resize=recipe.network.input_resize,
        least_object_side=recipe.network.least_object_side,
        visible=recipe.tile_visible,
        empty=recipe.tile_empty,
        decoded=decoded,
    )
