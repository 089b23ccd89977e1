"""The recipe made for a data set: settings that do well on a few hundred to a few thousand images without tuning."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from onestage.anchors import COVERAGE_GAIN, anchor_coverage
from onestage.augmentation import MILD
from onestage.data.table import Table
from onestage.detectors import DetectorConfig, M2DetConfig, RetinaNetConfig, detector_config
from onestage.input_size import Resize
from onestage.training.recipe import Recipe

M2DET_HEAD_RATE = 0.1  # each logit has 18,432 inputs, all above 0: at the full rate AdamW's steps throw it about
IMAGES_TO_SEE = 60_000  # where no length is given: enough for a few thousand images, tens of passes for a few hundred


def default_recipe(detector: str, table: Table, *, pretrained: bool) -> tuple[Recipe, list[str]]:
    """A recipe for this detector and data, and the reason of every choice that the data made.

    Args:
        detector: its name.
        table: the training images.
        pretrained: whether the backbone starts with ImageNet weights.

    Raises:
        UserError: an unknown detector.
    """
    config = detector_config(detector)
    anchors, anchor_reason = _anchors(config, table)
    epochs = float(min(300, max(12, round(IMAGES_TO_SEE / len(table)))))
    fresh_layers_lack_norms = detector.endswith("vgg16")
    batch_size, learning_rate = _pace(detector, config, pretrained)
    batch_size = min(batch_size, len(table))
    frozen_norm = isinstance(config, RetinaNetConfig) and config.backbone_norm == "frozen"
    recipe = Recipe(
        detector=detector,
        epochs=epochs,
        batch_size=batch_size,
        **anchors,
        backbone_norm="batch" if frozen_norm and not pretrained else None,
        quick_start=fresh_layers_lack_norms or isinstance(config, M2DetConfig),
        train_stem=not pretrained,
        optimizer="adamw",
        learning_rate=learning_rate,
        backbone_learning_rate_factor=0.5 if pretrained else 1.0,
        head_learning_rate_factor=M2DET_HEAD_RATE if isinstance(config, M2DetConfig) else 1.0,
        weight_decay=0.05,
        gradient_clip=5.0,
        ema_decay=0.998,
        schedule="one_cycle",
        warmup_steps=0,
        augmentation=MILD,
    )
    reasons = [
        f"{len(table):,} training images: {epochs:g} epochs unless told otherwise",
        f"batches of {batch_size}, AdamW at {learning_rate:g} in one cycle, averaged weights, mild augmentation",
        anchor_reason,
    ]
    if fresh_layers_lack_norms:
        reasons.append("batch norms in the layers that start fresh: the paper's network, which has none, learns slower")
    if isinstance(config, M2DetConfig):
        reasons.append("group norms in the pyramid: through its many batch norms nothing is learned for a long time")
    if recipe.backbone_norm == "batch":
        reasons.append("batch norms that learn: frozen ones, as the paper's, need the statistics of ImageNet weights")
    if pretrained:
        reasons.append("the backbone's first layers keep their ImageNet weights, which saves a third of the time")
    return recipe, reasons


def _pace(detector: str, config: DetectorConfig, pretrained: bool) -> tuple[int, float]:
    """Images a step, and AdamW's rate."""
    if isinstance(config, M2DetConfig):
        return 4, 3e-4  # 800 pixels take 2 GiB an image
    if isinstance(config, RetinaNetConfig):
        return (16 if config.channels <= 128 else 4), 1e-3  # the paper's, at 800 pixels, takes 2 GiB an image
    if detector.endswith("vgg16"):
        return 8, 2.5e-4
    return (16, 2e-3) if pretrained else (8, 3e-3)  # fresh weights need many steps before many images a step


def _anchors(config: DetectorConfig, table: Table) -> tuple[dict[str, Any], str]:
    """Settings of anchors from the data where they meet clearly more of its boxes than the paper's do, and why."""
    box_sizes_hw = boxes_in_input(table, config.input_resize)
    papers = anchor_coverage(box_sizes_hw, config.anchor_shapes())
    settings = config.anchors_for(box_sizes_hw)
    datas = anchor_coverage(box_sizes_hw, config.adjusted(settings).anchor_shapes())
    if datas < papers + COVERAGE_GAIN:
        return {}, f"anchors of the paper: their shapes meet {papers:.1%} of the boxes at IoU 0.5"
    listed = "sizes " + ", ".join(f"{size:.0f}" for size in settings["anchor_sizes"]) + " px"
    if "aspect_ratios" in settings:
        listed += ", ratios " + ", ".join(f"{ratio:g}" for ratio in settings["aspect_ratios"])
    return settings, f"anchors from the data ({listed}): meet {datas:.1%} of the boxes at IoU 0.5, not {papers:.1%}"


def boxes_in_input(table: Table, resize: Resize) -> Float[np.ndarray, "N 2"]:
    """Height and width of every object that is not ignored, in pixels of the network's input."""
    sizes_hw, size_of_image = np.unique(table.image_sizes_hw, axis=0, return_inverse=True)
    resized_hw = np.array([resize.image_hw((height, width)) for height, width in sizes_hw.tolist()])
    factors = (resized_hw / sizes_hw)[size_of_image]  # (images, 2)
    boxes_xyxy = table.boxes_xyxy[~table.ignored].astype(np.float64)
    box_sizes_hw = np.stack([boxes_xyxy[:, 3] - boxes_xyxy[:, 1], boxes_xyxy[:, 2] - boxes_xyxy[:, 0]], axis=1)
    return box_sizes_hw * np.repeat(factors, np.diff(table.first_object), axis=0)[~table.ignored]
