"""What can be added from outside of the package, with the files that the design names and no edit elsewhere.

An augmentation of several images: `data/test_mixup.py`; an export format: `export/test_formats.py`.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
from fcos import FCOS, FCOSConfig

import onestage
from onestage import cli
from onestage.data.generated import write_generated_voc
from onestage.detectors import DETECTORS, build, build_from_config, config_of
from onestage.structures import Targets

NAME = "fcos-test_efficientnet"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS, NAME, FCOSConfig())


@pytest.mark.usefixtures("known")
def test_an_anchor_free_detector_from_outside_is_trained_resumed_evaluated_run_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_generated_voc(data, train=6, test=3, size=96)
    options = ["--detector", NAME, "--backbone-weights", "none", "--batch-size", "2", "--evaluations", "1"]
    own = ["--centerness-weight", "0.5", "--postprocessing.max-detections", "50"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(data), "--out", str(run), "--steps", "2", *options, *own])
    assert ended.value.code == 0, capsys.readouterr().err
    onestage.train(data, out=run, steps=4, resume=True)
    header, *rows = (run / "log.csv").read_text().splitlines()
    names = "step,epoch,images,lr,loss,classification_loss,box_loss,centerness_loss,images_per_second,seconds,map_area"
    assert header == names
    assert rows[-1].startswith("4,")
    recipe = tomllib.loads((run / "recipe.toml").read_text())
    assert recipe["network"] == {"image_size": 96, "centerness_weight": 0.5}
    assert recipe["postprocessing"]["max_detections"] == 50
    assert json.loads((run / "metrics.json").read_text())["images"] == 3

    image = str(next((data / "JPEGImages").glob("*.jpg")))
    selection = onestage.load(run).papers_selection
    assert selection.max_detections == 50
    found = onestage.load(run, selection=selection, precision="fp32")(image)  # as exported files are
    assert 0 < len(found) <= 50
    exported = onestage.export_model(run, out=tmp_path / "fcos.onnx").path
    again = onestage.load(exported, selection=selection)(image)
    torch.testing.assert_close(again.boxes_xyxy, found.boxes_xyxy, atol=0.01, rtol=0)
    assert again.labels.tolist() == found.labels.tolist()


@pytest.mark.usefixtures("known")
def test_a_detector_from_outside_travels_in_a_model_file() -> None:
    detector = build(NAME, 3, config=FCOSConfig(centerness_weight=2.0))
    again = build_from_config(json.loads(json.dumps(config_of(detector))))
    assert isinstance(again, FCOS)
    assert again.config == detector.config


def test_its_third_loss_is_weighted_by_its_own_setting() -> None:
    detector, images = build_fcos(centerness_weight=1.0), torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    target = Targets(torch.tensor([[10.0, 10.0, 60.0, 70.0]]), torch.tensor([1]), torch.tensor([False]))
    once = detector.losses(detector(images), [target], (96, 96))
    detector.config = FCOSConfig(centerness_weight=3.0)
    thrice = detector.losses(detector(images), [target], (96, 96))
    assert once.sums["centerness"] > 0
    torch.testing.assert_close(thrice.sums["centerness"], 3 * once.sums["centerness"])
    torch.testing.assert_close(thrice.sums["box"], once.sums["box"])


def build_fcos(centerness_weight: float) -> FCOS:
    torch.manual_seed(0)
    config = FCOSConfig(centerness_weight=centerness_weight)
    return config.build(NAME, 3, config.backbone_normalization("test_efficientnet")).eval()
