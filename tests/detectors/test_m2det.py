"""Counts and behaviour of M2Det; the golden networks are in tests/weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from onestage.backbones import FeatureMaps
from onestage.boxes import encode_deltas
from onestage.detectors import build, build_from_config, config_of, describe, detector_config
from onestage.detectors.base import IMAGENET
from onestage.detectors.m2det import M2Det, M2DetConfig
from onestage.errors import UserError
from onestage.structures import Predictions, Targets

SIZE_HW = (320, 320)
TINY = replace(detector_config("m2det320-vgg16"), channels=16, num_levels=2)


class TwoMaps(FeatureMaps):
    """The smallest backbone that an M2Det can have, for tests of what comes after it."""

    channels = (8, 16)
    strides = (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.shallow = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.deep = torch.nn.Conv2d(8, 16, 2, stride=2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        shallow = self.shallow(images)
        return [shallow, self.deep(shallow)]


def on_two_maps(config: M2DetConfig) -> M2Det:
    return M2Det("m2det320-vgg16", config, TwoMaps(), 2, IMAGENET)


def repeated_reductions(size: int) -> float:
    """GMACs that the release spends on computing its one reduction (768 to 128 channels) seven times more."""
    return 7 * 768 * 128 * (size // 8) ** 2 / 1e9


# tests/golden's README: counts of the release, which computes its one reduction of the base feature once a level.
@pytest.mark.parametrize(
    ("name", "num_classes", "sfam", "parameters", "gmacs", "anchors"),
    [
        ("m2det320-vgg16", 80, False, 132_633_140, 74.30, 12_810),
        ("m2det320-vgg16", 80, True, 133_159_604, None, 12_810),
        ("m2det512-vgg16", 80, False, 132_633_140, 190.10, 32_760),
        ("m2det512-vgg16", 20, False, 92_817_860, 153.87, 32_760),
        ("m2det704-vgg16", 80, False, 132_633_140, None, 62_022),
        ("m2det800-vgg16", 80, False, 132_633_140, 464.78, 80_208),
        ("m2det320-resnet101", 80, False, 155_173_684, 92.82, 12_810),
        ("m2det512-resnet101", 80, True, 155_700_148, None, 32_760),
        ("m2det512-resnet101", 80, False, 155_173_684, 237.51, 32_760),
    ],
)
def test_counts_are_the_references(
    name: str, num_classes: int, sfam: bool, parameters: int, gmacs: float | None, anchors: int
) -> None:
    with torch.device("meta"):
        about = describe(build(name, num_classes, config=replace(detector_config(name), sfam=sfam)))
    assert about.parameters == parameters
    assert about.anchors == anchors
    assert {anchors for _, _, anchors in about.cells} == {6}
    if gmacs is not None:
        assert about.gmacs + repeated_reductions(about.input_hw[0]) == pytest.approx(gmacs, abs=0.006)


def test_a_resnets_stages_are_the_releases_by_default_and_others_by_choice() -> None:
    released = build("m2det320-resnet50", 2, config=replace(detector_config("m2det320-resnet50"), num_levels=1))
    assert released.backbone.channels == (512, 2048)
    usual = build("m2det320-resnet50", 2, config=replace(released.config, resnet_stages=(2, 3)))
    assert usual.backbone.channels == (512, 1024)
    images = torch.zeros(1, 3, 64, 64)
    for detector in (released, usual):
        shallow, deep = detector.eval().backbone(images)
        assert (shallow.shape[-1], deep.shape[-1]) == (8, 4)
    with pytest.raises(UserError, match=r"stages \(1, 4\); expected"):
        build("m2det320-resnet50", 2, config=replace(released.config, resnet_stages=(1, 4)))


def test_what_it_learns_is_what_it_detects_by_soft_nms() -> None:
    detector = build("m2det320-vgg16", 2, config=TINY)
    assert detector.evaluation_selection.nms == "soft-linear"  # Zhao 2019, 3.3
    assert detector.evaluation_selection.iou_threshold == 0.3  # `Nt` of the soft-NMS that its release calls
    box_xyxy = torch.tensor([[40.0, 60.0, 160.0, 200.0]])
    targets = [Targets(box_xyxy, torch.tensor([1]), torch.tensor([False]))]
    anchors = detector.anchors_cxcywh(SIZE_HW)
    deltas = encode_deltas(box_xyxy.expand(len(anchors), 4), anchors, (0.1, 0.2))[None]
    logits = torch.zeros(1, len(anchors), 3)
    logits[..., 0] = 10.0
    logits[0, deltas.abs().sum(-1).argmin()] = torch.tensor([0.0, 0.0, 10.0])
    predictions = Predictions(logits, deltas)
    assert detector.losses(predictions, targets, SIZE_HW).sums["box"].item() == pytest.approx(0, abs=1e-4)
    (found,) = detector.detect(predictions, detector.evaluation_selection, SIZE_HW)
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.boxes_xyxy, box_xyxy, atol=0.05, rtol=0)


def test_it_is_built_again_from_its_json() -> None:
    detector = build("m2det320-vgg16", 2, config=replace(TINY, sfam=True, shared_reduction=False).with_quick_start())
    again = build_from_config(json.loads(json.dumps(config_of(detector))))
    assert again.config == detector.config
    assert again.state_dict().keys() == detector.state_dict().keys()
    assert torch.equal(again.head.anchors, detector.head.anchors)


def test_a_step_in_less_memory_has_the_same_loss_and_gradients() -> None:
    torch.manual_seed(0)
    plain, frugal = on_two_maps(TINY), on_two_maps(replace(TINY, checkpoint_activations=True))
    frugal.load_state_dict(plain.state_dict())
    images = torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8)
    box_xyxy = torch.tensor([[40.0, 60.0, 160.0, 200.0]])
    targets = [Targets(box_xyxy, torch.tensor([1]), torch.tensor([False]))] * 2
    sums = []
    for detector in (plain, frugal):
        losses = detector.train().losses(detector(images), targets, SIZE_HW)
        torch.stack(list(losses.sums.values())).sum().backward()
        sums.append(losses.sums)
    torch.testing.assert_close(*sums)
    for (name, one), (_, other) in zip(plain.named_parameters(), frugal.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_group_norms_tame_the_first_gradient_of_the_whole_pyramid() -> None:
    """Eight TUMs, as the made recipe has them; Yang 2019 (arXiv 1902.08129): batch norms make it grow with depth."""
    images = torch.randint(0, 256, (2, 3, *SIZE_HW), dtype=torch.uint8)
    norms = {}
    for norm in ("batch", "group"):
        torch.manual_seed(0)
        config = replace(detector_config("m2det320-vgg16"), channels=16, norm=norm)
        detector = on_two_maps(config).train()
        for parameter in detector.backbone.parameters():
            parameter.requires_grad_(False)
        predictions = detector(images)
        (predictions.class_logits.square().mean() + predictions.box_deltas.square().mean()).backward()
        norms[norm] = float(torch.nn.utils.clip_grad_norm_(detector.parameters(), torch.inf))
    assert norms["group"] < norms["batch"] / 3


def test_anchor_sizes_are_one_a_scale_and_one_more() -> None:
    with pytest.raises(UserError, match="expected 7 positive"):
        detector_config("m2det320-vgg16").adjusted({"anchor_sizes": (30.0, 60.0)})


def test_the_light_one_reads_any_timm_backbone_at_strides_8_and_32_and_costs_as_much_as_a_light_ssd() -> None:
    detector = build("m2det320-tf_efficientnet_lite0", 6)
    assert [conv.conv.in_channels for conv in (detector.mlfpn.base.shallow, detector.mlfpn.base.deep)] == [40, 320]
    about = describe(detector)
    assert about.anchors == 12_810
    assert 1.2 < about.gmacs < 1.8
