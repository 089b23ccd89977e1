"""Counts, shapes and behaviour of GFL; the reference's network, losses and boxes are in tests/models, tests/test_*."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from onestage.boxes import boxes_to_distances
from onestage.detectors import build, build_from_config, config_of, describe, detector_config
from onestage.detectors.gfl import GFL
from onestage.input_size import KeepRatio, Stretch
from onestage.structures import Predictions, Targets

SMALL = "gfl-test_efficientnet"
SIZE_HW = (320, 320)
NORMS_OF_RESNET50 = 53_120  # two for each channel, which learn in the reference


def a_gfl(**settings) -> GFL:
    torch.manual_seed(0)
    detector = build(SMALL, 2, config=replace(detector_config(SMALL), **settings))
    assert isinstance(detector, GFL)
    return detector


def test_counts_are_the_references_whose_batch_norms_learn() -> None:
    about = describe(build("gfl-resnet50", 80))
    assert about.parameters == 32_440_537 - NORMS_OF_RESNET50
    assert {positions for _, _, positions in about.cells} == {1}


def test_the_light_network_has_few_positions_and_is_light_enough_for_a_cpu() -> None:
    light = describe(build("gfl-tf_efficientnet_lite0", 20))
    assert light.anchors == 40 * 40 + 20 * 20 + 10 * 10 + 5 * 5
    assert 1.2 < light.gmacs < 1.8


def test_the_first_guess_is_one_object_in_a_hundred_and_a_box_of_eight_strides() -> None:
    detector = a_gfl(norm="group", channels=64).eval()
    with torch.no_grad():
        predictions = detector(torch.randint(0, 256, (1, 3, *SIZE_HW), dtype=torch.uint8))
        boxes = detector.boxes_xyxy(predictions, SIZE_HW)[0]
    assert predictions.class_logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.003)
    sides = (boxes[:, 2:] - boxes[:, :2]).split([1600, 400, 100, 25])  # of bins 0 to 8, a side's mean is 4
    assert [round(level.mean().item()) for level in sides] == pytest.approx([64, 128, 256, 512], rel=0.15)


@pytest.mark.parametrize("neck", ["fpn", "pan"])
@pytest.mark.parametrize("edges", [None, (200, 330)])
def test_inputs_of_any_size_give_one_output_a_position(edges: tuple[int, int] | None, neck: str) -> None:
    config = replace(detector_config(SMALL).adjusted({"edges": edges}), neck=neck, levels=5, channels=32)
    detector = build(SMALL, 3, config=config).eval()
    input_hw = (320, 320) if edges is None else detector.resize.input_hw([(200, 330), (330, 200)])
    anchors = detector.anchors_cxcywh(input_hw)
    with torch.no_grad():
        predictions = detector(torch.zeros(2, 3, *input_hw, dtype=torch.uint8))
        boxes, scores = detector.scored_boxes(predictions, input_hw)
    assert predictions.class_logits.shape == scores.shape == (2, len(anchors), 3)
    assert predictions.box_deltas.shape == (2, len(anchors), 4 * 9)
    assert boxes.shape == (2, len(anchors), 4)
    assert len(anchors) == sum(height * width * count for height, width, count in detector.cells(input_hw))


def distribution_of(distances: torch.Tensor, bins: int) -> torch.Tensor:
    """Logits (A, 4 * bins) of distributions over two bins, whose means are the distances."""
    near = 1 - (distances[..., None] - torch.arange(bins)).abs()
    return near.clamp(min=1e-9).log().flatten(-2)


@pytest.mark.parametrize("assignment", ["atss", "task-aligned"])
def test_what_it_learns_is_what_it_detects(assignment: str) -> None:
    """Predictions made of the targets themselves have no box loss and detect the object."""
    detector = a_gfl(assignment=assignment)
    box_xyxy = torch.tensor([[40.0, 60.0, 160.0, 200.0]])
    targets = [Targets(box_xyxy, torch.tensor([1]), torch.tensor([False]))]
    anchors = detector.anchors_cxcywh(SIZE_HW)
    distances = boxes_to_distances(box_xyxy, anchors[:, :2]) / (anchors[:, 2:3] / 8)
    of_box = distribution_of(distances.clamp(0, 8), 9)[None]
    logits = torch.full((1, len(anchors), 2), -10.0)
    inside = (distances.amin(dim=1) > 0) & (distances.amax(dim=1) <= 8)
    logits[0, inside, 1] = 10.0
    predictions = Predictions(logits, of_box)
    losses = detector.losses(predictions, targets, SIZE_HW)
    assert losses.divisor > 1
    assert (losses.sums["box"] / losses.own_divisors["box"]).item() == pytest.approx(0, abs=1e-3)
    (found,) = detector.detect(predictions, detector.evaluation_selection, SIZE_HW)
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.boxes_xyxy, box_xyxy, atol=0.05, rtol=0)


@pytest.mark.parametrize("assignment", ["atss", "task-aligned"])
def test_a_few_steps_lower_the_loss(assignment: str) -> None:
    detector = a_gfl(assignment=assignment).train()
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    targets = [Targets(torch.tensor([[10.0, 10, 60, 50]]), torch.tensor([1]), torch.tensor([False]))] * 2
    optimizer, totals = torch.optim.AdamW(detector.parameters(), 2e-3), []
    for _ in range(8):
        losses = detector.losses(detector(images), targets, (96, 96))
        total = (torch.stack([*losses.sums.values()]) / losses.divisors().clamp(min=1)).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert losses.divisor > 0
    assert totals[-1] < 0.7 * totals[0]
    assert all(scale.grad is not None for scale in detector.scales)


def test_levels_share_convolutions_and_have_batch_norms_of_their_own() -> None:
    detector = a_gfl(depth=2)
    assert len(detector.class_branch.tower.convs) == len(detector.box_branch.tower.convs) == 2
    norms = [module for module in detector.class_branch.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 2 * 4
    detector.train()(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    assert len({round(norm.running_var.mean().item(), 9) for norm in norms}) == 8
    grouped = a_gfl(norm="group", channels=64, shared_depth=0, depth=2)
    assert sum(isinstance(module, nn.GroupNorm) for module in grouped.modules()) == 2 * 2


def test_it_is_built_again_from_its_json() -> None:
    for settings in ({"edges": (300, 500)}, {"image_size": 256, "assignment": "atss"}):
        detector = build(SMALL, 2, config=detector_config(SMALL).adjusted(settings))
        again = build_from_config(json.loads(json.dumps(config_of(detector))))
        assert again.config == detector.config
        assert again.state_dict().keys() == detector.state_dict().keys()


def test_the_papers_keeps_proportions_and_the_light_one_stretches() -> None:
    assert detector_config("gfl-resnet50").input_resize == KeepRatio(800, 1333)
    assert detector_config(SMALL).input_resize == Stretch(320)
    assert detector_config("gfl-resnet50").adjusted({"image_size": 512}).input_resize == Stretch(512)
