"""`onestage train DATA --from MODEL` as a user starts it: what is said, kept and resumed."""

from __future__ import annotations

import io
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from onestage.data import read_dataset
from onestage.data.generated import write_generated_voc
from onestage.detectors import Normalization, build, detector_config
from onestage.errors import UserError
from onestage.jobs.train import train
from onestage.models.model_file import load_model, save_model
from onestage.structures import Batch, Categories
from onestage.terminal import Display
from onestage.training.recipe import Recipe
from onestage.training.step import StepLosses
from onestage.training.trainer import Trainer

NAME = "ssd300-test_efficientnet"
SETTINGS: dict[str, Any] = {"batch_size": 2, "evaluations": 1, "workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=1, train=6, test=2)
    return root


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one of the data's classes and one that it lacks, with a normalisation of its own."""
    torch.manual_seed(3)
    config = detector_config(NAME).adjusted({"box_loss_weight": 2.0})
    detector = build(NAME, 2, config=config, normalization=Normalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    file = tmp_path_factory.mktemp("model") / "old.safetensors"
    save_model(file, detector, Categories.from_names(["unseen", names_of(data)[0].upper()]))
    return file


def names_of(data: Path) -> tuple[str, ...]:
    return read_dataset(data, "trainval")[0].categories.names


def run(data: Path, out: Path, steps: int = 2, **more: Any) -> str:
    screen = io.StringIO()
    options: dict[str, Any] = {"out": out, "steps": steps, "settings": SETTINGS, "save_minutes": 0.0} | more
    train(data, display=Display(Console(file=screen, width=200)), **options)
    return screen.getvalue()


def test_network_settings_normalisation_and_class_rows_are_the_models(data: Path, model: Path, tmp_path: Path) -> None:
    said = run(data, tmp_path / "run", start_from=model)
    kept, recipe = load_model(tmp_path / "run"), json.loads((tmp_path / "run/recipe.json").read_text())
    assert kept.detector.normalization == load_model(model).detector.normalization
    assert recipe["network"]["box_loss_weight"] == 2.0
    assert kept.categories.names == names_of(data)
    first = names_of(data)[0]
    assert f"classes taken: {first} (there {first.upper()})" in said
    assert "classes left: unseen" in said


def test_a_named_recipes_network_gives_way_to_the_models_and_that_is_said(
    data: Path, model: Path, tmp_path: Path
) -> None:
    said = run(data, tmp_path / "run", start_from=model, recipe=Recipe(detector=f"{NAME}.r160_in1k"))
    assert "settings of the network are those of the trained detector: box_loss_weight 2.0, not 1.0" in said
    assert json.loads((tmp_path / "run/recipe.json").read_text())["network"]["box_loss_weight"] == 2.0


@pytest.mark.parametrize("recipe", [Recipe(detector="ssd300-test_resnet"), Recipe(detector="retinanet-test_resnet")])
def test_a_named_recipe_of_another_network_gives_way_too(
    recipe: Recipe, data: Path, model: Path, tmp_path: Path
) -> None:
    said = run(data, tmp_path / "run", start_from=model, recipe=recipe, detector=NAME)
    assert "settings of the network are those of the trained detector: box_loss_weight 2.0, not 1.0" in said
    assert json.loads((tmp_path / "run/recipe.json").read_text())["network"]["box_loss_weight"] == 2.0


def test_thresholds_of_the_models_classes_are_not_those_of_the_data(data: Path, model: Path, tmp_path: Path) -> None:
    kept = load_model(model)
    kept.detector.evaluation_selection = kept.detector.evaluation_selection.with_class_thresholds((0.2, 0.9))
    save_model(tmp_path / "model.safetensors", kept.detector, kept.categories)
    run(data, tmp_path / "run", start_from=tmp_path / "model.safetensors")
    of_run = json.loads((tmp_path / "run/recipe.json").read_text())["postprocessing"]
    assert (of_run["class_thresholds"], of_run["score_threshold"]) == (None, 0.2)
    given = {**SETTINGS, "postprocessing.class_thresholds": [0.2, 0.9], "postprocessing.score_threshold": 0.2}
    with pytest.raises(UserError, match=rf"class_thresholds has 2 numbers, the data {len(names_of(data))} classes"):
        run(data, tmp_path / "other", settings=given)
    assert not (tmp_path / "other").exists()


def test_the_model_that_a_run_starts_from_is_not_overwritten(data: Path, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "model.safetensors"
    mine.write_bytes(model.read_bytes())
    with pytest.raises(
        UserError, match=r"model\.safetensors: the run would overwrite this model; choose another --out"
    ):
        run(data, tmp_path, start_from=mine)
    assert mine.read_bytes() == model.read_bytes()


def test_a_resumed_run_begins_with_nothing_else_than_it_began_with(data: Path, model: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", start_from=model, old_classes="label")
    run(data, tmp_path / "run", start_from=model, old_classes="label", resume=True)
    run(data, tmp_path / "run", resume=True)
    run(data, tmp_path / "run", start_from=model.parent / ".." / model.parent.name / model.name, resume=True)
    began = f"the run in {tmp_path}/run began with --from {model} --old-classes label; leave"
    for option, other in (
        ("--from elsewhere", {"start_from": "elsewhere"}),
        ("--backbone-weights none", {"backbone_weights": "none"}),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(f'{option}: {began} {option.split()[0]} out')}"):
            run(data, tmp_path / "run", resume=True, **other)
    (tmp_path / "run/old_objects.safetensors").unlink()
    with pytest.raises(UserError, match=r"old_objects\.safetensors: missing; the run needs it"):
        run(data, tmp_path / "run", resume=True)


def test_a_resumed_run_ends_as_one_that_was_not_stopped_without_the_model(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"start_from": model, "old_classes": "label", "steps": 4}
    said = run(data, tmp_path / "straight", **how)
    assert "unseen: what is found of them is left out, since the data does not label them" in said
    told = json.loads((tmp_path / "straight/metrics.json").read_text())["voc"]["per_class"]
    assert told["unseen"]["detections"] == 0 < sum(one["detections"] for one in told.values())
    step = Trainer.step

    def stopped(self: Trainer, batch: Batch) -> StepLosses:
        if self.position.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "run", **how)
    monkeypatch.undo()
    run(data, tmp_path / "run", steps=4, resume=True)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "run"))
    assert one == other
    kept = load_model(tmp_path / "run")
    assert kept.categories.names == (*names_of(data), "unseen")
    assert kept.detector.normalization == load_model(model).detector.normalization


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"start_from": "x", "backbone_weights": "none"}, "--backbone-weights and --from: both say what the backbone"),
        ({"old_classes": "label"}, "--old-classes label: keeps classes of a trained detector; say which by --from"),
        ({"start_from": "nowhere"}, "--from nowhere: no such file or folder"),
    ],
)
def test_what_does_not_go_together_is_refused(data: Path, tmp_path: Path, options: Any, reason: str) -> None:
    with pytest.raises(UserError, match=f"^{reason}"):
        run(data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
