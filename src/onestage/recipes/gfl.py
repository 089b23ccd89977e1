"""The GFL paper's recipe (Li et al., NeurIPS 2020, arXiv 2006.04388), as mmdetection has it."""

from onestage.data.augmentation import FLIP_ONLY
from onestage.training.recipe import Recipe


def gfl_r50_coco() -> Recipe:
    """GFL, ResNet-50, 800 pixels, the "1x" schedule on COCO train2017.

    The settings are those of mmdetection's configs/gfl/gfl_r50_fpn_1x_coco.py: 12 epochs in batches of 16, a tenth of
    the learning rate after the epochs 8 and 11, and a warm-up of 500 steps. An image without objects counts as one
    positive there, here not at all.

    Expected: AP 40.2 on val2017 (mmdetection's configs/gfl/README.md).
    Ours: not run.
    """
    return Recipe(
        detector="gfl-resnet50",
        keep="last",
        epochs=12,
        batch_size=16,
        train_stem=False,
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(8 / 12, 11 / 12),
        warmup_steps=500,
        augmentation=FLIP_ONLY,
    )
