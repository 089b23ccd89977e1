"""The recipe made for a data set: settings that do well on a few hundred to a few thousand images without tuning."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onestage.anchors import COVERAGE_GAIN, anchor_coverage
from onestage.data.augmentation.presets import MILD
from onestage.data.decoded_images import DecodedImages
from onestage.data.table import Table
from onestage.detectors import Detector, DetectorConfig, detector_config, untagged
from onestage.detectors.base import MadeNetwork
from onestage.input_size import typical_input_hw
from onestage.recipes.shrinking import shrinking_for
from onestage.recipes.smaller_inputs import input_of_small_images
from onestage.recipes.tiles import Tile, larger_input_for, tiles_for, tiling_for
from onestage.runtime.tiles import Tiling
from onestage.selection import Selection
from onestage.training.recipe import Recipe

# Where no length is given: enough for a few thousand images, tens of passes for a few hundred. From a trained detector
# less is fresh; of the rate, its half and its double gave less (docs/ledger.md), so that is the usual one.
IMAGES_TO_SEE, IMAGES_TO_SEE_FROM_DETECTOR = 60_000, 20_000
DEFAULT_DETECTOR = "gfl-tf_efficientnet_lite0"  # the best in equal minutes (docs/ledger.md, "The made recipe")
LEAST_BATCH = 2  # images a step, however large they are
LEARNED_BACKBONE_FACTOR = 0.5  # on the rate of a backbone that comes with a trained detector
ANCHOR_SETTINGS = {"anchor_sizes", "aspect_ratios", "anchor_scales"}
ROOM, CANDIDATES_AN_OBJECT = 2, 8  # detections kept, and candidates before NMS, for each object of a crowded image
GAIN_OVER_LEARNED = 0.1  # share of the boxes that other anchors must cover in addition to replace those of a detector


def default_recipe(
    detector: str,
    table: Table,
    *,
    pretrained: bool,
    start: Detector | None = None,
    tile: Tile | None = None,
    tile_overlap: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe for this detector and data, and the reason of every choice that the data made.

    Args:
        detector: its name.
        table: the training images.
        pretrained: the backbone starts with ImageNet weights, or with those of `start`.
        start: the trained detector that it starts from. One of the same name gives the settings of the network, its
            anchors unless the data needs others, and the post-processing.
        tile, tile_overlap: see `choose_tiling`; "none" for no tiles. None weighs a larger input against them.
        settings: asked for, by the names of `Recipe.with_settings`. Those of the network are in the recipe, since
            tiles and anchors follow its input; the rest is left to the caller.

    Raises:
        UserError: an unknown detector.
    """
    trained = start if start is not None and untagged(start.name) == untagged(detector) else None
    usual = trained.config if trained is not None else detector_config(detector)
    made = usual.made_for_data(detector.partition("-")[2], pretrained=pretrained)
    if trained is not None:
        made = replace(made, config=usual, backbone_learning_rate_factor=LEARNED_BACKBONE_FACTOR)
    asked = settings or {}
    config = Recipe(detector, made.config).with_settings(asked).network
    may_change = trained is None and tile is None and tile_overlap is None and not {"image_size", "edges"} & set(asked)
    config, tiling, of_scale = _input_and_tiles(config, table, tile or "auto", tile_overlap, may_change)
    as_they_are = tiling is not None or "shrink_images" in asked
    shrunk, why_shrunk = (None, []) if as_they_are else shrinking_for(table, config.input_resize)
    if tiling is not None:
        table = tiles_for(table, Recipe(detector, config).with_tiling(tiling), DecodedImages())
    usual_batch, made = made.batch_size, _with_input(made, config)
    images = IMAGES_TO_SEE_FROM_DETECTOR if trained is not None else IMAGES_TO_SEE
    network, reasons = _network(made, trained is not None, table, asked)
    of_epoch = table.rows_per_epoch
    epochs = float(min(300, max(12, round(images * made.batch_size / usual_batch / of_epoch))))
    batch_size = min(made.batch_size, of_epoch)
    own = None if trained is None else trained.evaluation_selection
    postprocessing, of_crowds = _with_room(own or made.selection or network.PAPERS_SELECTION, table)
    recipe = replace(
        _in_one_cycle(detector, made, pretrained),
        network=network,
        postprocessing=postprocessing,
        epochs=epochs,
        batch_size=batch_size,
        shrink_images=shrunk,
    ).with_tiling(tiling)
    reasons = [
        *of_scale,
        *of_crowds,
        *why_shrunk,
        f"{of_epoch:,} training {'images' if tiling is None else 'tiles'}: {epochs:g} epochs unless told otherwise",
        _how_it_trains({"batch_size": batch_size, "learning_rate": made.learning_rate, **asked}),
        *reasons,
        *_what_stays(config, trained, start is not None, pretrained),
    ]
    return recipe, reasons


