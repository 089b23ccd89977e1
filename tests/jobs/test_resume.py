"""`--resume`: the case kill-step, refused changes, and signals in mid-evaluation."""

from __future__ import annotations

import io
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lives import outcome
from rich.console import Console

import onestage
from onestage.data.generated import write_generated_voc
from onestage.data_options import DataOptions
from onestage.errors import UserError
from onestage.jobs.train import train
from onestage.models.model_file import read_tensors
from onestage.terminal import Display
from onestage.training import trainer
from onestage.training.journal import read_log

LIVES = 20
STEPS = 24
SETTINGS = {"batch_size": 2, "evaluations": 2, "ema_decay": 0.9, "image_size": 96, "workers": 0}
SETTINGS |= {"channels": 64, "subnet_depth": 1}  # every step writes the whole state
RUN: dict[str, Any] = {
    "detector": "retinanet-test_efficientnet",
    "steps": STEPS,
    "backbone_weights": "none",
    "save_minutes": 0.0,  # after every step
    "settings": SETTINGS,
    "train_split": "trainval",
    "test_split": "test",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=1, train=6, test=2)
    return root


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without incident."""
    out = tmp_path_factory.mktemp("straight") / "run"
    assert outcome(life, data, out) == 0
    return out


def life(data: Path, out: Path) -> None:
    """Start the run or go on with it, as its user would."""
    torch.set_num_threads(1)
    train(data, out=out, resume=(out / "recipe.json").exists(), **RUN)


def same(one: Path, other: Path) -> bool:
    """True if two runs ended with the same weights, averages and optimizer, and kept the same model, bit by bit."""
    tensors, others = (read_tensors(run / "checkpoint/training.safetensors")[0] for run in (one, other))
    equal = tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)
    return equal and (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_kill_step_a_run_killed_twenty_times_ends_as_the_one_that_was_not(
    data: Path, straight: Path, tmp_path: Path
) -> None:
    moments = random.Random(0)
    died = 0
    for _ in range(LIVES):
        code = outcome(life, data, tmp_path / "run", moment=moments.randint(1, 24))
        assert code in (-9, 0)
        died += code == -9
    assert died == LIVES
    assert outcome(life, data, tmp_path / "run") == 0
    assert read_tensors(tmp_path / "run/checkpoint/training.safetensors")[1]["position"]["step"] == STEPS
    assert same(straight, tmp_path / "run")


def test_a_signal_in_mid_evaluation_ends_it_at_once_and_the_resumed_run_evaluates_first(
    data: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect_all, begun = trainer.detect_all, []

    def interrupted(*arguments: Any, advance: Callable[[int], None], **more: Any) -> Any:
        def then_a_signal(images: int) -> None:
            begun.append(images)
            signal.raise_signal(signal.SIGTERM)
            advance(images)

        return detect_all(*arguments, advance=then_a_signal, batch_size=1, **more)

    monkeypatch.setattr(trainer, "detect_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        life(data, tmp_path / "run")
    assert begun == [1]  # of two images
    assert not (tmp_path / "run/model.safetensors").exists()
    monkeypatch.undo()
    life(data, tmp_path / "run")
    assert same(straight, tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"settings": {**SETTINGS, "learning_rate": 0.5}}, r"its learning_rate is [\d.e-]+, now 0\.5"),
        ({"settings": {**SETTINGS, "image_size": 64}}, r"its network\.image_size is 96, now 64"),
        (
            {"settings": {**SETTINGS, "augmentation.expand-max": 3.0}},
            r"its augmentation\.expand\.max is 2\.0, now 3\.0",
        ),
        ({"seed": 7}, "its seed is 0, now 7"),
        ({"detector": "retinanet-resnet18"}, "its detector is retinanet-test_efficientnet, now retinanet-resnet18"),
        ({"subset": 4}, r"its training data has changed \(6 images, \d+ objects, now 4 images, \d+ objects\)"),
    ],
)
def test_a_run_does_not_go_on_under_other_conditions(
    data: Path, straight: Path, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        onestage.train(data, out=straight, resume=True, **{**RUN, **changed})


def test_a_moved_box_is_other_data_and_a_renamed_class_is_refused(straight: Path, tmp_path: Path) -> None:
    write_generated_voc(tmp_path / "moved", seed=1, train=6, test=2)
    names = (tmp_path / "moved/ImageSets/Main/trainval.txt").read_text().split()
    annotation = tmp_path / "moved/Annotations" / f"{names[0]}.xml"
    text = annotation.read_text()
    x = text.split("<xmin>")[1].split("</xmin>")[0]
    annotation.write_text(text.replace(f"<xmin>{x}</xmin>", f"<xmin>{float(x) + 1:g}</xmin>", 1))
    with pytest.raises(UserError, match="its training data has changed"):
        onestage.train(tmp_path / "moved", out=straight, resume=True, **RUN)

    write_generated_voc(tmp_path / "renamed", seed=1, train=6, test=2)
    for path in (*(tmp_path / "renamed/Annotations").iterdir(), tmp_path / "renamed/classes.txt"):
        path.write_text(path.read_text().replace("ball", "bowl"))
    with pytest.raises(UserError, match=r"its classes are ball, .*, now bowl, "):
        onestage.train(tmp_path / "renamed", out=straight, resume=True, **RUN)


def test_resume_other_truth_of_the_split_that_chooses_is_refused(straight: Path, tmp_path: Path) -> None:
    write_generated_voc(tmp_path / "moved", seed=1, train=6, test=2)
    name = (tmp_path / "moved/ImageSets/Main/test.txt").read_text().split()[0]
    annotation = tmp_path / "moved/Annotations" / f"{name}.xml"
    text = annotation.read_text()
    x = text.split("<xmin>")[1].split("</xmin>")[0]
    annotation.write_text(text.replace(f"<xmin>{x}</xmin>", f"<xmin>{float(x) + 1:g}</xmin>", 1))
    with pytest.raises(UserError, match=r"its validation data has changed \(2 images, \d+ objects, as many now, but "):
        onestage.train(tmp_path / "moved", out=straight, resume=True, **RUN)


def test_resume_subset_splits_and_data_options_without_saying_them_again_also_from_a_log_torn_and_leftover_files(
    tmp_path: Path,
) -> None:
    data, run, lines = tmp_path / "data", tmp_path / "run", io.StringIO()
    write_generated_voc(data, seed=1, train=6, test=2)
    splits = data / "ImageSets/Main"
    broken, *others = (splits / "trainval.txt").read_text().split()
    (data / "JPEGImages" / f"{broken}.jpg").write_bytes(b"no image")
    (splits / "mine.txt").write_text("\n".join([broken, *others[:4]]))
    (splits / "fifth.txt").write_text(others[4])
    asked = {"train_split": "mine", "val_split": "test", "test_split": "fifth", "subset": 3}
    options = DataOptions(skip_bad_data=True)
    onestage.train(data, out=run, data_options=options, **{**RUN, **asked, "steps": 2})
    leftover, log = run / f"checkpoint/.training.safetensors.{'0f' * 16}", run / "log.csv"
    leftover.touch()
    log.write_text(log.read_text()[:-9])
    onestage.train(data, out=run, resume=True, steps=4, display=Display(Console(file=lines, width=1000)))
    assert "training on a subset of 3 images" in lines.getvalue()
    assert "3 images (mine) train" not in lines.getvalue()  # the line is about the split
    assert "4 images (mine) train, 2 images (test) choose the best weights, 1 image (fifth) test" in lines.getvalue()
    assert not leftover.exists()
    assert read_log(log)[-1]["step"] == 4


def test_recipe_deep_in_brackets_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(UserError, match=r"recipe\.json: damaged"):
        onestage.train(tmp_path, out=tmp_path, resume=True)


def test_a_run_may_be_made_longer_without_repeating_its_settings(data: Path, tmp_path: Path) -> None:
    onestage.train(data, out=tmp_path / "run", **{**RUN, "steps": 4})
    onestage.train(data, out=tmp_path / "run", resume=True, steps=6)
    assert json.loads((tmp_path / "run/recipe.json").read_text())["steps"] == 6
    tensors, header = read_tensors(tmp_path / "run/checkpoint/training.safetensors")
    assert header["position"]["step"] == 6
    assert header["recipe"]["network"]["image_size"] == 96
    assert any(name.startswith("average/") for name in tensors)


def test_a_run_whose_best_weights_were_moved_away_says_so_before_it_trains(data: Path, tmp_path: Path) -> None:
    onestage.train(data, out=tmp_path / "run", **{**RUN, "steps": 2})
    (tmp_path / "run/model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(
        UserError, match=r"run/model\.safetensors: not here, but the run has kept its best weights there"
    ):
        onestage.train(data, out=tmp_path / "run", resume=True, steps=4)


def test_a_folder_without_a_run_or_with_a_damaged_recipe_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run to resume \(no recipe\.json\)"):
        onestage.train(data, out=tmp_path / "none", resume=True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/recipe.json").write_text('{"detector": "ssd3')
    with pytest.raises(UserError, match=r"recipe\.json: damaged"):
        onestage.train(data, out=tmp_path / "torn", resume=True)
