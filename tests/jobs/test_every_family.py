"""Every family of detectors, on every kind of backbone: 10 steps with a falling loss, then evaluation and prediction.

Settings are tiny. Names that differ in the size of the input or the depth of a ResNet alone are one case here. M2Det is
on one backbone: `tests/models` holds it on VGG-16 against the released network.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import onestage
from onestage.compute.device import choose_compute
from onestage.data import read_dataset
from onestage.data.generated import write_generated_voc
from onestage.detectors import DetectorConfig, build, detector_config
from onestage.models.model_file import RunFolder
from onestage.terminal import Display
from onestage.training.recipe import Recipe
from onestage.training.trainer import Trainer


def tiny(name: str) -> DetectorConfig:
    """The configuration of that name with fewer channels, levels and pixels."""
    config = detector_config(name)
    if name.startswith("m2det"):
        return replace(config, base_channels=(16, 32), channels=16, num_levels=2)
    if name.startswith("retinanet"):
        # learning batch norms: frozen ones are of no use over fresh weights
        return replace(config.adjusted({"image_size": 64, "backbone_norm": "batch"}), channels=64, subnet_depth=2)
    if name.startswith("gfl"):
        return replace(config.adjusted({"image_size": 64}), channels=32)
    return config


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=2, train=2, test=2)
    return root


@pytest.mark.parametrize(
    "name",
    [
        "ssd300-test_efficientnet",
        "retinanet-resnet18",
        "retinanet-test_efficientnet",
        "m2det320-test_efficientnet",
        "gfl-test_efficientnet",
    ],
)
def test_it_learns_is_measured_and_predicts(name: str, data: Path, tmp_path: Path) -> None:
    table, _ = read_dataset(str(data), "trainval")
    test, _ = read_dataset(str(data), "test", table.categories)
    recipe = Recipe(
        detector=name,
        steps=10,
        batch_size=2,
        evaluations=1,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        gradient_clip=5.0,
    )
    torch.manual_seed(0)
    detector = build(name, len(table.categories), config=tiny(name))
    display = Display(Console(file=io.StringIO()))
    folder = RunFolder(tmp_path)
    trainer = Trainer(
        detector,
        recipe,
        train=table,
        val=test,
        folder=folder,
        compute=choose_compute("cpu"),
        display=display,
        workers=0,
    )
    batches = trainer.batches()
    batch = next(batches)
    batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    trainer.detector.train()
    losses = [trainer.step(batch).total for _ in range(10)]  # the same two images each time
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])

    with trainer.open_journal() as journal:
        trainer.evaluate_and_keep(journal)
    metrics = onestage.evaluate(tmp_path, data, out=tmp_path / "evaluation", device="cpu", display=display)
    assert metrics["images"] == 2
    predicted = onestage.predict(
        tmp_path, [str(data / "JPEGImages")], out=tmp_path / "out", score_threshold=0.01, device="cpu", display=display
    )
    results = json.loads((predicted.folder / "detections.json").read_text())
    assert len(results) == predicted.images == 4
    assert all(
        0 <= x0 <= x1 <= result["width"] and 0 <= y0 <= y1 <= result["height"]
        for result in results
        for x0, y0, x1, y1 in (found["box_xyxy"] for found in result["detections"])
    )
    assert name in onestage.info(str(tmp_path), display=display)
