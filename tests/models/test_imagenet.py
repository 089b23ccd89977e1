"""ImageNet weights for backbones: torchvision's and timm's files, made here with small random or no real numbers."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_imitation import Repository, local_hub
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import mobilenet_v2

from onestage.detectors import Detector, Normalization, build, detector_config
from onestage.errors import UserError
from onestage.models.imagenet import detector_on_hub, load_backbone_weights
from onestage.models.layouts.layout import VGG16_PLACES
from onestage.models.layouts.vgg16 import sample_fc6, sample_fc7
from onestage.models.loading import Report

# Where the real files may lie; the tests pass without them.
REAL_FILES = Path(os.environ.get("ONESTAGE_SHARED", Path(__file__).parents[3] / "shared")) / "weights"


@pytest.fixture(scope="module")
def vgg_detector() -> Detector:
    return build("ssd300-vgg16", num_classes=2)


def load_from_memory(detector: Detector, state_dict: dict[str, Tensor]) -> Report:
    """What a file with these entries does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onestage.models.imagenet.read_state_dict", lambda _: state_dict)
        return load_backbone_weights(detector, "memory")


def vgg16_features(detector: Detector, template: str) -> dict[str, Tensor]:
    """A file's entries for conv1_1 to conv5_3: zeros, but the biases hold their layer's place."""
    own = detector.state_dict()
    return {
        f"{template.format(place)}.{kind}": torch.full_like(
            own[f"backbone.{conv}.{kind}"], place if kind == "bias" else 0
        )
        for place, conv in VGG16_PLACES.items()
        if place < 30
        for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_torchvisions_vgg16_is_loaded_and_conv6_and_conv7_start_fresh_without_fc6(
    suffix: str, vgg_detector: Detector, tmp_path: Path
) -> None:
    file = tmp_path / f"vgg16{suffix}"
    state_dict = vgg16_features(vgg_detector, "features.{}")
    save_file(state_dict, file) if suffix == ".safetensors" else torch.save(state_dict, file)
    fresh = vgg_detector.state_dict()["backbone.conv6.weight"].clone()
    report = load_backbone_weights(vgg_detector, file)
    own = vgg_detector.state_dict()
    assert [own[f"backbone.{conv}.bias"][0] for conv in ("conv1_1", "conv2_1", "conv4_3", "conv5_3")] == [0, 5, 21, 28]
    assert torch.equal(own["backbone.conv6.weight"], fresh)
    assert len(report.loaded) == 26
    assert report.fresh == (
        *(f"backbone.conv{number}.{kind}" for number in (6, 7) for kind in ("weight", "bias")),
        "backbone.conv4_3_norm.scale",
    )
    assert vgg_detector.normalization.std == (58.395, 57.12, 57.375)
    assert "as torchvision trains VGG-16" in str(report)


def test_fc6_keeps_every_fourth_output_and_every_third_tap() -> None:
    weight = torch.arange(8 * 2 * 49, dtype=torch.float32)  # 8 outputs of 2 x 7 x 7
    sampled = sample_fc6(weight.reshape(8, 2 * 49))
    # output 4, channel 1, row 3, column 6: 4*98 + 49 + 3*7 + 6
    assert sampled.shape == (2, 2, 3, 3)
    assert sampled[1, 1, 1, 2] == 4 * 98 + 49 + 21 + 6
    assert torch.equal(sampled, sample_fc6(weight.reshape(8, 2, 7, 7)))


def test_fc7_keeps_every_fourth_output_of_every_fourth_input() -> None:
    weight = torch.arange(64.0).reshape(8, 8)
    assert sample_fc7(weight).flatten().tolist() == [0, 4, 32, 36]


@pytest.mark.parametrize(
    ("fc6", "fc7", "classes"),
    [("classifier.0", "classifier.3", "classifier.6"), ("pre_logits.fc1", "pre_logits.fc2", "head.fc")],
    ids=["torchvision", "timm"],
)
def test_conv6_and_conv7_are_sampled_from_fc6_and_fc7(fc6: str, fc7: str, classes: str, vgg_detector: Detector) -> None:
    is_timm = fc6.startswith("pre")
    ramp = torch.arange(4096.0)
    entries = {
        f"{fc6}.weight": ramp[:, None].expand(4096, 512 * 49),  # every weight says its output
        f"{fc6}.bias": ramp,
        f"{fc7}.weight": (4096 * ramp[:, None] + ramp)[:, :, *((None, None) if is_timm else ())],
        f"{fc7}.bias": -ramp,
        f"{classes}.weight": torch.zeros(1000, 1),
        f"{classes}.bias": torch.zeros(1000),
    }
    if is_timm:
        entries[f"{fc6}.weight"] = entries[f"{fc6}.weight"].unflatten(1, (512, 7, 7))
    report = load_from_memory(vgg_detector, {**vgg16_features(vgg_detector, "features.{}"), **entries})
    own = vgg_detector.state_dict()
    assert own["backbone.conv6.weight"][1023].eq(4092).all()
    assert own["backbone.conv6.bias"][:3].tolist() == [0, 4, 8]
    assert own["backbone.conv7.weight"][2, 3].item() == 8 * 4096 + 12
    assert own["backbone.conv7.bias"][-1] == -4092
    assert len(report.changed) == 4
    assert set(report.left_out) == {f"{classes}.weight", f"{classes}.bias"}
    assert report.fresh == ("backbone.conv4_3_norm.scale",)


def test_fc6_of_nan_counts_as_absent(vgg_detector: Detector) -> None:
    nan = {"classifier.0.weight": torch.full((4096, 512 * 49), torch.nan), "classifier.0.bias": torch.zeros(4096)}
    nan["classifier.0.bias"][0] = torch.nan
    report = load_from_memory(vgg_detector, {**vgg16_features(vgg_detector, "features.{}"), **nan})
    assert set(report.left_out.values()) == {"its values are NaN"}
    assert "backbone.conv6.weight" in report.fresh


def test_the_original_release_is_recognised_and_brings_its_normalisation(vgg_detector: Detector) -> None:
    entries = vgg16_features(vgg_detector, "{}")  # the names of the SSD projects' reduced VGG-16
    entries["0.bias"][:8] = torch.tensor([0.7343, 0.0934, 0.0678, 0.8863, 0.2599, 0.6643, -0.0158, 0.3249]) * 1.02
    report = load_from_memory(vgg_detector, entries)
    assert vgg_detector.normalization.mean == (123.68, 116.779, 103.939)
    assert vgg_detector.normalization.std == (1, 1, 1)
    assert "the original VGG-16 release's weights" in str(report)


def test_an_entry_of_another_network_or_of_another_shape_is_named(vgg_detector: Detector) -> None:
    entries = vgg16_features(vgg_detector, "features.{}")
    with pytest.raises(UserError, match=r"features\.1\.running_mean are not entries of vgg16"):
        load_from_memory(vgg_detector, {**entries, "features.1.running_mean": torch.zeros(64)})
    with pytest.raises(UserError, match=r"features\.2\.bias: shape \(65,\), expected \(64,\)"):
        load_from_memory(vgg_detector, {**entries, "features.2.bias": torch.zeros(65)})
    del entries["features.28.bias"]
    with pytest.raises(UserError, match=r"lacks backbone\.conv5_3\.bias"):
        load_from_memory(vgg_detector, entries)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_timms_entries_give_timms_own_feature_maps(name: str) -> None:
    torch.manual_seed(0)
    whole: Any = timm.create_model(name, pretrained=False).eval()
    detector = build(f"ssd300-{name}", num_classes=2).eval()
    report = load_from_memory(detector, whole.state_dict())
    assert not report.fresh
    assert set(report.left_out.values()) == {"it comes after the last feature map"}
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        *_, last = detector.get_submodule("backbone")(image)
        expected = whole.forward_intermediates(image, intermediates_only=True)[-1]
    torch.testing.assert_close(last, expected)


def test_a_network_whose_stages_timm_renames_is_loaded() -> None:
    whole = timm.create_model("convnext_atto", pretrained=False)
    report = load_from_memory(build("ssd300-convnext_atto", num_classes=2), whole.state_dict())
    assert report.loaded["backbone.body.stages_1.blocks.0.conv_dw.weight"] == "stages.1.blocks.0.conv_dw.weight"
    assert not report.fresh


def test_torchvisions_mobilenet_v2_gives_torchvisions_feature_maps() -> None:
    torch.manual_seed(0)
    theirs = mobilenet_v2(weights=None).eval()
    detector = build("ssd300-mobilenetv2_100", num_classes=2).eval()
    report = load_from_memory(detector, theirs.state_dict())
    assert report.layout == "torchvision mobilenet_v2"
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        *_, last = detector.get_submodule("backbone")(image)
        torch.testing.assert_close(last, theirs.features[:18](image))


def test_timm_weights_of_another_network_are_refused() -> None:
    detector = build("ssd300-resnet18", num_classes=2)
    with pytest.raises(UserError, match="are not entries of resnet18"):
        load_from_memory(detector, timm.create_model("tf_efficientnet_lite0").state_dict())


def test_none_leaves_the_backbone_fresh(vgg_detector: Detector) -> None:
    before = vgg_detector.state_dict()["backbone.conv1_1.weight"].clone()
    report = load_backbone_weights(vgg_detector, "none")
    assert torch.equal(vgg_detector.state_dict()["backbone.conv1_1.weight"], before)
    assert len(report.fresh) == 31


@pytest.mark.parametrize("name", ["ssd300-vgg16", "ssd300-resnet18"])
def test_without_a_network_one_line_says_which_file_to_bring_and_how(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("onestage.models.imagenet.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    file = {"ssd300-vgg16": r"vgg16-397923af\.pth", "ssd300-resnet18": r"timm/resnet18\.\w+ model\.safetensors"}[name]
    with pytest.raises(UserError, match=rf"{file}.* pass it with --backbone-weights FILE") as raised:
        load_backbone_weights(build(name, num_classes=2), "imagenet")
    assert "\n" not in str(raised.value)


def test_a_download_is_read_as_safely_as_a_file(
    vgg_detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    entries = vgg16_features(vgg_detector, "features.{}")
    monkeypatch.setattr(
        torch.hub,
        "download_url_to_file",
        lambda url, path, hash_prefix: torch.save({**entries, "hash": hash_prefix}, path),
    )
    with pytest.raises(UserError, match="entry 'hash' is str"):
        load_backbone_weights(vgg_detector, "imagenet")
    torch.save(entries, tmp_path / "checkpoints" / "vgg16-397923af.pth")
    assert load_backbone_weights(vgg_detector, "imagenet").source == "imagenet (vgg16-397923af.pth)"


def test_evil_pickle_as_backbone_weights_runs_no_payload(vgg_detector: Detector, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "mark"),)

    with zipfile.ZipFile(tmp_path / "evil.pth", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"features.0.weight": Payload()}, 2))
    with pytest.raises(UserError, match=r"would call \w+\.mkdir"):
        load_backbone_weights(vgg_detector, tmp_path / "evil.pth")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("name", "file", "loaded", "mean", "std"),
    [
        ("vgg16", "vgg16_imagenet_features", 26, (123.68, 116.779, 103.939), (1, 1, 1)),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0_imagenet", 288, (127.5,) * 3, (127.5,) * 3),
        ("mobilenetv2_100", "mobilenet_v2_imagenet_features", 306, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_real_imagenet_files_are_loaded_with_their_normalisation(
    name: str, file: str, loaded: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    path = REAL_FILES / f"{file}.safetensors"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    detector = build(f"ssd300-{name}", num_classes=2)
    report = load_backbone_weights(detector, path)
    assert len(report.loaded) == loaded
    assert detector.normalization.mean == pytest.approx(mean)
    assert detector.normalization.std == pytest.approx(std)


@pytest.mark.parametrize(
    "name", ["retinanet-resnet50.tv_in1k", "m2det512-resnet101.tv_in1k", "retinanet-resnet18.a1_in1k"]
)
def test_a_tag_of_the_weights_is_no_other_network(name: str) -> None:
    assert detector_config(name) is detector_config(name.partition(".")[0])
    with torch.device("meta"):
        tagged, plain = (build(one, num_classes=2) for one in (name, name.partition(".")[0]))
    assert [(key, value.shape) for key, value in tagged.state_dict().items()] == [
        (key, value.shape) for key, value in plain.state_dict().items()
    ]


@pytest.mark.parametrize(
    ("name", "mend"), [("gfl-lcnet_035.foo", "leave the tag out"), ("gfl-resnet18.foo", "it has a1_in1k, ")]
)
def test_a_tag_that_timm_does_not_have_is_named(name: str, mend: str) -> None:
    with pytest.raises(UserError, match=f"has no weights 'foo' of it; {mend}"):
        build(name)


def test_a_tag_chooses_the_weights_that_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's model card: resnet50.tv_in1k is torchvision's ResNet50_Weights.IMAGENET1K_V1."""
    asked: list[str] = []
    monkeypatch.setattr("onestage.models.imagenet.try_to_load_from_cache", lambda hub, file: asked.append(hub))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with torch.device("meta"):
        detector = build("retinanet-resnet50.tv_in1k", num_classes=2)
    with pytest.raises(UserError, match=r"timm/resnet50\.tv_in1k model\.safetensors"):
        load_backbone_weights(detector, "imagenet")
    assert asked == ["timm/resnet50.tv_in1k"]


def refuse(*_: object, **__: object) -> None:
    raise OSError("no network")


def test_timms_weights_come_from_a_hub_with_their_network_and_normalisation(
    vgg_detector: Detector, tmp_path: Path
) -> None:
    trained = timm.create_model("test_efficientnet", pretrained=False)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    about = {"architecture": "test_efficientnet", "pretrained_cfg": {"mean": [0.5, 0.4, 0.2], "std": [0.5, 0.2, 1]}}
    files = {
        "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
        "config.json": json.dumps(about).encode(),
    }
    with local_hub(tmp_path / "cache") as hub:
        hub.repositories["me/net"] = Repository()
        commit = hub.repositories["me/net"].commit(files)
        name, weights = detector_on_hub("ssd300-hf-hub:me/net")
        assert (name, weights) == ("ssd300-test_efficientnet", f"hf-hub:me/net@{commit}")
        detector = build(name, num_classes=2)
        report = load_backbone_weights(detector, weights)
        with pytest.raises(UserError, match="weights of test_efficientnet; the backbone of ssd300-vgg16 is vgg16"):
            load_backbone_weights(vgg_detector, weights)
        hub.repositories["me/net"].commit({"config.json": b'{"architecture": "test_efficientnet", "mean": [1]}'})
        with pytest.raises(UserError, match=r"its config\.json is not that of timm's weights"):
            detector_on_hub("ssd300-hf-hub:me/net")
    assert report.source == weights
    assert detector.normalization == Normalization((127.5, 102.0, 51.0), (127.5, 51.0, 255.0))
    own = detector.state_dict()
    assert torch.equal(own["backbone.body.conv_stem.weight"], trained.state_dict()["conv_stem.weight"])
