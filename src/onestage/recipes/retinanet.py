"""The RetinaNet paper's recipe (Lin et al., ICCV 2017, arXiv 1708.02002), and mmdetection's for VOC.

Both start from torchvision's first ResNet-50 (`tv_in1k` of timm), whose first layers and batch norms stay as they are.
"""

from dataclasses import replace

from onestage.data.augmentation.presets import FLIP_ONLY
from onestage.detectors.retinanet import RETINANET
from onestage.training.recipe import Recipe

DETECTOR = "retinanet-resnet50.tv_in1k"


def retinanet_r50_coco() -> Recipe:
    """RetinaNet, ResNet-50, 800 pixels, the "1x" schedule on COCO trainval35k.

    The learning rates, steps and sizes are the paper's (4.1). What it does not say is as in the authors' program
    (Detectron): the warm-up of 500 steps from a third of the rate, biases at twice the rate, and all anchors that tie
    for an object's best from an IoU of 0.4 on (roi_data/retinanet.py).

    Departures that stay: Detectron's ResNet-50 is Caffe's, with strides in the 1x1 convolutions; what COCO calls crowds
    is ignored here, background there.

    Expected: AP 35.7, AP50 55.0, AP75 38.5 on minival (Lin 2017, Table 1e). Reproduced by others: 35.7 (Detectron),
    36.3 (maskrcnn-benchmark), 36.4 (torchvision).
    Ours: not run.
    """
    steps = 90_000
    return Recipe(
        detector=DETECTOR,
        network=replace(RETINANET, keep_best=True, best_iou=0.4, best_ties="all_nearest"),
        keep="last",
        steps=steps,
        batch_size=16,
        train_stem=False,
        optimizer="sgd",
        learning_rate=0.01,
        bias_learning_rate_factor=2.0,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="steps",
        milestones=(60 / 90, 80 / 90),
        warmup=500 / steps,
        warmup_start=1 / 3,
        augmentation=FLIP_ONLY,
    )


def retinanet_r50_voc0712() -> Recipe:
    """RetinaNet, ResNet-50, edges of 600 and 1,000 pixels, on VOC07+12 trainval, tested on VOC07 test.

    The settings are those of mmdetection's configs/pascal_voc/retinanet_r50_fpn_1x_voc0712.py; the paper has none. Each
    object keeps all anchors that tie for its best at any IoU (`min_pos_iou` 0), anchors lie on their cells' corners,
    P7 has no ReLU before it, and all parameters decay.

    Departures that stay: scales and shifts of the backbone's batch norms are not trained; difficult objects are ignored
    here, background there.

    Expected: 77.3 mAP (11-point; mmdetection's configs/pascal_voc/README.md).
    Ours: not run.
    """
    network = replace(
        RETINANET,
        edges=(600, 1000),
        p7_relu=False,
        anchor_style="cornered",
        keep_best=True,
        best_ties="all",
        box_loss="l1",
    )
    return Recipe(
        detector=DETECTOR,
        keep="last",
        network=network,
        epochs=4,
        batch_size=16,
        repeat=3,
        train_stem=False,
        optimizer="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=1e-4,
        decay_all=True,
        schedule="steps",
        milestones=(3 / 4,),
        augmentation=FLIP_ONLY,
        evaluations=4,
    )
