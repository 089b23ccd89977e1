"""Networks without training whose outputs are like those of trained ones: for benchmarks that need no data.

The time of a network does not depend on its weights, that of post-processing does: as fresh heads stand, it would get
every score of every anchor, or next to none. So the last convolutions are scaled until logits and boxes vary, and their
biases shifted until a given share of all scores passes the threshold at which the network's paper evaluates it.
Where torchvision has the same network, both get the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.models.detection import retinanet_resnet50_fpn, ssd300_vgg16
from torchvision_ssd import build as torchvisions_ssd

from onestage.detectors import Detector, build, detector_config
from onestage.detectors.multibox import MultiBoxDetector
from onestage.detectors.retinanet import RetinaNet
from onestage.input_size import KeepRatio
from onestage.models.import_weights import checkpoint_settings, import_weights
from onestage.models.model_file import save_model
from onestage.structures import Categories

SHARE = 0.02  # of all scores above the threshold; networks trained for minutes have 1 to 4 %
LOGIT_SPREAD = 1.5  # standard deviation of each level's logits
BOX_SPREAD = 0.1  # of boxes about their anchors, in the anchors' sizes
IMAGES = 4  # that are looked at


@dataclass(frozen=True)
class Heads:
    """The last convolutions of a network; their channels are ordered (anchor, logit) and (anchor, coordinate)."""

    classes: Sequence[nn.Conv2d]
    boxes: Sequence[nn.Conv2d]
    logits: int  # of an anchor
    background: bool  # is logit 0, and scores are by softmax; else by sigmoid
    threshold: float
    box_variance: float


def make(
    name: str, files: Sequence[Path], model: Path, *, classes: int = 20, edges: tuple[int, int], share: float = SHARE
) -> nn.Module | None:
    """Write a model file of ours; returns torchvision's network in evaluation mode, None where it has none.

    Args:
        name: as `onestage.build` takes it.
        files: images like those to come.
        model: the file to write.
        classes: without background.
        edges: of images brought to a RetinaNet's input, pixels: the shorter side, and the longer one's limit.
        share: of the scores that are above the threshold of the evaluation.
    """
    torch.manual_seed(0)
    theirs = torchvisions(name, classes, edges)
    config = detector_config(name)
    if isinstance(config.input_resize, KeepRatio):
        config = config.adjusted({"edges": edges})
    if theirs is not None:
        spread(theirs, files, share)
    if theirs is not None and not name.startswith("ssd300-tf"):
        state = theirs.state_dict()
        detector = build(name, classes, config=replace(config, **checkpoint_settings(state, config))).eval()
        import_weights(detector, state)
    else:
        detector = build(name, classes, config=config).eval()
        spread(detector, files, share)
    save_model(model, detector, Categories.from_names([f"class {i}" for i in range(classes)]))
    return theirs


def torchvisions(name: str, classes: int, edges: tuple[int, int]) -> nn.Module | None:
    """Torchvision's network as it comes, without weights; None where it has none of the kind."""
    match name:
        case "ssd300-vgg16":
            return ssd300_vgg16(weights=None, weights_backbone=None, num_classes=classes + 1).eval()
        case "ssd300-tf_efficientnet_lite0":
            return torchvisions_ssd("tf_efficientnet_lite0", classes, None).eval()
        case "retinanet-resnet50":
            shorter, longer = edges
            return retinanet_resnet50_fpn(
                weights=None, weights_backbone=None, num_classes=classes, min_size=shorter, max_size=longer
            ).eval()
    return None


