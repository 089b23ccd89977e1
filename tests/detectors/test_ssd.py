"""Counts, shapes and behaviour of the SSD detectors; the golden networks are in tests/weights."""

import json

import pytest
import torch

from onestage.boxes import encode_deltas
from onestage.detectors import build, build_from_config, config_of, describe, detector_config
from onestage.errors import UserError
from onestage.postprocess import Selection
from onestage.structures import Predictions, Targets

SIZE_HW = (300, 300)


# tests/golden's README: counts of the reference implementations.
@pytest.mark.parametrize(
    ("name", "num_classes", "parameters", "gmacs", "anchors", "per_cell"),
    [
        ("ssd300-vgg16", 20, 26_285_486, 31.37, 8_732, (4, 6, 6, 6, 4, 4)),
        ("ssd300-vgg16", 80, 34_305_206, 34.36, 8_732, (4, 6, 6, 6, 4, 4)),
        ("ssd300-vgg16", 90, 35_641_826, 34.86, 8_732, (4, 6, 6, 6, 4, 4)),
        ("ssd512-vgg16", 20, 27_188_676, 90.21, 24_564, (4, 6, 6, 6, 6, 4, 4)),
        ("ssd512-vgg16", 80, 36_038_196, 98.63, 24_564, (4, 6, 6, 6, 6, 4, 4)),
    ],
)
def test_counts_are_the_references(
    name: str, num_classes: int, parameters: int, gmacs: float, anchors: int, per_cell: tuple[int, ...]
) -> None:
    about = describe(build(name, num_classes))
    assert about.parameters == parameters
    assert about.gmacs == pytest.approx(gmacs, abs=0.005)
    assert about.anchors == anchors
    assert tuple(anchors for _, _, anchors in about.cells) == per_cell


def test_a_quick_start_adds_batch_norms_and_travels_in_the_configuration() -> None:
    detector = build("ssd300-vgg16", 20, config=detector_config("ssd300-vgg16").with_quick_start())
    # The paper's 26,285,486, a scale and a shift for conv6 and conv7 (1,024 channels each) and the extras (1,920
    # without conv11_2's 256, which has none), whose biases go.
    assert describe(detector).parameters == 26_285_486 + 2 * 2_048 + 2 * 1_664 - 1_664
    again = build_from_config(json.loads(json.dumps(config_of(detector))))
    assert again.state_dict().keys() == detector.state_dict().keys()
    assert "backbone.conv6_norm.running_mean" in again.state_dict()


def test_a_quick_starts_head_begins_near_the_class_balance_of_mining() -> None:
    detector = build("ssd300-vgg16", 20, config=detector_config("ssd300-vgg16").with_quick_start())
    maps = [torch.randn(1, channels, 4, 4) for channels in (512, 1024, 512, 256, 256, 256)]
    with torch.no_grad():
        predictions = detector.get_submodule("head")(maps)
    assert predictions.class_logits[..., 1:].std() == pytest.approx(0.3, rel=0.2)  # the maps' borders have less
    background = predictions.class_logits.softmax(dim=-1)[..., 0].mean()
    assert background == pytest.approx(0.75, abs=0.02)  # 3 of 4 anchors that mining keeps


@pytest.mark.parametrize("neck", ["none", "top_down"])
@pytest.mark.parametrize(
    ("name", "anchors"), [("ssd300-test_efficientnet", 8_732), ("ssd512-test_efficientnet", 24_564)]
)
def test_any_timm_backbone_gives_one_output_an_anchor(name: str, anchors: int, neck: str) -> None:
    detector = build(name, 3, config=detector_config(name).adjusted({"neck": neck})).eval()
    side = int(name[3:6])
    images = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        predictions = detector(images)
    assert predictions.class_logits.shape == (1, anchors, 4)
    assert predictions.box_deltas.shape == (1, anchors, 4)
    assert detector.anchors_cxcywh((side, side)).shape == (anchors, 4)


