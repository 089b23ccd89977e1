"""torchvision's `ssd300_vgg16`: the layout of its state dict.

Its anchors have the sizes of the paper's COCO model whatever the number of classes (`scales` 0.07, 0.15, 0.33, ... of
300), and only their widths and heights are clipped, not their centres.
It normalises 0..1 RGB with mean (0.48235, 0.45882, 0.40784) and std 1/255: on our scale the mean times 255, std 1.
"""

from __future__ import annotations

from onestage.weights.layout import MAX_EXTRAS, Layout, heads, vgg16_modules

_UP_TO_CONV4_3 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)


def anchor_sizes(paper_sizes: tuple[float, ...]) -> tuple[float, ...]:
    """Always the same, whatever the data set."""
    return (21.0, 45.0, 99.0, 153.0, 207.0, 261.0, 315.0)


TORCHVISION_SSD = Layout(
    name="torchvision",
    project="torchvision ssd300_vgg16",
    modules={
        **vgg16_modules("backbone.features.{}", _UP_TO_CONV4_3),
        # Its first extra block starts with the fourth pooling, place 23 of the list, and ends with fc6 and fc7.
        **{f"backbone.extra.0.{place - 23}": f"backbone.conv5_{i + 1}" for i, place in enumerate((24, 26, 28))},
        "backbone.extra.0.7.1": "backbone.conv6",
        "backbone.extra.0.7.3": "backbone.conv7",
        **{f"backbone.extra.{i + 1}.0": f"extras.{i}.reduce" for i in range(MAX_EXTRAS)},
        **{f"backbone.extra.{i + 1}.2": f"extras.{i}.conv" for i in range(MAX_EXTRAS)},
        **heads("head.classification_head.module_list.{}", "head.regression_head.module_list.{}"),
    },
    entries={"backbone.scale_weight": "backbone.conv4_3_norm.scale"},
    marker="backbone.scale_weight",
    clip_anchors="sizes",
    anchor_sizes=anchor_sizes,
    mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255),
)
