"""M2Det's recipes (Zhao et al., AAAI 2019, arXiv 1811.04533), as its released code trains it.

Schedule, batch and weight decay are those of the release (github.com/qijiezhao/M2Det, configs/m2det*_vgg.py). So are
its crops, which come before its expansions, its five kernels for resizing, the warm-up of five epochs from a rate of
1e-6, the momentum of its batch norms, the weight decay of all parameters, and VOC's difficult objects, which it trains.
Its configurations leave SFAM off, with which the paper's numbers were made; `--sfam True`.

Departures that stay:
- The release forgets objects that are below a hundredth of the input after an expansion, which makes them background,
  and takes the image as it is where none is left. Here they stay.
- It leaves images without objects as they are; here they are coloured, flipped and expanded.
- COCO's crowds are objects to find there; here they are ignored.
- Detections below a score of 0.1 are dropped there; here they count, from 0.01 on.
"""

from dataclasses import replace

from onestage.data.augmentation.presets import M2DET_RELEASE
from onestage.detectors import detector_config
from onestage.training.recipe import Recipe

LEARNING_RATE = 0.004
WARMUP_EPOCHS, WARMUP_RATE = 5, 1e-6


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

    The epochs are those of the release's configuration for VOC; its program, which reads those for COCO in their place
    (utils/core.py), trains the last 140 of 300 epochs at the last rate.

    Expected: nothing published; the release has a schedule for VOC, marked as unsettled.
    Ours: not run.
    """
    recipe = _released("m2det512-vgg16", batch_size=16, epochs=300, milestones=(100, 150, 200, 250))
    return replace(recipe, train_difficult=True)


def _coco(detector: str, batch_size: int) -> Recipe:
    return _released(detector, batch_size=batch_size, epochs=160, milestones=(90, 110, 130, 150))


def _released(detector: str, batch_size: int, epochs: int, milestones: tuple[int, ...]) -> Recipe:
    return Recipe(
        detector=detector,
        keep="last",
        network=detector_config(detector).adjusted({"norm_momentum": 0.01}),
        epochs=epochs,
        batch_size=batch_size,
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        momentum=0.9,
        weight_decay=5e-4,
        decay_all=True,
        schedule="steps",
        milestones=tuple(epoch / epochs for epoch in milestones),
        milestone_factors=(0.5, 0.1, 0.01, 0.001),  # 0.004, 0.002, 0.0004, 0.00004, 0.000004
        warmup=WARMUP_EPOCHS / epochs,
        warmup_start=WARMUP_RATE / LEARNING_RATE,
        augmentation=M2DET_RELEASE,
        evaluations=16,
    )
