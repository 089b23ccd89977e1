"""The SSD paper's own recipes (Liu et al., ECCV 2016, arXiv 1512.02325 v5), made for 32 images a step on a GPU.

They follow the authors' released program (github.com/weiliu89/caffe, branch ssd, examples/ssd/ssd_pascal.py and
ssd_coco.py), which the paper's last results ("SSD300*", Table 6) were made with: anchors that reach over the border,
400 candidates of each class before NMS, biases at twice the rate and without decay, difficult objects of VOC trained,
images resized by one of five kernels, its crops (`augmentation.crop`).

The other programs differ: ssd.pytorch and lufficc/SSD bound the anchors at the input (`clip_anchors`), have one rate
and decay for all parameters, leave difficult objects out, and move hues by 18 degrees.

Departures that stay:
- ImageNet weights are torchvision's VGG-16; Caffe's, which the authors reduced, go in by
  `--backbone-weights vgg16_reducedfc.pth`.
- Of two objects with one best anchor the later has it, as in ssd.pytorch; Caffe gives the other its next best one.
- The scales of conv4_3's norm have no weight decay, as no other norm has.
- Hues go around the circle; Caffe stops at red.
"""

from dataclasses import replace

from onestage.data.augmentation.presets import SSD_PAPER
from onestage.detectors import detector_config
from onestage.detectors.ssd import SSD300_COCO_SIZES, SSD512_COCO_SIZES
from onestage.training.recipe import Recipe


def ssd300_voc0712() -> Recipe:
    """SSD300 on VOC07+12 trainval, tested on VOC07 test, as the authors' Caffe program.

    Expected: 77.2 mAP (11-point; Liu 2016, Table 6). Reproduced by others: 77.4 (ssd.pytorch), 77.7 (lufficc), by
    other anchors, crops and rates.
    Ours: not run.
    """
    return _voc("ssd300-vgg16")


def ssd512_voc0712() -> Recipe:
    """SSD512 on VOC07+12 trainval, tested on VOC07 test, as the authors' Caffe program.

    Expected: 79.8 mAP (11-point; Liu 2016, Table 6).
    Ours: not run.
    """
    return _voc("ssd512-vgg16")


def ssd300_coco() -> Recipe:
    """SSD300 on COCO trainval35k, tested on test-dev2015, as the authors' Caffe program.

    Expected: AP 25.1, AP50 43.1, AP75 25.8 (Liu 2016, Table 6).
    Ours: not run.
    """
    return _coco("ssd300-vgg16", SSD300_COCO_SIZES)


def ssd512_coco() -> Recipe:
    """SSD512 on COCO trainval35k, tested on test-dev2015, as the authors' Caffe program.

    Expected: AP 28.8, AP50 48.5, AP75 30.3 (Liu 2016, Table 6).
    Ours: not run.
    """
    return _coco("ssd512-vgg16", SSD512_COCO_SIZES)


def _voc(detector: str) -> Recipe:
    return replace(_paper(detector, steps=120_000, milestones=(80 / 120, 100 / 120)), train_difficult=True)


def _coco(detector: str, anchor_sizes: tuple[float, ...]) -> Recipe:
    return _paper(detector, steps=400_000, milestones=(280 / 400, 360 / 400), anchor_sizes=anchor_sizes)


def _paper(
    detector: str, steps: int, milestones: tuple[float, ...], anchor_sizes: tuple[float, ...] | None = None
) -> Recipe:
    network = detector_config(detector).adjusted({"anchor_sizes": anchor_sizes, "clip_anchors": "none"})
    return Recipe(
        detector=detector,
        keep="last",
        network=network,
        postprocessing=replace(network.PAPERS_SELECTION, candidates_per_class=400),
        steps=steps,
        batch_size=32,
        optimizer="sgd",
        learning_rate=1e-3,
        bias_learning_rate_factor=2.0,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="steps",
        milestones=milestones,
        augmentation=SSD_PAPER,
        evaluations=12,
    )
