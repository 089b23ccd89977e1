"""The recipe made for a data set: settings that do well on a few hundred to a few thousand images without tuning."""

from onestage.anchors import COVERAGE_GAIN, anchor_coverage
from onestage.data.augmentation import MILD
from onestage.data.decoded_images import DecodedImages
from onestage.data.table import Table
from onestage.detectors import Detector, DetectorConfig, detector_config, untagged
from onestage.detectors.base import MadeNetwork
from onestage.recipes.tiles import Tile, tiles_for, tiling_for
from onestage.training.recipe import Recipe

# Where no length is given: enough for a few thousand images, tens of passes for a few hundred. From a trained detector
# less is fresh; of the rate, its half and its double gave less (docs/ledger.md), so that is the usual one.
IMAGES_TO_SEE, IMAGES_TO_SEE_FROM_DETECTOR = 60_000, 20_000
GAIN_OVER_LEARNED = 0.1  # share of the boxes that other anchors must cover in addition to replace those of a detector


def default_recipe(
    detector: str,
    table: Table,
    *,
    pretrained: bool,
    start: Detector | None = None,
    tile: Tile = "auto",
    tile_overlap: int | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe for this detector and data, and the reason of every choice that the data made.

    Args:
        detector: its name.
        table: the training images.
        pretrained: the backbone starts with ImageNet weights, or with those of `start`.
        start: the trained detector that it starts from. One of the same name gives the settings of the network, its
            anchors unless the data needs others, and the post-processing.
        tile, tile_overlap: see `choose_tiling`; "none" for no tiles.

    Raises:
        UserError: an unknown detector.
    """
    trained = start if start is not None and untagged(start.name) == untagged(detector) else None
    usual = trained.config if trained is not None else detector_config(detector)
    made = usual.made_for_data(detector.partition("-")[2], pretrained=pretrained)
    tiling, of_tiles = tiling_for(table, made.config, tile, tile_overlap)
    if tiling is not None:
        table = tiles_for(table, Recipe(detector, made.config).with_tiling(tiling), DecodedImages())
    network, reasons = _network(made, trained, table)
    images = IMAGES_TO_SEE_FROM_DETECTOR if trained is not None else IMAGES_TO_SEE
    of_epoch = table.rows_per_epoch
    epochs = float(min(300, max(12, round(images / of_epoch))))
    batch_size = min(made.batch_size, of_epoch)
    recipe = Recipe(
        detector=detector,
        network=network,
        postprocessing=trained.evaluation_selection if trained is not None else network.PAPERS_SELECTION,
        epochs=epochs,
        batch_size=batch_size,
        train_stem=not pretrained,
        optimizer="adamw",
        learning_rate=made.learning_rate,
        backbone_learning_rate_factor=0.5 if pretrained else 1.0,
        head_learning_rate_factor=made.head_learning_rate_factor,
        weight_decay=0.05,
        gradient_clip=5.0,
        ema_decay=0.998,
        schedule="one_cycle",
        warmup_steps=0,
        augmentation=MILD,
    ).with_tiling(tiling)
    reasons = [
        *of_tiles,
        f"{of_epoch:,} training {'images' if tiling is None else 'tiles'}: {epochs:g} epochs unless told otherwise",
        f"batches of {batch_size}, AdamW at {made.learning_rate:g} in one cycle, averaged weights, mild augmentation",
        *reasons,
    ]
    if pretrained:
        whose = "the trained detector's" if start is not None else "their ImageNet"
        reasons.append(f"the backbone's first layers keep {whose} weights, which saves a third of the time")
    return recipe, reasons


def _network(made: MadeNetwork, trained: Detector | None, table: Table) -> tuple[DetectorConfig, list[str]]:
    """The settings of the network, and why; of a trained detector its own."""
    if trained is None:
        network, reasons = _with_anchors(made.config, table, COVERAGE_GAIN, "the paper")
        return network, [*reasons, *made.reasons]
    network, reasons = _with_anchors(trained.config, table, GAIN_OVER_LEARNED, "the trained detector")
    if network != trained.config:
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
