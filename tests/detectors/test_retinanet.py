"""Counts, shapes and behaviour of RetinaNet; the golden and torchvision's networks are in tests/weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from onestage.boxes import encode_deltas
from onestage.detectors import build, build_from_config, config_of, describe, detector_config
from onestage.detectors.retinanet import ATSS_SETTINGS, RetinaNet
from onestage.errors import UserError
from onestage.input_size import KeepRatio, Stretch
from onestage.structures import Predictions, Targets

SMALL = "retinanet-test_resnet"
SIZE_HW = (320, 320)

# tests/golden's README counts learned batch norms: 2 for each of the 26,560 channels of ResNet-50's (52,672: -101's).
NORMS_OF_RESNET50, NORMS_OF_RESNET101 = 53_120, 105_344


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("retinanet-resnet50", 80, 37_968_692 - NORMS_OF_RESNET50),
        ("retinanet-resnet50", 20, 36_723_992 - NORMS_OF_RESNET50),
        ("retinanet-resnet101", 80, 56_960_820 - NORMS_OF_RESNET101),
    ],
)
def test_counts_are_the_references_whose_batch_norms_learn(name: str, num_classes: int, parameters: int) -> None:
    about = describe(build(name, num_classes))
    assert about.parameters == parameters
    assert {anchors for _, _, anchors in about.cells} == {9}
    learning = replace(detector_config(name), backbone_norm="batch")
    norms = NORMS_OF_RESNET101 if "101" in name else NORMS_OF_RESNET50
    assert describe(build(name, num_classes, config=learning)).parameters == parameters + norms


def test_the_first_guess_is_one_object_in_a_hundred() -> None:
    detector = build(SMALL, 5).eval()
    with torch.no_grad():
        scores = detector(torch.randint(0, 256, (1, 3, *SIZE_HW), dtype=torch.uint8)).class_logits.sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, abs=0.003)  # Lin 2017, 4.1: pi = 0.01


@pytest.mark.parametrize("edges", [None, (200, 330)])
def test_inputs_of_any_size_give_one_output_an_anchor(edges: tuple[int, int] | None) -> None:
    detector = build(SMALL, 3, config=detector_config(SMALL).adjusted({"edges": edges})).eval()
    input_hw = (320, 320) if edges is None else detector.resize.input_hw([(200, 330), (330, 200)])
    anchors = detector.anchors_cxcywh(input_hw)
    with torch.no_grad():
        predictions = detector(torch.zeros(2, 3, *input_hw, dtype=torch.uint8))
    assert predictions.class_logits.shape == (2, len(anchors), 3)
    assert predictions.box_deltas.shape == (2, len(anchors), 4)
    assert len(anchors) == sum(height * width * count for height, width, count in detector.cells(input_hw))


def test_a_frozen_backbone_keeps_its_statistics_and_scales_in_training() -> None:
    frozen = build("retinanet-resnet18", 2)
    assert not [name for name, _ in frozen.backbone.named_parameters() if "bn" in name]
    before = {name: value.clone() for name, value in frozen.backbone.named_buffers()}
    frozen.train()(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert before
    assert all(torch.equal(value, before[name]) for name, value in frozen.backbone.named_buffers())


def test_what_it_learns_is_what_it_detects() -> None:
    """Predictions made of the targets themselves have no box loss and detect the object."""
    detector = build(SMALL, 2)
    box_xyxy = torch.tensor([[40.0, 60.0, 160.0, 200.0]])
    targets = [Targets(box_xyxy, torch.tensor([1]), torch.tensor([False]))]
    anchors = detector.anchors_cxcywh(SIZE_HW)
    deltas = encode_deltas(box_xyxy.expand(len(anchors), 4), anchors, (1.0, 1.0))[None]
    logits = torch.full((1, len(anchors), 2), -10.0)
    logits[0, deltas.abs().sum(-1).argmin(), 1] = 10.0
    predictions = Predictions(logits, deltas)
    losses = detector.losses(predictions, targets, SIZE_HW)
    assert losses.sums["box"].item() == pytest.approx(0, abs=1e-4)
    assert losses.divisor > 0
    (found,) = detector.detect(predictions, detector.evaluation_selection, SIZE_HW)
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.boxes_xyxy, box_xyxy, atol=0.05, rtol=0)


def test_candidates_are_the_best_thousand_of_each_level() -> None:
    """Lin 2017, 4.1: at most 1,000 of each level, of all classes together."""
    detector = build(SMALL, 4)
    assert isinstance(detector, RetinaNet)
    anchors = detector.anchors_cxcywh(SIZE_HW)
    logits = torch.randn(1, len(anchors), 4)
    assert detector.level_cut is not None
    kept = detector.level_cut(logits.sigmoid(), SIZE_HW)
    first = 40 * 40 * 9
    of_first = logits[0, :first].flatten().topk(1000).values.min().sigmoid()
    assert int((kept[0, :first] > 0).sum()) == 1000
    assert kept[0, :first][kept[0, :first] > 0].min() == of_first
    coarsest = 3 * 3 * 9
    assert int((kept[0, -coarsest:] > 0).sum()) == coarsest * 4


def test_anchors_that_were_laid_while_evaluating_serve_training() -> None:
    config = replace(detector_config(SMALL), box_loss="giou", anchor_sizes=(33.0, 66.0, 132.0, 264.0, 528.0))
    detector = build(SMALL, 2, config=config)  # anchors that no other test has laid before
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        detector.eval().detect(detector(images), detector.evaluation_selection, (64, 96))
    targets = [Targets(torch.tensor([[10.0, 10, 50, 40]]), torch.tensor([1]), torch.tensor([False]))]
    losses = detector.train().losses(detector(images.expand(2, -1, -1, -1)), targets * 2, (64, 96))
    torch.stack(list(losses.sums.values())).sum().backward()
    assert losses.divisor > 0


def an_atss() -> RetinaNet:
    config = replace(detector_config(SMALL), channels=32, subnet_depth=1, **ATSS_SETTINGS)
    detector = build(SMALL, 2, config=config)
    assert isinstance(detector, RetinaNet)
    return detector


def test_an_atss_learns_where_an_objects_centre_is() -> None:
    """Its centerness multiplies scores, weighs the box losses and divides them."""
    detector, box_xyxy = an_atss(), torch.tensor([[40.0, 60.0, 160.0, 200.0]])
    anchors = detector.anchors_cxcywh(SIZE_HW)
    assert len(anchors) == 2134
    targets = [Targets(box_xyxy, torch.tensor([1]), torch.tensor([False]))]
    deltas = encode_deltas(box_xyxy.expand(len(anchors), 4), anchors, (0.1, 0.2))[None]
    predictions = Predictions(torch.zeros(1, len(anchors), 3), deltas)
    losses = detector.losses(predictions, targets, SIZE_HW)
    positives = int(losses.divisor)
    assert 1 < positives < 45
    assert losses.sums["box"].item() == pytest.approx(0, abs=1e-3)
    assert losses.sums["centerness"].item() == pytest.approx(math.log(2) * positives, rel=1e-5)  # logit 0, any target
    assert set(losses.own_divisors) == {"box"}
    assert 0 < losses.own_divisors["box"].item() < positives
    logits = torch.full((1, len(anchors), 3), -8.0)
    logits[0, 500], logits[0, 700] = torch.tensor([-8.0, 8, 8]), torch.tensor([-8.0, 8, -8])
    _, scores = detector.scored_boxes(Predictions(logits, deltas), SIZE_HW)
    assert scores.shape == (1, len(anchors), 2)
    assert scores[0, 500, 1] > 0.99
    assert scores[0, 700, 1] < 0.01


@pytest.mark.parametrize("settings", [{"assignment": "atss"}, ATSS_SETTINGS])
def test_by_atss_a_few_steps_lower_the_loss(settings: dict) -> None:
    torch.manual_seed(0)
    config = replace(detector_config(SMALL), channels=32, subnet_depth=1, **settings)
    detector = build(SMALL, 2, config=config).train()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    targets = [Targets(torch.tensor([[10.0, 10, 50, 40]]), torch.tensor([1]), torch.tensor([False]))] * 2
    optimizer, totals = torch.optim.AdamW(detector.parameters(), 2e-3), []
    for _ in range(6):
        losses = detector.losses(detector(images), targets, (64, 96))
        total = (torch.stack([*losses.sums.values()]) / losses.divisors().clamp(min=1)).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert losses.divisor > 0
    assert totals[-1] < 0.8 * totals[0]


def test_it_is_built_again_from_its_json() -> None:
    for settings in ({"edges": (300, 500)}, {"image_size": 256, "box_loss": "giou"}, ATSS_SETTINGS):
        detector = build(SMALL, 2, config=detector_config(SMALL).adjusted(settings))
        again = build_from_config(json.loads(json.dumps(config_of(detector))))
        assert again.config == detector.config
        assert again.resize == detector.resize
        assert again.state_dict().keys() == detector.state_dict().keys()


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ({"side": 256}, Stretch(256)),
        ({"shortest": 300, "longest": 500, "multiple": 32}, KeepRatio(300, 500)),
    ],
)
def test_model_files_of_version_0_1_are_read(resize: dict[str, int], expected: Stretch | KeepRatio) -> None:
    written = config_of(build(SMALL, 2))
    settings = {name: value for name, value in written["settings"].items() if name not in ("image_size", "edges")}
    old = {**written, "settings": {**settings, "resize": resize}}
    del old["selection"], old["settings"]["box_loss_weight"]
    assert build_from_config(old).resize == expected


def test_images_are_resized_one_way() -> None:
    assert detector_config("retinanet-resnet50").input_resize == KeepRatio(800, 1333)
    assert detector_config("retinanet-resnet50").adjusted({"image_size": 512}).input_resize == Stretch(512)
    with pytest.raises(UserError, match="both set"):
        detector_config("retinanet-resnet50").adjusted({"image_size": 512, "edges": (600, 1000)})
    with pytest.raises(UserError, match="multiples of 32"):
        detector_config("retinanet-resnet50").adjusted({"image_size": 300})


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("ssd300-vgg16", {"edges": (300, 500)}, "SSD has no such setting"),
        (
            "retinanet-resnet50",
            {"neck": "top_down"},
            "RetinaNet has no such setting; it has anchor_scales",
        ),
        ("m2det320-vgg16", {"box_loss": "giou"}, "M2Det has no such setting"),
    ],
)
def test_a_setting_of_another_detector_is_explained(name: str, setting: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        detector_config(name).adjusted(setting)


def test_the_second_versions_subnets_have_group_norms_and_no_biases() -> None:
    detector = build(SMALL, 2, config=replace(detector_config(SMALL), subnet_norm="group"))
    layers = detector.get_submodule("class_subnet.layers")
    assert sum(isinstance(module, nn.GroupNorm) for module in layers.modules()) == 4
    assert all(module.bias is None for module in layers.modules() if isinstance(module, nn.Conv2d))
