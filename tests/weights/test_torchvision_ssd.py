"""torchvision's ssd300_vgg16: the same state dict in, the same boxes out; torchvision is asked in the test."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from onestage.detectors import build
from onestage.postprocess import Selection
from onestage.weights import import_weights


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
        found = ours.detect(ours(images), selection)

    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other["scores"]) == 200
        assert other["scores"].std() > 0.01
        assert len(other["labels"].unique()) >= 5
        assert torch.equal(one.labels + 1, other["labels"])  # theirs count background
        torch.testing.assert_close(one.scores, other["scores"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.boxes_xyxy, other["boxes"], atol=1e-2, rtol=1e-4)


def test_torchvisions_anchors_are_laid_at_import(theirs: nn.Module) -> None:
    ours = build("ssd300-vgg16", num_classes=8)
    import_weights(ours, theirs.state_dict())
    generator = theirs.anchor_generator
    assert isinstance(generator, DefaultBoxGenerator)
    grids = [[38, 38], [19, 19], [10, 10], [5, 5], [3, 3], [1, 1]]
    expected = generator._grid_default_boxes(grids, [300, 300]) * 300
    torch.testing.assert_close(ours.anchors_cxcywh, expected, atol=1e-3, rtol=0)
