"""The layouts of other projects, held against their own networks' outputs (tests/golden)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.reference_checkpoints import GOLDEN, checkpoint, images, outputs
from safetensors.torch import save_file

from onestage.boxes import cxcywh_to_xyxy
from onestage.detectors import Detector, RetinaNetConfig, build, detector_config
from onestage.errors import UserError
from onestage.models.import_weights import LAYOUTS, checkpoint_settings, find_layout, import_weights
from onestage.structures import Predictions

CAFFE, MMDETECTION = (123.0, 117.0, 104.0), (123.675, 116.28, 103.53)
CASES = [
    ("ssd_pytorch_ssd300_vgg16", "ssd300-vgg16", 20, "ssd.pytorch", CAFFE),
    ("lufficc_ssd300_vgg16", "ssd300-vgg16", 20, "lufficc", CAFFE),
    ("lufficc_ssd512_vgg16", "ssd512-vgg16", 20, "lufficc", CAFFE),
    ("seed_ssd300_vgg16", "ssd300-vgg16", 20, "mmdetection-1", MMDETECTION),
    ("seed_ssd512_vgg16", "ssd512-vgg16", 20, "mmdetection-1", MMDETECTION),
    ("seed_retinanet_r50_fpn", "retinanet-resnet50", 20, "seed", MMDETECTION),
    ("seed_m2det512_vgg16", "m2det512-vgg16", 20, "seed", MMDETECTION),
    ("official_m2det320_vgg16", "m2det320-vgg16", 80, "m2det", CAFFE),
    ("official_m2det512_vgg16_sfam", "m2det512-vgg16", 20, "m2det", CAFFE),
    ("official_m2det320_resnet101", "m2det320-resnet101", 80, "m2det", CAFFE),
    ("mmdet_gfl_r50_fpn", "gfl-resnet50", 80, "mmdetection", MMDETECTION),
    ("mmdet_atss_r50_fpn", "retinanet-resnet50", 80, "mmdetection", MMDETECTION),
]


def built_for(state_dict: dict[str, torch.Tensor], name: str, num_classes: int, layout: str | None = None) -> Any:
    """The detector that the file says it is, as `onestage import` builds it."""
    config = detector_config(name)
    return build(name, num_classes, config=replace(config, **checkpoint_settings(state_dict, config, layout))).eval()


@pytest.mark.parametrize(("case", "name", "num_classes", "layout", "mean"), CASES, ids=[case[0] for case in CASES])
def test_an_imported_checkpoint_gives_the_outputs_and_anchors_of_its_own_project(
    case: str, name: str, num_classes: int, layout: str, mean: tuple[float, float, float]
) -> None:
    state_dict = checkpoint(case)
    detector = built_for(state_dict, name, num_classes)
    report = import_weights(detector, state_dict)

    assert report.layout == layout
    assert sorted([*report.loaded.values(), *report.left_out]) == sorted(state_dict)  # every entry is accounted for
    assert not report.fresh
    assert detector.normalization.mean == mean
    assert (detector.normalization.std == (1, 1, 1)) == ("resnet50" not in name)

    reference = json.loads((GOLDEN / case / "reference.json").read_text())
    size_hw = (reference["input_size"],) * 2
    inputs = images(reference["input_size"])
    with torch.no_grad():
        predictions = detector.raw(inputs.flip(1) if layout == "m2det" else inputs)  # theirs are BGR
    anchors_cxcywh = detector.anchors_cxcywh(size_hw)
    if case == "seed_m2det512_vgg16":  # the square between two sizes is the last anchor of a cell, not the second
        predictions, anchors_cxcywh = Predictions(*map(square_last, predictions)), square_last(anchors_cxcywh[None])[0]
    boxes = "box" if case.startswith("mmdet_") else "box_deltas"
    compared = {boxes: predictions.box_deltas, "class_logits": predictions.class_logits}
    if "centerness" in reference["outputs"]:
        compared |= {
            "class_logits": predictions.class_logits[..., :-1],
            "centerness": predictions.class_logits[..., -1:],
        }
    for output, found in compared.items():
        index, expected, deviation = outputs(case, output)
        assert found.numel() == torch.tensor(reference["outputs"][output]["shape"]).prod()
        assert (found.flatten()[index] - expected).abs().max() <= 1e-4 * deviation

    if "anchors_xyxy_pixels_legacy" in reference["outputs"]:
        index, expected, _ = outputs(case, "anchors_xyxy_pixels_legacy")
        inclusive = cxcywh_to_xyxy(anchors_cxcywh) - torch.tensor([0.0, 0.0, 1.0, 1.0])  # x1 = x0 + width - 1
        assert (inclusive.flatten()[index] - expected).abs().max() <= 1e-3
    elif "anchors_cxcywh_normalised" in reference["outputs"]:
        index, expected, _ = outputs(case, "anchors_cxcywh_normalised")
        assert ((anchors_cxcywh / size_hw[0]).flatten()[index] - expected).abs().max() <= 1e-6
    elif "points_xy" in reference["outputs"]:
        index, expected, _ = outputs(case, "points_xy")
        assert torch.equal(anchors_cxcywh[:, :2].flatten()[index], expected)
    else:
        assert len(anchors_cxcywh) == reference["outputs"]["box_deltas"]["shape"][1]


def square_last(of_anchors: torch.Tensor) -> torch.Tensor:
    """(B, A, values) with the second of each cell's six anchors behind the others."""
    return of_anchors.unflatten(1, (-1, 6))[:, :, [0, 2, 3, 4, 5, 1]].flatten(1, 2)


