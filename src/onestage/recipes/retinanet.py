"""The RetinaNet paper's recipe (Lin et al., ICCV 2017, arXiv 1708.02002), and mmdetection's for VOC.

Both start from a ResNet-50 of ImageNet whose first layers and batch norms stay as they are.
"""

from dataclasses import replace

from onestage.data.augmentation import FLIP_ONLY
from onestage.detectors.retinanet import RETINANET
from onestage.training.recipe import Recipe


def retinanet_r50_coco() -> Recipe:
    """RetinaNet, ResNet-50, 800 pixels, the "1x" schedule on COCO trainval35k.

    The learning rates, steps and sizes are the paper's (4.1), the warm-up of 500 steps Detectron's.

    Expected: AP 35.7, AP50 55.0, AP75 38.5 on minival (Lin 2017, Table 1e). Reproduced by others: 35.7 (Detectron),
    36.3 (maskrcnn-benchmark), 36.4 (torchvision).
    Ours: not run.
    """
    return Recipe(
        detector="retinanet-resnet50",
        keep="last",
        steps=90_000,
        batch_size=16,
        train_stem=False,
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(60 / 90, 80 / 90),
        warmup_steps=500,
        augmentation=FLIP_ONLY,
    )


def retinanet_r50_voc0712() -> Recipe:
    """RetinaNet, ResNet-50, edges of 600 and 1,000 pixels, on VOC07+12 trainval, tested on VOC07 test.

    The settings are those of mmdetection's configs/pascal_voc/retinanet_r50_fpn_1x_voc0712.py; the paper has none.

    Expected: 77.3 mAP (11-point; mmdetection's configs/pascal_voc/README.md).
    Ours: not run.
    """
    return Recipe(
        detector="retinanet-resnet50",
        keep="last",
        network=replace(RETINANET, edges=(600, 1000), box_loss="l1"),
        epochs=4,
        batch_size=16,
        repeat=3,
        train_stem=False,
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(3 / 4,),
        augmentation=FLIP_ONLY,
        evaluations=4,
    )