def _with_room(selection: Selection, table: Table) -> tuple[Selection, list[str]]:
    """The post-processing with room for all objects of the most crowded image or tile, where it has none; and why."""
    most, selection = table.most_objects, replace(selection, class_thresholds=None)  # of classes that the data may lack
    if selection.max_detections is None or most <= selection.max_detections:
        return selection, []
    kept = ROOM * most
    candidates = max(selection.candidates_per_class, CANDIDATES_AN_OBJECT * most)
    reason = f"up to {kept:,} detections an image or tile, not {selection.max_detections}: some have {most:,} objects"
    return replace(selection, max_detections=kept, candidates_per_class=candidates), [reason]


def _what_stays(config: DetectorConfig, trained: Detector | None, learned: bool, pretrained: bool) -> list[str]:
    """What is kept of what it starts from; `learned` is True for the backbone of a trained detector."""
    stays = []
    if trained is not None and config.input_resize == trained.config.input_resize:
        stays.append(f"input of {config.input_resize}, as the trained detector's; --image-size asks for another")
    if pretrained:
        whose = "the trained detector's" if learned else "their ImageNet"
        stays.append(f"the backbone's first layers keep {whose} weights, which saves a quarter of the time")
    return stays


def _how_it_trains(settings: Mapping[str, Any]) -> str:
    batch_size, rate, augmentation = settings["batch_size"], settings["learning_rate"], settings.get("augmentation")
    usual = f"batches of {batch_size}, AdamW at {rate:g} in one cycle, averaged weights"
    if augmentation is not None:
        return f"{usual}, {augmentation} augmentation"
    # docs/ledger.md, "The made recipe": 1.7 points of AP more after 56 passes over BCCD, 4 less after 8 over NEU-DET
    other = "--augmentation texture may do better on images without an up that are seen 50 times or more"
    return f"{usual}, mild augmentation; {other}"


def _in_one_cycle(detector: str, made: MadeNetwork, pretrained: bool) -> Recipe:
    """AdamW with one cycle of the learning rate, averaged weights and mild augmentation."""
    return Recipe(
        detector=detector,
        train_stem=not pretrained,
        optimizer="adamw",
        learning_rate=made.learning_rate,
        backbone_learning_rate_factor=made.backbone_learning_rate_factor if pretrained else 1.0,
        head_learning_rate_factor=made.head_learning_rate_factor,
        weight_decay=0.05,
        gradient_clip=5.0,
        ema_decay=0.998,
        schedule="one_cycle",
        warmup_steps=0,
        augmentation=MILD,
    )


def _input_and_tiles(
    config: DetectorConfig, table: Table, tile: Tile, overlap: int | None, may_change: bool
) -> tuple[DetectorConfig, Tiling | None, list[str]]:
    """The network with a larger input, or else tiles, where objects are small, a smaller one where images are; why."""
    if may_change:
        changed, reasons = larger_input_for(table, config)
        if changed == config:
            changed, reasons = input_of_small_images(table, config)
        if changed != config:
            return changed, None, reasons
    return config, *tiling_for(table, config, tile, overlap)


def _with_input(made: MadeNetwork, config: DetectorConfig) -> MadeNetwork:
    """With these settings; where the input is larger, a step has as many pixels as before, and so the same rate."""
    before, now = (math.prod(typical_input_hw(one.input_resize)) for one in (made.config, config))
    batch_size = max(min(made.batch_size, LEAST_BATCH), round(made.batch_size * min(1.0, before / now)))
    return replace(made, config=config, batch_size=batch_size)


def _network(
    made: MadeNetwork, learned: bool, table: Table, asked: Mapping[str, Any]
) -> tuple[DetectorConfig, list[str]]:
    """The settings of the network, and why; of a trained detector its own, of anchors those that were asked for."""
    if not ANCHOR_SETTINGS.isdisjoint(asked):
        return made.config, list(made.reasons)
    if not learned:
        network, reasons = _with_anchors(made.config, table, COVERAGE_GAIN, "the paper")
        return network, [*reasons, *made.reasons]
    network, reasons = _with_anchors(made.config, table, GAIN_OVER_LEARNED, "the trained detector")
    if network != made.config:
        reasons.append("what its head learned about its own anchors is lost in part")
    return network, reasons


def _with_anchors(config: DetectorConfig, table: Table, gain: float, whose: str) -> tuple[DetectorConfig, list[str]]:
    """The network with anchors from the data where they meet clearly more of its boxes than `whose` do; and why."""
    if not config.anchor_shapes():
        return config, []
    box_sizes_hw = table.box_sizes_hw(config.input_resize)
    settings = config.anchors_for(box_sizes_hw)
    fitted = config.adjusted(settings)
    before, datas = (anchor_coverage(box_sizes_hw, one.anchor_shapes()) for one in (config, fitted))
    if datas < before + gain:
        return config, [f"anchors of {whose}: their shapes meet {before:.1%} of the boxes at IoU 0.5"]
    listed = "sizes " + ", ".join(f"{size:.0f}" for size in settings["anchor_sizes"]) + " px"
    if "aspect_ratios" in settings:
        listed += ", ratios " + ", ".join(f"{ratio:g}" for ratio in settings["aspect_ratios"])
    return fitted, [f"anchors from the data ({listed}): meet {datas:.1%} of the boxes at IoU 0.5, not {before:.1%}"]
