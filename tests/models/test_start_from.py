"""Starting from a trained detector: which layers are taken, class rows by name, and what can be opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from small_detectors import small
from small_model import write_small_model
from torchvision.models import get_model_weights

from onestage.detectors import Detector, Normalization, build, detector_config
from onestage.errors import UserError
from onestage.models.model_file import save_model
from onestage.models.start_from import Start, open_start, same_classes, take_layers
from onestage.structures import Categories

OLD = Categories.from_names(["ball", "wall", "star"])
NEW = Categories.from_names(["tree", "Balls", "moon", "star"])


def start_of(detector: Detector, categories: Categories | None = OLD) -> Start:
    return Start("runs/old", detector, categories)


def fresh_like(detector: Detector, num_classes: int = len(NEW)) -> Detector:
    torch.manual_seed(1)
    return detector.config.build(detector.name, num_classes, detector.normalization)


@pytest.mark.parametrize("family", ["ssd", "retinanet", "m2det", "gfl"])
def test_every_layer_comes_over_but_the_rows_of_new_classes(family: str) -> None:
    old = small(family).eval()
    new = fresh_like(old)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    taken = take_layers(new, NEW, start_of(old))
    assert taken.classes == {1: 0, 3: 2}  # Balls is ball, star is star
    background = 1 if family in ("ssd", "m2det") else 0
    theirs = old.state_dict()
    for name, value in new.state_dict().items():
        if "class_convs" not in name and not name.startswith(("class_subnet.last", "class_branch.last")):
            assert torch.equal(value, theirs[name]), name
            continue
        rows, given, fresh = (
            one.unflatten(0, (-1, background + count))
            for one, count in ((value, 4), (theirs[name], 3), (before[name], 4))
        )
        assert torch.equal(rows[:, :background], given[:, :background])
        assert torch.equal(rows[:, background + 1], given[:, background])
        assert torch.equal(rows[:, background + 3], given[:, background + 2])
        shift = (given - fresh[:, : given.shape[1]])[:, :1] if background and value.ndim == 1 else 0.0
        for label in (0, 2):
            torch.testing.assert_close(rows[:, background + label], (fresh + shift)[:, background + label])


@pytest.mark.parametrize("family", ["retinanet", "gfl"])
def test_without_a_common_class_nothing_of_a_class_layer_is_taken(family: str) -> None:
    old = small(family).eval()
    new = fresh_like(old, 1)
    (layer,) = new.class_layers()
    before = new.state_dict()[f"{layer}.weight"].clone()
    taken = take_layers(new, Categories.from_names(["moon"]), start_of(old))
    assert torch.equal(new.state_dict()[f"{layer}.weight"], before)
    assert taken.parts[layer.partition(".")[0]][1:3] == [0, 1]  # fresh
    assert taken.lines[-2:] == ("  classes fresh: moon", "  classes left: ball, wall, star")


def test_a_layer_that_fits_in_part_is_not_taken_and_neither_are_its_classes() -> None:
    old = small("gfl").eval()
    wider = old.config.adjusted({"channels": 2 * old.config.channels})  # pyright: ignore[reportAttributeAccessIssue]
    new = build(old.name, 3, config=wider)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    taken = take_layers(new, OLD, start_of(old))
    (layer,) = new.class_layers()
    for name in (f"{layer}.bias", "box_branch.last.bias"):  # of the same shape as the old one's
        assert torch.equal(new.state_dict()[name], before[name])
    assert (taken.classes, taken.parts["class_branch"][:2]) == ({}, [0, 0])
    assert "  classes fresh: ball, wall, star" in taken.lines


def test_the_same_classes_in_another_order_give_the_same_detector() -> None:
    old = small("ssd").eval()
    new = fresh_like(old, 3).eval()
    take_layers(new, Categories.from_names(["star", "ball", "wall"]), start_of(old))
    images = torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, deltas = new(images)
        old_logits, old_deltas = old(images)
    torch.testing.assert_close(logits, old_logits[..., [0, 3, 1, 2]])
    torch.testing.assert_close(deltas, old_deltas)


def test_the_normalisation_comes_with_the_backbone() -> None:
    old = small("ssd")
    old.set_normalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    new = fresh_like(small("ssd"))
    take_layers(new, NEW, start_of(old))
    assert new.normalization == Normalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def test_of_another_family_the_backbone_alone_is_taken_and_that_is_said() -> None:
    config = replace(detector_config("retinanet-test_efficientnet"), channels=64, subnet_depth=1)
    new = build("retinanet-test_efficientnet", 4, config=config)
    old = build("ssd300-test_efficientnet", 3)
    head = new.state_dict()["box_subnet.last.weight"].clone()
    taken = take_layers(new, NEW, start_of(old))
    backbone = {name for name in new.state_dict() if name.startswith("backbone.")}
    assert all(torch.equal(new.state_dict()[name], old.state_dict()[name]) for name in backbone)
    assert torch.equal(new.state_dict()["box_subnet.last.weight"], head)
    assert "  it is a SSD, so its backbone alone is taken" in taken.lines
    assert taken.parts["backbone"][1:] == [0, 0, 0]
    assert taken.parts["fpn"][0] == 0


def test_another_number_of_anchors_a_cell_leaves_the_heads_of_that_level_fresh() -> None:
    old = build("ssd300-test_efficientnet", 3)
    ratios = ((2.0,), (2.0,), *old.config.aspect_ratios[2:])  # pyright: ignore[reportAttributeAccessIssue]
    new = build("ssd300-test_efficientnet", 3, config=old.config.adjusted({"aspect_ratios": ratios}))
    head = new.state_dict()["head.class_convs.1.weight"].clone()
    taken = take_layers(new, OLD, start_of(old))
    assert torch.equal(new.state_dict()["head.class_convs.1.weight"], head)
    assert taken.parts["head"] == [10, 0, 2, 2]


def test_another_backbone_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^--from runs/old \(retinanet-test_resnet, 3 classes\): its backbone is test_res"
    ):
        take_layers(build("ssd300-test_efficientnet", 3), OLD, start_of(small("retinanet")))


@pytest.mark.parametrize(
    ("new", "old", "found"),
    [
        (["car", "Car"], ["Car", "car"], {0: 1, 1: 0}),  # the same name comes before one in other letters
        (["traffic light"], ["Traffic_Light"], {0: 0}),
        (["buses", "boxes", "berries", "dogs"], ["bus", "box", "berry", "dog"], {0: 0, 1: 1, 2: 2, 3: 3}),
        (["care", "news"], ["car", "newt"], {}),
        (["rolled-in_scale"], ["rolled_in-scale"], {0: 0}),
        (["person"], ["people"], {}),
        (["1", "-", "café"], ["-1", "_", "cafe\u0301"], {2: 2}),
        (["a", "A"], ["a"], {0: 0}),
        ([], ["a"], {}),
    ],
)
def test_classes_are_the_same_but_for_case_separators_and_plural(
    new: list[str], old: list[str], found: dict[int, int]
) -> None:
    assert same_classes(new, old) == found


def test_a_run_folder_and_a_model_file_are_opened(tmp_path: Path) -> None:
    write_small_model(tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        start = open_start(source)
        assert start.detector.name == "ssd300-test_efficientnet"
        assert start.categories == OLD


def test_torchvisions_published_detector_is_opened_from_torchs_cache_with_cocos_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = get_model_weights("ssd300_vgg16").DEFAULT  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    model = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91)
    torch.save(model.state_dict(), tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2])
    start = open_start("torchvision:ssd300_vgg16")
    assert start.detector.name == "ssd300-vgg16"
    assert start.categories is not None
    assert start.categories.names[:3] == ("person", "bicycle", "car")
    assert start.categories.names[89] == "toothbrush"
    new = build("ssd300-vgg16", 1, config=start.detector.config)
    take_layers(new, Categories.from_names(["Dogs"]), start)
    dog = model.state_dict()["head.classification_head.module_list.0.weight"].unflatten(0, (-1, 91))
    ours = new.state_dict()["head.class_convs.0.weight"].unflatten(0, (-1, 2))
    assert torch.equal(ours[:, 1], dog[:, weights.meta["categories"].index("dog")])


def test_another_projects_checkpoint_needs_the_name_of_its_network(tmp_path: Path) -> None:
    save_file({"backbone.scale_weight": torch.ones(512)}, tmp_path / "theirs.safetensors")
    with pytest.raises(UserError, match="does not name its network; add --detector"):
        open_start(tmp_path / "theirs.safetensors")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        *(
            ([name], "^--from .*: a backbone alone, no detector; give it as `onestage train --backbone-weights FILE`")
            for name in (
                "features.0.weight",
                "features.0.0.weight",
                "conv1.weight",
                "conv_stem.weight",
                "stem.0.weight",
            )
        ),
        (
            ["bbox_head.retina_cls.weight", "bbox_head.cls_convs.0.conv.weight"],
            "alike; say which by --layout .of `onestage import`",
        ),
        (["backbone.scale_weight"], r"^--from .*: a checkpoint of SSD \(torchvision.*\); the detector is of RetinaNet"),
        (["nothing.weight"], "are of no known layout; known are torchvision, "),
    ],
)
def test_a_checkpoint_that_can_not_be_taken_as_it_is_says_how(entries: list[str], reason: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(1) for name in entries}, tmp_path / "theirs.safetensors")
    with pytest.raises(UserError, match=reason):
        open_start(tmp_path / "theirs.safetensors", "retinanet-resnet50")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere", "no such file or folder; give a run folder, a model file or torchvision:NAME"),
        ("torchvision:ssdlite320", "not known; expected one of torchvision:ssd300_vgg16, "),
        ("model.onnx", "an exported file can't be trained; give the run folder or the model file"),
    ],
)
def test_what_can_not_be_started_from_is_named_with_the_mend(source: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"^--from {source}: {reason}"):
        open_start(source)


def test_a_model_without_its_weights_finite_is_refused(tmp_path: Path) -> None:
    detector = small("ssd")
    with torch.no_grad():
        next(detector.parameters()).fill_(torch.nan)
    save_model(tmp_path / "m.safetensors", detector, OLD)
    with pytest.raises(UserError, match="holds NaN or infinite values"):
        open_start(tmp_path / "m.safetensors")
