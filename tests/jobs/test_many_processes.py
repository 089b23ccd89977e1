"""Training by many ranks, as a user starts it: the same run as by one; killed, stopped, with a bad image."""

from __future__ import annotations

import io
import math
import os
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from many_processes import DEATH_AT_STEP, Torchrun, results_of

from onestage import cli
from onestage.data import read_dataset
from onestage.data.generated import write_generated_voc
from onestage.data.loader import epoch_order
from onestage.detectors import Normalization, build, detector_config
from onestage.errors import UserError
from onestage.jobs import dataset
from onestage.jobs.train import train
from onestage.models.model_file import load_model, read_tensors, save_model
from onestage.structures import Categories
from onestage.terminal import quiet
from onestage.training import trainer
from onestage.training.journal import read_log

IMAGES, STEPS = 10, 30
DETECTOR = "retinanet-test_efficientnet"
# The backbone's first batch norms are frozen, the others are not. A batch of 3: one rank has two images of it,
# the other one. The rate is small because batch norms over few images make much of a rounding: at 0.001, one of 6e-8
# in the first weights moves the loss of step 40 by 3e-4.
SETTINGS: dict[str, Any] = {
    "batch_size": 3,
    "evaluations": 1,
    "image_size": 64,
    "channels": 64,
    "subnet_depth": 1,
    "workers": 0,
    "optimizer": "sgd",
    "learning_rate": 1e-4,
    "precision": "fp32",
    "ema_decay": 0.9,
    "frozen": ("backbone.body.conv_stem", "backbone.body.bn1", "backbone.body.blocks.0"),
}
OPTIONS = [
    word
    for name, value in SETTINGS.items()
    for word in (f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,)))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=1, train=IMAGES, test=5)
    torch.manual_seed(3)
    config = detector_config(DETECTOR).adjusted({"image_size": 64, "channels": 64, "subnet_depth": 1})
    old = build(DETECTOR, 2, config=config, normalization=Normalization((99.0, 98.0, 97.0), (50.0, 51.0, 52.0)))
    save_model(trained_before(root), old, Categories.from_names(["star", "tree"]))
    return root


def trained_before(data: Path) -> Path:
    """A detector with one of the data's classes, and a normalisation that only its file knows."""
    return data.parent / "old.safetensors"


def run(data: str, out: str) -> None:
    old = trained_before(Path(data))
    train(data, detector=DETECTOR, steps=STEPS, start_from=old, settings=SETTINGS, out=out, display=quiet())


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same run by one and by two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    for count in (1, 2):
        results_of(run, count, str(data), str(folder / str(count)))
    return {count: folder / str(count) for count in (1, 2)}


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "checkpoint/training.safetensors")[0]


def command_line(data: Path, out: Path, steps: int, *options: str) -> list[str]:
    old = trained_before(data)
    weights = ["--from", str(old)] if old.exists() else ["--backbone-weights", "none"]
    named = ["--out", str(out), "--detector", DETECTOR, "--steps", str(steps)]
    return ["train", str(data), *named, *weights, *OPTIONS, *options]


def test_two_ranks_have_the_loss_curve_and_the_metrics_of_one(runs: dict[int, Path]) -> None:
    alone, together = (read_log(runs[count] / "log.csv") for count in (1, 2))
    assert [row["step"] for row in together] == [10, 20, 30]
    for one, other in zip(alone, together, strict=True):
        assert all(one[name] == other[name] for name in ("step", "epoch", "images", "lr"))
        for name in ("loss", "classification_loss", "box_loss"):
            assert other[name] == pytest.approx(one[name], rel=1e-4)
    assert alone[-1]["map_area"] == together[-1]["map_area"]

    assert load_model(runs[2]).detector.normalization == Normalization((99.0, 98.0, 97.0), (50.0, 51.0, 52.0))

    first, second = (tensors_of(runs[count]) for count in (1, 2))
    assert first.keys() == second.keys()
    weights = [name for name, tensor in first.items() if tensor.is_floating_point() and name.startswith("model/")]
    apart = math.sqrt(sum((first[name] - second[name]).square().sum().item() for name in weights))
    assert apart < 5e-5 * math.sqrt(sum(first[name].square().sum().item() for name in weights))


def test_a_run_with_a_killed_rank_ends_as_one_without(runs: dict[int, Path], data: Path, tmp_path: Path) -> None:
    script = [str(Path(__file__).parent.parent / "many_processes.py"), str(tmp_path)]
    command = command_line(data, tmp_path / "run", STEPS, "--save-minutes", "0.002")
    with Torchrun([*script, *command], tmp_path, restarts=2) as launcher:
        assert launcher.end() == 0
    assert (tmp_path / "died").exists()
    resumed = [line for line in launcher.lines if line.startswith(f"{tmp_path / 'run'}: resumed at step ")]
    assert len(resumed) == 1
    assert 0 < int(resumed[0].split()[-1]) <= DEATH_AT_STEP
    straight, killed = tensors_of(runs[2]), tensors_of(tmp_path / "run")
    assert straight.keys() == killed.keys()
    assert all(torch.equal(killed[name], tensor) for name, tensor in straight.items())
    assert (tmp_path / "run/model.safetensors").read_bytes() == (runs[2] / "model.safetensors").read_bytes()