def test_the_conv4_3_norm_scales_each_cell_to_a_length_of_20() -> None:
    norm = build("ssd300-vgg16", 1).get_submodule("backbone.conv4_3_norm")
    lengths = norm(torch.rand(1, 512, 2, 3) + 0.1).norm(dim=1)  # Liu 2016, 3.1
    torch.testing.assert_close(lengths, torch.full((1, 2, 3), 20.0))


def test_normalisation_is_the_first_layer_and_pixels_go_in_as_they_are() -> None:
    detector = build("ssd300-test_efficientnet", 2).eval()
    detector.set_normalization((10, 20, 30), (2, 4, 5))
    images = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8)
    by_hand = (images.float() - torch.tensor([10.0, 20, 30])[:, None, None]) / torch.tensor([2.0, 4, 5])[:, None, None]
    with torch.no_grad():
        ours, expected = detector(images), detector.raw(by_hand)
    torch.testing.assert_close(ours.class_logits, expected.class_logits)


def test_a_detector_is_built_again_from_its_json() -> None:
    settings = {"anchor_sizes": (20.0, 40.0, 80.0, 120.0, 160.0, 200.0, 240.0), "neck": "none"}
    config = detector_config("ssd300-test_efficientnet").adjusted(settings)
    detector = build("ssd300-test_efficientnet", 2, config=config)
    again = build_from_config(json.loads(json.dumps(config_of(detector))))
    assert torch.equal(detector.head.anchors, again.head.anchors)
    assert detector.state_dict().keys() == again.state_dict().keys()
    assert config_of(again) == config_of(detector)


def test_what_it_learns_is_what_it_detects() -> None:
    """Predictions made of the targets themselves have no box loss and detect the object."""
    detector = build("ssd300-test_efficientnet", 2)
    box_xyxy = torch.tensor([[40.0, 60.0, 160.0, 200.0]])
    targets = [Targets(box_xyxy, torch.tensor([1]), torch.tensor([False]))]
    anchors = detector.anchors_cxcywh(SIZE_HW)
    deltas = encode_deltas(box_xyxy.expand(len(anchors), 4), anchors, (0.1, 0.2))[None]
    logits = torch.zeros(1, len(anchors), 3)
    logits[..., 0] = 10.0
    best = deltas.abs().sum(-1).argmin()
    logits[0, best] = torch.tensor([0.0, 0.0, 10.0])
    predictions = Predictions(logits, deltas)
    assert detector.losses(predictions, targets, SIZE_HW).sums["box"].item() == pytest.approx(0, abs=1e-5)
    (found,) = detector.detect(predictions, Selection(score_threshold=0.5), SIZE_HW)
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.boxes_xyxy, box_xyxy, atol=0.05, rtol=0)


def test_the_light_heads_first_guess_is_mostly_background() -> None:
    detector = build("ssd300-test_efficientnet", 5).eval()
    with torch.no_grad():
        logits = detector(torch.full((1, 3, 300, 300), 127, dtype=torch.uint8)).class_logits
    assert logits.softmax(-1)[..., 0].mean().item() == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sdd300-vgg16", 20), "ssd300-vgg16"),
        (("ssd300-resnet19", 20), "resnet1"),
        (("ssd300-vgg16", 0), "0 classes"),
    ],
)
def test_a_name_or_number_that_does_not_fit_is_explained(arguments: tuple[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(*arguments)


def test_anchor_sizes_that_do_not_fit_are_explained() -> None:
    with pytest.raises(UserError, match="expected 7 positive"):
        detector_config("ssd300-vgg16").adjusted({"anchor_sizes": (30.0, 60.0)})
    config = config_of(build("ssd300-test_efficientnet", 2))
    config["settings"]["dropout"] = 0.5
    with pytest.raises(UserError, match="unknown setting 'dropout'"):
        build_from_config(config)
