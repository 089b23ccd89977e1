"""Tiles from the command line: trained with, kept in the run's files, changed and left out afterwards."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from small_model import trace_each_model_once

import onestage
from onestage import cli
from onestage.data.generated_marks import write_marks_voc
from onestage.inference.predictor import load
from onestage.jobs.train import train
from onestage.runtime.tiles import Tiling
from onestage.terminal import Display, quiet

DETECTOR = "ssd300-test_efficientnet"
traced_once = pytest.fixture(scope="module", autouse=True)(trace_each_model_once)
SETTINGS = {"batch_size": 4, "workers": 0, "evaluations": 2, "tile": "auto"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 640 x 480 with marks of 12 to 24 pixels."""
    root = tmp_path_factory.mktemp("marks") / "data"
    write_marks_voc(root, size_hw=(480, 640), count=6, seed=3, train=4, test=2)
    return root


def trained(data: Path, out: Path) -> Path:
    return train(
        data,
        out=out,
        detector=DETECTOR,
        steps=2,
        backbone_weights="none",
        settings=SETTINGS,
        display=quiet(),
    ).folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tiles were found out from the data."""
    return trained(data, tmp_path_factory.mktemp("runs") / "run")


def test_tiles_are_found_out_and_kept_with_the_run(run: Path) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    assert 150 < recipe["tile"] < 320
    assert recipe["tile_overlap"] == 24  # the largest mark
    assert load(run, device="cpu").tiling == Tiling(recipe["tile"], 24)
    assert not (run / "decoded").exists()


def command(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    assert ended.value.code == 0


def test_the_command_line_takes_other_tiles_and_none(data: Path, run: Path, tmp_path: Path) -> None:
    options = ("--backbone-weights", "none", "--steps", 1, "--batch-size", 2, "--workers", 0, "--evaluations", 1)
    asked = ("--tile", 320, "--tile-overlap", 40, "--tile-empty", 0.5)
    command("train", data, "--detector", DETECTOR, "--out", tmp_path / "asked", *options, *asked)
    assert load(tmp_path / "asked", device="cpu").tiling == Tiling(320, 40)
    command("train", data, "--detector", DETECTOR, "--out", tmp_path / "none", *options, "--tile", "none")
    assert load(tmp_path / "none", device="cpu").tiling is None
    command("train", data, "--recipe", "ssd300-voc0712", "--detector", DETECTOR, "--out", tmp_path / "paper", *options)
    assert load(tmp_path / "paper", device="cpu").tiling is None  # a paper's recipe has none
    command(
        "train", data, "--recipe", "ssd300-voc0712", "--detector", DETECTOR, "--out", tmp_path / "auto", *options,
        "--tile", "auto",
    )  # fmt: skip
    found_out = load(tmp_path / "auto", device="cpu").tiling
    assert found_out is not None
    assert 150 < found_out.side < 320


def test_every_command_takes_other_tiles(data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command("evaluate", run, data, "--out", tmp_path / "evaluated", "--tile", "none")
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "evaluated")]
    assert metrics[0]["voc"]["per_class"] != metrics[1]["voc"]["per_class"]
    image = next((data / "JPEGImages").iterdir())
    command("predict", run, image, "--out", tmp_path / "predicted", "--tile", 320, "--tile-overlap", 32)
    command("export", run, "--out", tmp_path / "model.onnx", "--tile", 400)
    assert load(tmp_path / "model.onnx").tiling == Tiling(400, 24)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["predict", str(run), str(image), "--out", str(tmp_path / "refused"), "--tile", "20"])
    assert "tiles of 20 pixels that overlap by 10: expected 32 to 100,000 pixels" in capsys.readouterr().err


def test_evaluation_of_an_exported_file_is_that_of_the_model(data: Path, run: Path, tmp_path: Path) -> None:
    path = onestage.export_model(run, out=tmp_path / "model.onnx", display=quiet()).path
    said = Console(file=io.StringIO(), width=200)
    one = onestage.evaluate(path, data, out=tmp_path / "exported", display=Display(said))
    other = onestage.evaluate(run, data, out=tmp_path / "torch", display=Display(said))
    tiling = load(run, device="cpu").tiling
    assert tiling is not None
    assert isinstance(said.file, io.StringIO)
    tiles = len(tiling.windows_xyxy((480, 640)))
    assert len(re.findall(rf"^{tiles} tiles and [0-9.]+ s an image$", said.file.getvalue(), re.MULTILINE)) == 2
    assert one["coco"]["AP"] == pytest.approx(other["coco"]["AP"], abs=2e-3)
    assert one["images"] == other["images"] == 2
