"""M2Det's recipes (Zhao et al., AAAI 2019, arXiv 1811.04533), as its released code trains it.

Schedule, batch and weight decay are those of the release (github.com/qijiezhao/M2Det, configs/m2det*_vgg.py), which
also augments as SSD does. Its configurations leave SFAM off, with which the paper's numbers were made; `--sfam True`.
"""

from onestage.data.augmentation import SSD_PAPER
from onestage.training.recipe import Recipe

COCO_TRAINVAL35K = 118_287  # images
VOC0712_TRAINVAL = 16_551
WARMUP_EPOCHS = 5


def m2det320_vgg16_coco() -> Recipe:
    """M2Det, VGG-16, 320 pixels, on COCO trainval35k.

    Expected: AP 33.5, AP50 52.4, AP75 35.6 on test-dev (Zhao 2019, Table 1).
    Ours: not run.
    """
    return _coco("m2det320-vgg16", batch_size=16)


def m2det512_vgg16_coco() -> Recipe:
    """M2Det, VGG-16, 512 pixels, on COCO trainval35k.

    Expected: AP 37.6, AP50 56.6, AP75 40.5 on test-dev (Zhao 2019, Table 1).
    Ours: not run.
    """
    return _coco("m2det512-vgg16", batch_size=16)


def m2det800_vgg16_coco() -> Recipe:
    """M2Det, VGG-16, 800 pixels, on COCO trainval35k.

    Expected: AP 41.0, AP50 59.7, AP75 45.0 on test-dev (Zhao 2019, Table 1).
    Ours: not run.
    """
    return _coco("m2det800-vgg16", batch_size=9)


def m2det512_vgg16_voc0712() -> Recipe:
    """M2Det, VGG-16, 512 pixels, on VOC07+12 trainval, tested on VOC07 test.

    Expected: nothing published; the release has a schedule for VOC, marked as unsettled.
    Ours: not run.
    """
    return _released(
        "m2det512-vgg16", images=VOC0712_TRAINVAL, batch_size=16, epochs=300, milestones=(100, 150, 200, 250)
    )


def _coco(detector: str, batch_size: int) -> Recipe:
    milestones = (90, 110, 130, 150)
    return _released(detector, images=COCO_TRAINVAL35K, batch_size=batch_size, epochs=160, milestones=milestones)


def _released(detector: str, images: int, batch_size: int, epochs: int, milestones: tuple[int, ...]) -> Recipe:
    return Recipe(
        detector=detector,
        keep="last",
        epochs=epochs,
        batch_size=batch_size,
        optimizer="sgd",
        learning_rate=0.004,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="steps",
        milestones=tuple(epoch / epochs for epoch in milestones),
        milestone_factors=(0.5, 0.1, 0.01, 0.001),  # 0.004, 0.002, 0.0004, 0.00004, 0.000004
        warmup_steps=WARMUP_EPOCHS * (images // batch_size),
        augmentation=SSD_PAPER,
        evaluations=16,
    )
