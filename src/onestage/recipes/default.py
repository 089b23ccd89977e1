"""The recipe made for a data set: settings that do well on a few hundred to a few thousand images without tuning."""

from onestage.anchors import COVERAGE_GAIN, anchor_coverage
from onestage.data.augmentation import MILD
from onestage.data.table import Table
from onestage.detectors import DetectorConfig, detector_config
from onestage.training.recipe import Recipe

IMAGES_TO_SEE = 60_000  # where no length is given: enough for a few thousand images, tens of passes for a few hundred


def default_recipe(detector: str, table: Table, *, pretrained: bool) -> tuple[Recipe, list[str]]:
    """A recipe for this detector and data, and the reason of every choice that the data made.

    Args:
        detector: its name.
        table: the training images.
        pretrained: the backbone starts with ImageNet weights.

    Raises:
        UserError: an unknown detector.
    """
    made = detector_config(detector).made_for_data(detector.partition("-")[2], pretrained=pretrained)
    network, anchor_reason = _with_anchors(made.config, table)
    epochs = float(min(300, max(12, round(IMAGES_TO_SEE / len(table)))))
    batch_size = min(made.batch_size, len(table))
    recipe = Recipe(
        detector=detector,
        network=network,
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
    )
    reasons = [
        f"{len(table):,} training images: {epochs:g} epochs unless told otherwise",
        f"batches of {batch_size}, AdamW at {made.learning_rate:g} in one cycle, averaged weights, mild augmentation",
        *anchor_reason,
        *made.reasons,
    ]
    if pretrained:
        reasons.append("the backbone's first layers keep their ImageNet weights, which saves a third of the time")
    return recipe, reasons


def _with_anchors(config: DetectorConfig, table: Table) -> tuple[DetectorConfig, list[str]]:
    """The network with anchors from the data where they meet clearly more of its boxes than the paper's do; and why."""
    if not config.anchor_shapes():
        return config, []
    box_sizes_hw = table.box_sizes_hw(config.input_resize)
    settings = config.anchors_for(box_sizes_hw)
    fitted = config.adjusted(settings)
    papers, datas = (anchor_coverage(box_sizes_hw, one.anchor_shapes()) for one in (config, fitted))
    if datas < papers + COVERAGE_GAIN:
        return config, [f"anchors of the paper: their shapes meet {papers:.1%} of the boxes at IoU 0.5"]
    listed = "sizes " + ", ".join(f"{size:.0f}" for size in settings["anchor_sizes"]) + " px"
    if "aspect_ratios" in settings:
        listed += ", ratios " + ", ".join(f"{ratio:g}" for ratio in settings["aspect_ratios"])
    return fitted, [f"anchors from the data ({listed}): meet {datas:.1%} of the boxes at IoU 0.5, not {papers:.1%}"]