def by_command_line(arguments: list[str]) -> list[Any]:
    """The exit code and the printed lines; the data is not checked first, as if it broke only afterwards."""
    printed, errors = io.StringIO(), io.StringIO()
    unchecked = mock.patch.object(dataset, "validate_images", return_value=[])
    with redirect_stdout(printed), redirect_stderr(errors), unchecked, pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return [ended.value.code, printed.getvalue(), errors.getvalue()]


def test_a_bad_image_of_one_rank_stops_all_with_its_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_generated_voc(data, seed=1, train=IMAGES, test=2)
    names = (data / "ImageSets/Main/trainval.txt").read_text().split()
    table, _ = read_dataset(data, "trainval")
    second = int(epoch_order(table, 1, seed=0, epoch=0)[1])  # of the first batch, so rank 1 reads it
    (image,) = (data / "JPEGImages").glob(f"{names[second]}.*")
    image.write_bytes(image.read_bytes()[:300])
    command = command_line(data, tmp_path / "run", STEPS, "--repeat", "1")
    (code, printed, errors), other = results_of(by_command_line, 2, command)
    assert code == 1
    assert "run folder: " in printed
    assert len(errors.splitlines()) == 1
    assert errors.startswith(f"onestage: {image}: ")
    assert other == [1, "", ""]


def test_ranks_that_are_told_to_stop_save_and_only_the_main_rank_prints(data: Path, tmp_path: Path) -> None:
    command = command_line(data, tmp_path / "run", 100_000)
    with Torchrun(["-m", "onestage", *command], tmp_path) as launcher:
        launcher.wait_for(tmp_path / "run/log.csv", "\n20,")  # the row of step 20
        launcher.process.terminate()
        assert launcher.end() == 1
    lines = launcher.lines
    assert lines[-1] == "stopped"
    assert len(set(lines)) == len(lines)
    assert sum("2 processes" in line for line in lines) == 1
    _, header = read_tensors(tmp_path / "run/checkpoint/training.safetensors")
    assert header["position"]["step"] >= 9
    assert [path.name for path in tmp_path.rglob("log.csv")] == ["log.csv"]
    rows = read_log(tmp_path / "run/log.csv")
    assert [row["step"] for row in rows] == [10 * (n + 1) for n in range(len(rows))]


def stopped_in_evaluation(data: str, out: str) -> str:
    """The exception that ends a run when rank 1 gets a signal in the evaluation after the last of two steps."""
    detect_all = trainer.detect_all

    def then_a_signal(*arguments: Any, advance: Callable[[int], None], **more: Any) -> Any:
        def advanced(images: int) -> None:
            if os.environ["RANK"] == "1":
                signal.raise_signal(signal.SIGTERM)
            advance(images)

        return detect_all(*arguments, advance=advanced, **more)

    ends = mock.patch.object(trainer, "detect_all", then_a_signal), pytest.raises((KeyboardInterrupt, UserError))
    with ends[0], ends[1] as ended:
        train(
            data,
            detector=DETECTOR,
            steps=2,
            backbone_weights="none",
            train_split="trainval",
            test_split="test",
            settings=SETTINGS,
            out=out,
            display=quiet(),
        )
    return ended.typename


def test_a_signal_in_mid_evaluation_stops_all_ranks(tmp_path: Path) -> None:
    write_generated_voc(tmp_path / "data", seed=1, train=3, test=9)  # 8 images for rank 0, one for rank 1
    ended = results_of(stopped_in_evaluation, 2, str(tmp_path / "data"), str(tmp_path / "run"))
    assert ended == ["KeyboardInterrupt", "ReportedByAnotherRankError"]
    assert not (tmp_path / "run/model.safetensors").exists()
    _, header = read_tensors(tmp_path / "run/checkpoint/training.safetensors")
    assert (header["position"]["step"], header["position"]["evaluations"]) == (2, 0)


def refused(data: str, out: str | None) -> str:
    """The error of ranks that torchrun started again, for a folder."""
    os.environ |= {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_RESTART_COUNT": "1"}
    with pytest.raises(UserError) as caught:
        train(data, detector=DETECTOR, steps=1, backbone_weights="none", settings=SETTINGS, out=out, display=quiet())
    return str(caught.value)


def test_a_restart_does_not_take_a_run_of_before_for_its_own(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").write_text("{}")
    line = f"{tmp_path / 'run'}: holds a run already; go on with it by --resume, or choose another --out"
    assert results_of(refused, 2, str(data), str(tmp_path / "run")) == [line, line]
    line = "torchrun's --max-restarts goes on with the run in --out; say which folder"
    assert results_of(refused, 2, str(data), None) == [line, line]
