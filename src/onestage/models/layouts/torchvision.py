"""torchvision's detectors: `ssd300_vgg16`, `retinanet_resnet50_fpn` and `retinanet_resnet50_fpn_v2`.

SSD: its anchors have the sizes of the paper's COCO model at any number of classes, and only their widths and heights
are clipped, not their centres. It normalises 0..1 RGB with std 1/255: on our scale the mean times 255, std 1.

RetinaNet: P6 comes from P5 in the first version, from C5 in the second, whose subnets have group norms. Its class 0 is
a slot for background that no object is trained on; where our network has one class less than the file, it is dropped.
Batch norms of the first version are frozen; their epsilon is 1e-5 (torchvision sets it to 0 for its published COCO
weights only, which moves scores in the third digit).
"""

from typing import Any

from torch import Tensor

from onestage.detectors import Normalization
from onestage.detectors.base import IMAGENET
from onestage.models.layouts.layout import CONV4_3_SCALE, MAX_EXTRAS, VGG16_PLACES, Layout, numbered, vgg16_names

SSD_SIZES = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)
RETINANET_ANCHORS_PER_CELL = 9


def _retinanet_settings(config: Any, state_dict: dict[str, Tensor]) -> dict[str, Any]:
    second_version = "head.classification_head.conv.0.1.weight" in state_dict
    return {
        "backbone_norm": "batch" if "backbone.body.bn1.num_batches_tracked" in state_dict else "frozen",
        "subnet_norm": "group" if second_version else "none",
        "p6_from": "c5" if state_dict["backbone.fpn.extra_blocks.p6.weight"].shape[1] == 2048 else "p5",
        "p7_relu": True,
        "anchor_style": "torchvision",
        "anchor_sizes": (32.0, 64.0, 128.0, 256.0, 512.0),
        "keep_best": True,
        "best_ties": "all_nearest",
        "box_loss": "giou" if second_version else "l1",
    }


def _without_background(ours: str, value: Tensor, num_classes: int) -> tuple[Tensor, str] | None:
    if not ours.startswith("class_subnet.last.") or len(value) != RETINANET_ANCHORS_PER_CELL * (num_classes + 1):
        return None
    by_anchor = value.reshape(RETINANET_ANCHORS_PER_CELL, num_classes + 1, *value.shape[1:])
    return by_anchor[:, 1:].flatten(0, 1).contiguous(), "torchvision's slot for background dropped"


SSD = Layout(
    name="torchvision",
    project="torchvision's ssd300_vgg16",
    family="SSD",
    names={
        **vgg16_names("backbone.features.{}"),  # up to conv4_3
        # Its first extra block starts with the fourth pooling, place 23 of the list, and ends with fc6 and fc7.
        **{f"backbone.extra.0.{place - 23}": f"backbone.{VGG16_PLACES[place]}" for place in (24, 26, 28)},
        "backbone.extra.0.7.1": "backbone.conv6",
        "backbone.extra.0.7.3": "backbone.conv7",
        **{f"backbone.extra.{i + 1}.0": f"extras.{i}.reduce" for i in range(MAX_EXTRAS)},
        **{f"backbone.extra.{i + 1}.2": f"extras.{i}.conv" for i in range(MAX_EXTRAS)},
        **numbered({"head.classification_head.module_list.{}": "head.class_convs.{}"}),
        **numbered({"head.regression_head.module_list.{}": "head.box_convs.{}"}),
        "backbone.scale_weight": CONV4_3_SCALE,
    },
    markers=("backbone.scale_weight",),
    normalization=Normalization(mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255), std=(1.0, 1.0, 1.0)),
    settings=lambda config, state_dict: {"clip_anchors": "sizes", "whole_pixels": False, "anchor_sizes": SSD_SIZES},
)

RETINANET = Layout(
    name="torchvision",
    project="torchvision's retinanet_resnet50_fpn and retinanet_resnet50_fpn_v2",
    family="RetinaNet",
    names={
        "backbone.body": "backbone.body",
        "backbone.fpn.inner_blocks": "fpn.pyramid.inner_blocks",
        "backbone.fpn.layer_blocks": "fpn.pyramid.layer_blocks",
        "backbone.fpn.extra_blocks": "fpn",
        "head.classification_head.conv": "class_subnet.layers",
        "head.classification_head.cls_logits": "class_subnet.last",
        "head.regression_head.conv": "box_subnet.layers",
        "head.regression_head.bbox_reg": "box_subnet.last",
    },
    markers=("head.classification_head.cls_logits.weight", "backbone.fpn.extra_blocks.p6.weight"),
    normalization=IMAGENET,
    settings=_retinanet_settings,
    notes=("batch norms have an epsilon of 1e-5; torchvision's published COCO weights of its first version want 0",),
    convert=_without_background,
)
