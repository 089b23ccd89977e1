"""torchvision's detectors: the same state dict in, the same boxes out; torchvision is asked in the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2, ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from onestage.detectors import build, describe, detector_config
from onestage.models.import_weights import checkpoint_settings, import_weights
from onestage.postprocess import Selection


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """torchvision's network of 8 classes; fresh weights, spread so that scores differ between anchors and classes."""
    torch.manual_seed(0)
    network = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=9).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name == "backbone.features.0.weight":
                value /= 58  # of 0..255 pixels; with trained weights the later layers bring this about
            elif name.endswith("bias"):
                value.normal_(0, 0.1)
            elif "classification_head" in name:
                value -= value.mean(dim=(1, 2, 3), keepdim=True)  # what all cells have in common
    return network


def test_torchvisions_state_dict_gives_torchvisions_boxes(theirs: nn.Module) -> None:
    ours = build("ssd300-vgg16", num_classes=8).eval()
    report = import_weights(ours, theirs.state_dict())
    assert report.layout == "torchvision"

    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(list(images.float() / 255))
        selection = Selection(score_threshold=0.01, iou_threshold=0.45, candidates_per_class=400, max_detections=200)
        found = ours.detect(ours(images), selection, (300, 300))

    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other["scores"]) == 200
        assert other["scores"].std() > 0.01
        assert len(other["labels"].unique()) >= 5
        assert torch.equal(one.labels + 1, other["labels"])  # theirs count background
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.boxes_xyxy, other["boxes"], atol=1e-2, rtol=1e-4)


def test_torchvisions_anchors_are_laid_at_import(theirs: nn.Module) -> None:
    ours: Any = build("ssd300-vgg16", num_classes=8)
    import_weights(ours, theirs.state_dict())
    generator = theirs.anchor_generator
    assert isinstance(generator, DefaultBoxGenerator)
    grids = [[38, 38], [19, 19], [10, 10], [5, 5], [3, 3], [1, 1]]
    expected = generator._grid_default_boxes(grids, [300, 300]) * 300
    torch.testing.assert_close(ours.anchors_cxcywh((300, 300)), expected, atol=1e-3, rtol=0)


def spread(network: nn.Module) -> nn.Module:
    """torchvision's RetinaNet with weights whose scores differ between anchors and classes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "cls_logits" in name or "bbox_reg" in name:
                value.normal_(0, 0.02 if "cls" in name else 0.01)
        for name, value in network.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                value.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize("make", [retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2], ids=["v1", "v2"])
def test_torchvisions_retinanet_gives_torchvisions_boxes(make) -> None:
    # images of a size that is left as it is, so that two programs' interpolations do not meet
    theirs = spread(make(weights=None, weights_backbone=None, num_classes=6, min_size=192, max_size=288))
    config = detector_config("retinanet-resnet50")
    state_dict = theirs.state_dict()
    ours = build("retinanet-resnet50", 6, config=replace(config, **checkpoint_settings(state_dict, config))).eval()
    report = import_weights(ours, state_dict)
    assert report.layout == "torchvision"
    assert sorted([*report.loaded.values(), *report.left_out]) == sorted(state_dict)

    images = torch.randint(0, 256, (2, 3, 192, 288), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs(list(images.float() / 255))
        found = ours.detect(ours(images), replace(ours.evaluation_selection, max_detections=300), (192, 288))
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other["scores"]) > 100
        assert len(other["scores"].unique()) > 100
        assert len(other["labels"].unique()) >= 3
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-4, rtol=1e-3)
        assert (one.labels == other["labels"]).float().mean() > 0.98  # equal scores may change places
        close = (one.boxes_xyxy - other["boxes"]).abs().amax(dim=1) < 0.05
        assert close.float().mean() > 0.98


@pytest.mark.parametrize(
    ("make", "parameters", "gmacs"),
    [(retinanet_resnet50_fpn, 34_014_999, 151.54), (retinanet_resnet50_fpn_v2, 38_198_935, 152.24)],
    ids=["v1", "v2"],
)
def test_torchvisions_retinanet_has_torchvisions_counts(make, parameters: int, gmacs: float) -> None:
    with torch.device("meta"):
        theirs = make(weights=None, weights_backbone=None, num_classes=91)
    config = detector_config("retinanet-resnet50")
    settings = checkpoint_settings(theirs.state_dict(), config)
    if make is retinanet_resnet50_fpn:
        settings["backbone_norm"] = "frozen"  # as torchvision builds it when it has weights
    config = replace(config, **settings).adjusted({"image_size": 800})  # the input of torchvision's counts
    about = describe(build("retinanet-resnet50", 91, config=config))
    assert about.parameters == parameters
    assert about.gmacs == pytest.approx(gmacs, abs=0.01)


def test_the_slot_for_background_is_dropped_where_our_classes_are_one_less() -> None:
    theirs = spread(retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4))
    state_dict = theirs.state_dict()
    config = detector_config("retinanet-resnet50")
    config = replace(config, **checkpoint_settings(state_dict, config))
    whole, without = (
        build("retinanet-resnet50", 4, config=config).eval(),
        build("retinanet-resnet50", 3, config=config).eval(),
    )
    import_weights(whole, state_dict)
    assert "slot for background dropped" in str(import_weights(without, state_dict))
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(without(images).class_logits, whole(images).class_logits[..., 1:])