@torch.no_grad()
def spread(network: nn.Module, files: Sequence[Path], share: float) -> None:
    """Give the heads of a network in evaluation mode outputs that vary, so that `share` of the scores passes."""
    heads = heads_of(network)
    for conv in (*heads.classes, *heads.boxes):
        nn.init.zeros_(conv.get_parameter("bias"))
    before = outputs(network, files, (*heads.classes, *heads.boxes))
    for convs, target in ((heads.classes, LOGIT_SPREAD), (heads.boxes, BOX_SPREAD / heads.box_variance)):
        for conv in convs:
            conv.weight.mul_(target / torch.cat([x.flatten() for x in before[conv]]).std())
    maps = outputs(network, files, heads.classes)
    logits = torch.cat([_by_anchor(x, heads.logits) for conv in heads.classes for x in maps[conv]])
    shift = _shift(logits, heads, share)
    for conv in heads.classes:
        bias = conv.get_parameter("bias")
        bias[:: heads.logits if heads.background else 1] = shift if heads.background else -shift


def share_of_scores(detector: Detector, files: Sequence[Path]) -> float:
    """How many of a detector's scores are above the threshold of its evaluation."""
    heads = heads_of(detector)
    with torch.no_grad():
        maps = outputs(detector, files, heads.classes)
    logits = torch.cat([_by_anchor(x, heads.logits) for conv in heads.classes for x in maps[conv]])
    return _share(logits, 0.0, heads)


def heads_of(network: Any) -> Heads:
    """Of ours and of torchvision's."""
    if isinstance(network, MultiBoxDetector):
        convs = (list(network.head.class_convs), list(network.head.box_convs))
        return _heads(*convs, network.num_classes + 1, True, network.evaluation_selection.score_threshold, 0.1)
    if isinstance(network, RetinaNet):
        convs = ([network.class_subnet.last], [network.box_subnet.last])
        return _heads(*convs, network.num_classes, False, network.evaluation_selection.score_threshold, 1.0)
    classes, boxes = network.head.classification_head, network.head.regression_head
    if hasattr(classes, "module_list"):
        convs = (list(classes.module_list), list(boxes.module_list))
        return _heads(*convs, classes.num_columns, True, network.score_thresh, 0.1)
    return _heads([classes.cls_logits], [boxes.bbox_reg], classes.num_classes, False, network.score_thresh, 1.0)


def _heads(classes: Iterable[Any], boxes: Iterable[Any], *rest: Any) -> Heads:
    return Heads(cast(list[nn.Conv2d], classes), cast(list[nn.Conv2d], boxes), *rest)


def outputs(network: nn.Module, files: Sequence[Path], convs: Iterable[nn.Conv2d]) -> dict[nn.Conv2d, list[Tensor]]:
    """What some convolutions give for the first images, call by call (a subnet sees every level)."""
    found: dict[nn.Conv2d, list[Tensor]] = {}

    def keep(conv: Any, _: Any, output: Tensor) -> None:
        found.setdefault(conv, []).append(output)

    hooks = [conv.register_forward_hook(keep) for conv in convs]
    images = [decode_image(str(file), ImageReadMode.RGB) for file in files[:IMAGES]]
    if isinstance(network, Detector):
        for image in images:
            size_hw = network.resize.input_hw([network.resize.image_hw((image.shape[1], image.shape[2]))])
            network(nn.functional.interpolate(image[None].float(), size_hw, mode="bilinear"))
    else:
        network([image / 255 for image in images])
    for hook in hooks:
        hook.remove()
    return found


def _by_anchor(output: Tensor, logits: int) -> Tensor:
    # (B, anchors*logits, H, W) -> (B*H*W*anchors, logits)
    return output.permute(0, 2, 3, 1).reshape(-1, logits)


def _shift(logits: Tensor, heads: Heads, share: float) -> float:
    """By how much background must rise, or all others fall."""
    low, high = -20.0, 40.0
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if _share(logits, middle, heads) > share else (low, middle)
    return (low + high) / 2


def _share(logits: Tensor, shift: float, heads: Heads) -> float:
    if heads.background:
        background = logits[:, :1] + shift
        scores = torch.cat([background, logits[:, 1:]], dim=1).softmax(dim=1)[:, 1:]
    else:
        scores = (logits - shift).sigmoid()
    return float((scores > heads.threshold).float().mean())