@pytest.fixture(scope="module")
def ssd300() -> Detector:
    """For the tests whose imports fail, so that it stays as it was built."""
    return build("ssd300-vgg16")


@pytest.fixture(scope="module")
def ssd_pytorch_state() -> dict[str, torch.Tensor]:
    return checkpoint("ssd_pytorch_ssd300_vgg16")


def test_a_file_is_imported_like_its_state_dict(ssd_pytorch_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(ssd_pytorch_state, tmp_path / "ssd.safetensors")
    torch.save(ssd_pytorch_state, tmp_path / "ssd.pth", _use_new_zipfile_serialization=False)
    first, second = build("ssd300-vgg16"), build("ssd300-vgg16")
    report = import_weights(first, tmp_path / "ssd.safetensors")
    import_weights(second, tmp_path / "ssd.pth", layout="ssd.pytorch")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert torch.equal(first.state_dict()["backbone.conv6.bias"], ssd_pytorch_state["vgg.31.bias"])
    assert "71 entries loaded (71 renamed)" in str(report)
    assert "normalisation: (0..255 RGB - (123.0, 117.0, 104.0)) / (1.0, 1.0, 1.0)" in str(report)


def test_an_entry_more_an_entry_less_or_nan_is_named_and_nothing_is_loaded(
    ssd300: Detector, ssd_pytorch_state: dict[str, torch.Tensor]
) -> None:
    before = {name: value.clone() for name, value in ssd300.state_dict().items()}
    more = {**ssd_pytorch_state, "vgg.35.weight": torch.ones(1)}
    less = {name: value for name, value in ssd_pytorch_state.items() if name != "conf.5.bias"}
    nan = {**ssd_pytorch_state, "loc.2.bias": torch.full((24,), torch.nan)}
    for state_dict, message in (
        (more, r"vgg\.35\.weight"),
        (less, r"lacks head\.class_convs\.5\.bias"),
        (nan, r"loc\.2\.bias: holds NaN"),
    ):
        with pytest.raises(UserError, match=message):
            import_weights(ssd300, state_dict)
    assert all(torch.equal(value, before[name]) for name, value in ssd300.state_dict().items())
    assert ssd300.normalization.std != (1, 1, 1)


def test_a_checkpoint_of_another_number_of_classes_or_another_size_is_named(
    ssd_pytorch_state: dict[str, torch.Tensor],
) -> None:
    with pytest.raises(UserError, match=r"^theirs: it has 20 classes, but the detector 5; give as many names"):
        import_weights(build("ssd300-vgg16", num_classes=5), ssd_pytorch_state, source="theirs")
    with pytest.raises(UserError, match=r"lacks extras\.4\.conv\.bias"):
        import_weights(build("ssd512-vgg16"), ssd_pytorch_state)
    with pytest.raises(UserError, match="have no place in ssd300-resnet18"):
        import_weights(build("ssd300-resnet18"), ssd_pytorch_state)


def test_an_unknown_layout_is_named_with_the_known_ones(
    ssd300: Detector, ssd_pytorch_state: dict[str, torch.Tensor]
) -> None:
    known = ", ".join(LAYOUTS)
    with pytest.raises(UserError, match=f"layout darknet: unknown; expected one of {known}"):
        import_weights(ssd300, ssd_pytorch_state, layout="darknet")
    with pytest.raises(UserError, match=f"are of no known layout; known are {known}"):
        import_weights(ssd300, {"some.weight": torch.ones(1)})
    with pytest.raises(UserError, match="are not entries of the layout lufficc"):
        import_weights(ssd300, ssd_pytorch_state, layout="lufficc")


def as_mmdetection_ssd(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A golden SSD of mmdetection 1 as mmdetection 2 and 3 keep it: other names, background last."""
    renamed = {}
    for name, value in theirs.items():
        words = name.split(".")
        if words[:2] == ["backbone", "extra"]:
            i, k = divmod(int(words[2]), 2)
            name = f"neck.extra_layers.{i}.{k}.conv.{words[3]}"
        elif name == "backbone.l2_norm.weight":
            name = "neck.l2_norm.weight"
        elif words[0] == "bbox_head":
            name = f"bbox_head.{words[1]}.{words[2]}.0.{words[3]}"
        if "cls_convs" in name:
            anchors = len(value) // 21
            value = torch.cat([value[21 * a + torch.tensor([*range(1, 21), 0])] for a in range(anchors)])
        renamed[name] = value
    return renamed


def test_an_ssd_of_mmdetection_2_has_background_last_and_exact_anchors() -> None:
    state_dict = as_mmdetection_ssd(checkpoint("seed_ssd300_vgg16"))
    detector = built_for(state_dict, "ssd300-vgg16", 20)
    report = import_weights(detector, state_dict)
    assert report.layout == "mmdetection"
    assert "background moved to the front" in str(report)
    assert detector.normalization.mean == MMDETECTION
    with torch.no_grad():
        predictions = detector.raw(images(300))
    index, expected, deviation = outputs("seed_ssd300_vgg16", "class_logits")
    assert (predictions.class_logits.flatten()[index] - expected).abs().max() <= 1e-4 * deviation
    # SSDAnchorGenerator, centre of the first cell 4, sizes 30 and 60 (VOC), not rounded, not clipped
    first = detector.anchors_cxcywh((300, 300))[:4]
    root = 2**0.5
    shapes = [[30, 30], [1800**0.5, 1800**0.5], [30 * root, 30 / root], [30 / root, 30 * root]]
    torch.testing.assert_close(first, torch.tensor([[4.0, 4, *shape] for shape in shapes]))


def as_mmdetection_retinanet(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The golden RetinaNet with mmdetection's names of the subnets' layers."""
    return {
        name.replace(".weight", ".conv.weight").replace(".bias", ".conv.bias")
        if name.startswith(("bbox_head.cls_convs", "bbox_head.reg_convs"))
        else name: value
        for name, value in theirs.items()
    }


@pytest.fixture(scope="module")
def mmdetection_retinanet() -> dict[str, torch.Tensor]:
    return as_mmdetection_retinanet(checkpoint("seed_retinanet_r50_fpn"))


def test_a_retinanet_of_mmdetection_must_name_its_version(mmdetection_retinanet: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="layouts mmdetection-1 and mmdetection alike; say which by --layout"):
        find_layout(mmdetection_retinanet, None)


@pytest.mark.parametrize(("layout", "first"), [("mmdetection-1", (4.0, 4.0)), ("mmdetection", (0.0, 0.0))])
def test_a_retinanet_of_mmdetection_gets_the_anchors_of_its_version(
    layout: str, first: tuple[float, float], mmdetection_retinanet: dict[str, torch.Tensor]
) -> None:
    state_dict = mmdetection_retinanet
    detector = built_for(state_dict, "retinanet-resnet50", 20, layout)
    report = import_weights(detector, state_dict, layout)
    assert report.layout == layout
    assert isinstance(detector.config, RetinaNetConfig)
    assert not detector.config.p7_relu
    with torch.no_grad():
        predictions = detector.raw(images(320))
    index, expected, deviation = outputs("seed_retinanet_r50_fpn", "class_logits")
    assert (predictions.class_logits.flatten()[index] - expected).abs().max() <= 1e-4 * deviation
    centre = detector.anchors_cxcywh((320, 320))[4, :2]  # the square of the first cell
    torch.testing.assert_close(centre, torch.tensor(first), atol=0.51, rtol=0)


def test_a_network_of_other_layers_than_the_files_is_named() -> None:
    state_dict = checkpoint("official_m2det512_vgg16_sfam", ("unet1.layers.0", "loc.0", "sfam_module"))
    with pytest.raises(UserError, match="built with sfam = False, but the weights are of a network with True"):
        import_weights(build("m2det512-vgg16", 20), state_dict)


def test_reductions_that_differ_are_one_a_level() -> None:
    state_dict = checkpoint("official_m2det320_vgg16", ("unet1.layers.0", "loc.0", "leach"))
    config = detector_config("m2det320-vgg16")
    assert checkpoint_settings(state_dict, config)["shared_reduction"] is True
    state_dict["leach.3.conv.weight"] = state_dict["leach.3.conv.weight"] + 1
    assert checkpoint_settings(state_dict, config)["shared_reduction"] is False


def test_a_checkpoint_of_another_family_is_named(ssd_pytorch_state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"a checkpoint of SSD .*; the detector is of RetinaNet"):
        import_weights(build("retinanet-test_resnet"), ssd_pytorch_state)


@pytest.mark.parametrize("layout", [None, "torchvision"])
@pytest.mark.parametrize("entry", ["0.weight", "features.0.weight", "conv1.weight", "conv_stem.weight"])
def test_a_backbone_alone_is_no_detector(entry: str, layout: str | None, ssd300: Detector) -> None:
    with pytest.raises(UserError, match="a backbone alone, no detector; give it as `onestage train --backbone-weights"):
        import_weights(ssd300, {entry: torch.ones(1)}, layout)
