"""The GFL paper's recipe (Li et al., NeurIPS 2020, arXiv 2006.04388), as mmdetection has it."""

from onestage.data.augmentation.presets import FLIP_ONLY
from onestage.training.recipe import Recipe


def gfl_r50_coco() -> Recipe:
    """GFL, ResNet-50, 800 pixels, the "1x" schedule on COCO train2017.

    The settings are those of mmdetection's configs/gfl/gfl_r50_fpn_1x_coco.py: torchvision's first ResNet-50, 12 epochs
    in batches of 16, a tenth of the learning rate after the epochs 8 and 11, a warm-up of 500 steps (of 7,330 an epoch)
    from a thousandth of the rate, and decay of all parameters.

    Departures that stay: an image without objects counts as one positive there, here not at all; scales and shifts of
    the backbone's batch norms are not trained; crowds are ignored here, left out there.

    Expected: AP 40.2 on val2017 (mmdetection's configs/gfl/README.md).
    Ours: not run.
    """
    return Recipe(
        detector="gfl-resnet50.tv_in1k",
        keep="last",
        epochs=12,
        batch_size=16,
        train_stem=False,
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=1e-4,
        decay_all=True,
        schedule="steps",
        milestones=(8 / 12, 11 / 12),
        warmup=500 / (12 * 7_330),
        warmup_start=0.001,
        augmentation=FLIP_ONLY,
    )
