"""The SSD paper's own recipes (Liu et al., ECCV 2016, arXiv 1512.02325 v5), made for 32 images a step on a GPU.

Schedules and augmentation are those of the authors' released training scripts (github.com/weiliu89/caffe, branch ssd,
examples/ssd/ssd_pascal.py and ssd_coco.py), which the paper's last results ("SSD300*", Table 6) were made with.
"""

from onestage.data.augmentation import SSD_PAPER
from onestage.detectors import detector_config
from onestage.detectors.ssd import SSD300_COCO_SIZES, SSD512_COCO_SIZES
from onestage.training.recipe import Recipe


def ssd300_voc0712() -> Recipe:
    """SSD300 on VOC07+12 trainval, tested on VOC07 test.

    Expected: 77.2 mAP (11-point; Liu 2016, Table 6). Reproduced by others: 77.4 (ssd.pytorch), 77.7 (lufficc).
    Ours: not run.
    """
    return _paper("ssd300-vgg16", steps=120_000, milestones=(80 / 120, 100 / 120))


def ssd512_voc0712() -> Recipe:
    """SSD512 on VOC07+12 trainval, tested on VOC07 test.

    Expected: 79.8 mAP (11-point; Liu 2016, Table 6).
    Ours: not run.
    """
    return _paper("ssd512-vgg16", steps=120_000, milestones=(80 / 120, 100 / 120))


def ssd300_coco() -> Recipe:
    """SSD300 on COCO trainval35k, tested on test-dev2015.

    Expected: AP 25.1, AP50 43.1, AP75 25.8 (Liu 2016, Table 6).
    Ours: not run.
    """
    return _paper("ssd300-vgg16", steps=400_000, milestones=(280 / 400, 360 / 400), anchors=SSD300_COCO_SIZES)


def ssd512_coco() -> Recipe:
    """SSD512 on COCO trainval35k, tested on test-dev2015.

    Expected: AP 28.8, AP50 48.5, AP75 30.3 (Liu 2016, Table 6).
    Ours: not run.
    """
    return _paper("ssd512-vgg16", steps=400_000, milestones=(280 / 400, 360 / 400), anchors=SSD512_COCO_SIZES)


def _paper(
    detector: str, steps: int, milestones: tuple[float, ...], anchors: tuple[float, ...] | None = None
) -> Recipe:
    return Recipe(
        detector=detector,
        keep="last",
        network=detector_config(detector).adjusted({"anchor_sizes": anchors}),
        steps=steps,
        batch_size=32,
        optimizer="sgd",
        learning_rate=1e-3,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="steps",
        milestones=milestones,
        augmentation=SSD_PAPER,
        evaluations=12,
    )
