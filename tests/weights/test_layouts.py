"""The layouts of other projects, held against their own networks' outputs (tests/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weights.reference_checkpoints import checkpoint, images, outputs

from onestage.boxes import cxcywh_to_xyxy
from onestage.detectors import Detector, build
from onestage.errors import UserError
from onestage.weights import LAYOUTS, import_weights

CASES = [
    ("ssd_pytorch_ssd300_vgg16", "ssd300-vgg16", "ssd.pytorch", (123.0, 117.0, 104.0)),
    ("lufficc_ssd300_vgg16", "ssd300-vgg16", "lufficc", (123.0, 117.0, 104.0)),
    ("lufficc_ssd512_vgg16", "ssd512-vgg16", "lufficc", (123.0, 117.0, 104.0)),
    ("seed_ssd300_vgg16", "ssd300-vgg16", "seed", (123.675, 116.28, 103.53)),
    ("seed_ssd512_vgg16", "ssd512-vgg16", "seed", (123.675, 116.28, 103.53)),
]


@pytest.mark.parametrize(("case", "name", "layout", "mean"), CASES, ids=[case[0] for case in CASES])
def test_an_imported_checkpoint_gives_the_outputs_and_anchors_of_its_own_project(
    case: str, name: str, layout: str, mean: tuple[float, float, float]
) -> None:
    detector = build(name, num_classes=20).eval()
    state_dict = checkpoint(case)
    report = import_weights(detector, state_dict)

    assert report.layout == layout
    assert sorted(report.loaded.values()) == sorted(state_dict)  # every entry found its place
    assert not report.left_out
    assert not report.fresh
    assert detector.normalization.mean == mean
    assert detector.normalization.std == (1, 1, 1)

    with torch.no_grad():
        predictions = detector.raw(images(detector.image_size))
    for output, found in (("box_deltas", predictions.box_deltas), ("class_logits", predictions.class_logits)):
        index, expected, deviation = outputs(case, output)
        assert (found.flatten()[index] - expected).abs().max() <= 1e-4 * deviation

    if layout == "seed":
        # Inclusive corners (x1 = x0 + width - 1), rounded to whole pixels; half a pixel, and float32's last digits.
        index, expected, _ = outputs(case, "anchors_xyxy_pixels_legacy")
        corners = cxcywh_to_xyxy(detector.anchors_cxcywh) - torch.tensor([0.0, 0.0, 1.0, 1.0])
        assert (corners.flatten()[index] - expected).abs().max() <= 0.5 + 1e-4
    else:
        index, expected, _ = outputs(case, "anchors_cxcywh_normalised")
        found = detector.anchors_cxcywh / detector.image_size
        assert (found.flatten()[index] - expected).abs().max() <= 1e-6


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
    with pytest.raises(UserError, match=r"conf\.0\.weight: shape \(84, 512, 3, 3\), expected \(24, 512, 3, 3\)"):
        import_weights(build("ssd300-vgg16", num_classes=5), ssd_pytorch_state)
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
