"""The recipe made for a data set: settings that do well on a few hundred to a few thousand pictures without tuning."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from onestage.anchors import anchor_coverage, anchor_sizes_from_boxes
from onestage.data.augment import MILD
from onestage.data.table import Table
from onestage.detectors import ssd_config
from onestage.training.recipe import Recipe

IMAGES_TO_SEE = 60_000  # where no length is given: enough for a few thousand pictures, tens of passes for a few hundred
COVERAGE_GAIN = 0.02  # anchors made for the data must meet so many more of its boxes to be worth a departure


def default_recipe(detector: str, table: Table, *, pretrained: bool) -> tuple[Recipe, list[str]]:
    """A recipe for this detector and data, and the reason of every choice that the data made.

    Args:
        detector: its name.
        table: the training pictures.
        pretrained: whether the backbone starts with ImageNet weights.

    Raises:
        UserError: an unknown detector.
    """
    anchor_sizes, anchor_reason = _anchor_sizes(detector, table)
    epochs = float(min(300, max(12, round(IMAGES_TO_SEE / len(table)))))
    on_vgg16 = detector.endswith("vgg16")
    batch_size = min(8 if on_vgg16 else 16, len(table))
    recipe = Recipe(
        detector=detector,
        epochs=epochs,
        batch_size=batch_size,
        anchor_sizes=anchor_sizes,
        quick_start=on_vgg16,
        train_stem=not pretrained,
        optimizer="adamw",
        learning_rate=2.5e-4 if on_vgg16 else 2e-3,
        backbone_learning_rate_factor=0.5,
        weight_decay=0.05,
        gradient_clip=5.0,
        ema_decay=0.998,
        schedule="one_cycle",
        warmup_steps=0,
        augmentation=MILD,
    )
    reasons = [
        f"{len(table):,} training pictures: {epochs:g} epochs unless told otherwise",
        f"batches of {batch_size}, AdamW at {recipe.learning_rate:g} in one cycle, averaged weights, mild augmentation",
        anchor_reason,
    ]
    if on_vgg16:
        reasons.append("batch norms in the layers that start fresh: the paper's network, which has none, learns slower")
    if pretrained:
        reasons.append("the backbone's first layers keep their ImageNet weights, which saves a third of the time")
    return recipe, reasons


def _anchor_sizes(detector: str, table: Table) -> tuple[tuple[float, ...] | None, str]:
    """Anchor sizes from the data where they meet clearly more of its boxes than the paper's do."""
    config = ssd_config(detector)
    box_sizes_hw = boxes_in_input(table, config.image_size)
    papers = anchor_coverage(box_sizes_hw, config.anchor_sizes, config.aspect_ratios)
    sizes = anchor_sizes_from_boxes(box_sizes_hw, config.image_size, len(config.strides))
    datas = anchor_coverage(box_sizes_hw, sizes, config.aspect_ratios)
    if datas < papers + COVERAGE_GAIN:
        return None, f"anchor sizes of the paper: their shapes meet {papers:.1%} of the boxes at IoU 0.5"
    listed = ", ".join(f"{size:.0f}" for size in sizes)
    return (
        sizes,
        f"anchor sizes from the data ({listed} px): meet {datas:.1%} of the boxes at IoU 0.5, not {papers:.1%}",
    )


def boxes_in_input(table: Table, image_size: int) -> Float[np.ndarray, "N 2"]:
    """Height and width of every object that is not ignored, in pixels of the square input."""
    sizes_hw = np.repeat(table.image_sizes_hw, np.diff(table.first_object), axis=0)[~table.ignored]
    boxes_xyxy = table.boxes_xyxy[~table.ignored].astype(np.float64)
    box_sizes_hw = np.stack([boxes_xyxy[:, 3] - boxes_xyxy[:, 1], boxes_xyxy[:, 2] - boxes_xyxy[:, 0]], axis=1)
    return box_sizes_hw * image_size / sizes_hw
