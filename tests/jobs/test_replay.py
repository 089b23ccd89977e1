"""The case nan: a bad step is skipped, named and saved, no checkpoint holds a NaN; and `--replay` takes it again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from skipped_steps import NAME, small_batch, small_step, write_small_step
from torch import Tensor

import onestage
from onestage import cli
from onestage.compute.device import choose_compute
from onestage.data.generated import write_generated_voc
from onestage.detectors.retinanet import RetinaNet
from onestage.models.model_file import RunFolder, read_tensors
from onestage.structures import Batch, Losses, Predictions, Targets
from onestage.terminal import Display
from onestage.training.journal import read_log
from onestage.training.optimizer import optimizer_tensors
from onestage.training.recipe import Recipe
from onestage.training.step import StepLosses
from onestage.training.trainer import Trainer

BUOY = 1  # a class of one training image alone, which is in the steps 1 and 5; each epoch has 3 steps
SETTINGS = {"batch_size": 2, "evaluations": 1, "image_size": 96, "channels": 64, "subnet_depth": 1, "workers": 0}
SETTINGS |= {f"augmentation.{transform}_probability": 0.0 for transform in ("expand", "crop", "colour")}
RUN: dict[str, Any] = {
    "detector": NAME,
    "backbone_weights": "none",
    "save_minutes": 0.0,
    "train_split": "trainval",
    "test_split": "test",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "data"
    write_generated_voc(root, seed=1, train=6, test=2)
    return root


def screen() -> Display:
    return Display(Console(file=StringIO(), width=100, soft_wrap=True, highlight=False))


def printed(display: Display) -> str:
    assert isinstance(display.console.file, StringIO)
    return display.console.file.getvalue()


def poison(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[Targets], bool]) -> None:
    """Let the box loss of some images be NaN."""
    healthy = RetinaNet.losses

    def losses(
        self: RetinaNet, predictions: Predictions, targets: Sequence[Targets], input_hw: tuple[int, int]
    ) -> Losses:
        losses = healthy(self, predictions, targets, input_hw)
        return losses.scaled(box=math.nan) if any(map(is_bad, targets)) else losses

    monkeypatch.setattr(RetinaNet, "losses", losses)


@dataclass
class Watched:
    """The steps of a run: which changed anything that a checkpoint holds, and what came of each."""

    changed: list[bool]
    losses: list[StepLosses]


def watch_steps(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched, take = Watched([], []), Trainer.step

    def state(trainer: Trainer) -> dict[str, Tensor]:
        average = trainer.average.tensors if trainer.average is not None else {}
        tensors = [trainer.detector.state_dict(), optimizer_tensors(trainer.optimizer, trainer.detector), average]
        return {f"{part}/{name}": t.clone() for part, named in enumerate(tensors) for name, t in named.items()}

    def step(self: Trainer, batch: Batch) -> StepLosses:
        before = state(self)
        watched.losses.append(take(self, batch))
        after = state(self)
        same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        watched.changed.append(not same)
        return watched.losses[-1]

    monkeypatch.setattr(Trainer, "step", step)
    return watched


def all_finite(path: Path) -> bool:
    tensors = read_tensors(path)[0].values()
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_nan_the_steps_with_a_bad_image_are_skipped_named_and_saved_and_the_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    poison(monkeypatch, lambda targets: bool((targets.labels == BUOY).any()))
    watched, display, folder = watch_steps(monkeypatch), screen(), RunFolder(tmp_path / "run")
    settings = {**SETTINGS, "ema_decay": 0.9, "frozen": ("backbone.",)} if accumulate == 2 else SETTINGS
    onestage.train(
        data, out=folder.root, steps=6, display=display, settings={**settings, "accumulate": accumulate}, **RUN
    )

    assert watched.changed == [False, True, True, True, False, True]
    assert [losses.finite for losses in watched.losses] == watched.changed
    said = re.findall(r"warning: step (.*)", printed(display))
    box = r"JPEGImages/000003\.jpg \(its box of [\d.]+ x [\d.]+ px at [\d.]+, [\d.]+\)"
    for line, number in zip(said, (1, 5), strict=True):
        file = folder.replay(number)
        assert re.fullmatch(
            rf"{number} was skipped, the box loss is not finite \(classification [\d.]+, box nan\); by {box}; no "
            rf"weight was changed; look at it again by: onestage train --replay {re.escape(str(file))}",
            line,
        )
        assert all_finite(file)
    assert all_finite(folder.checkpoint)
    assert all_finite(folder.previous_checkpoint)
    assert all_finite(folder.model)
    assert read_tensors(folder.checkpoint)[1]["position"]["step"] == 6
    assert read_tensors(folder.checkpoint)[1]["position"]["skipped_in_a_row"] == 0
    assert all(math.isfinite(row["loss"]) for row in read_log(folder.log))

    files, precision = sorted(tmp_path.rglob("*")), choose_compute("cpu").reason.partition(":")[0]
    for number in (1, 5):
        shown = screen()
        result = onestage.replay(folder.replay(number), device="cpu", display=shown)
        of_run = watched.losses[number - 1]
        recorded, replayed = (one.by_name["classification"] for one in (result.recorded, result.replayed))
        assert recorded == replayed == of_run.by_name["classification"]
        assert result.recorded.positives == result.replayed.positives == of_run.positives
        assert math.isnan(result.replayed.by_name["box"])
        assert [image.name for image in result.diagnosis.images if image.non_finite] == ["JPEGImages/000003.jpg"]
        assert f"step {number} of a run with {NAME}, skipped on cpu in {precision} at learning rate" in printed(shown)
        assert "advice: mend or remove the box" in printed(shown)
    assert sorted(tmp_path.rglob("*")) == files  # nothing was written


def test_nan_too_many_in_a_row_end_the_run_with_the_advice_and_a_whole_checkpoint(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    arguments = f"train {data} --out {folder.root} --detector {NAME} --backbone-weights none --device cpu --steps 20"
    settings = "--batch-size 2 --image-size 96 --workers 0 --optimizer sgd --warmup-steps 0 --precision fp32"
    settings += " --channels 64 --subnet-depth 1"
    diverging = "--learning-rate 1e6 --save-minutes 0 --max-skipped-steps 4 --ema-decay 0.9"
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments.split(), *settings.split(), *diverging.split()])
    assert ended.value.code == 1
    told = capsys.readouterr()
    pattern = r"warning: step (\d+) was skipped, the classification and the box loss"
    skipped = [int(number) for number in re.findall(pattern, told.out)]
    assert skipped == list(range(skipped[0], skipped[0] + 4))
    assert told.out.count("(classification nan, box nan), from layer ") == 4
    assert told.err.splitlines() == [
        f"onestage: 4 steps in a row were skipped, the last {skipped[-1]}; the checkpoint "
        f"{folder.checkpoint} is whole; the learning rate is too large for this: start again with a smaller "
        "--learning-rate, as 2.5e+05"
    ]
    assert all_finite(folder.checkpoint)
    assert all_finite(folder.previous_checkpoint)
    assert read_tensors(folder.checkpoint)[1]["position"]["step"] >= 1
    files = sorted((folder.root / "replay").iterdir())
    assert files == [folder.replay(number) for number in skipped[:3]]

    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "--replay", str(files[0]), "--device", "cpu"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "advice: the learning rate is too large for this" in shown
    assert re.search(r"classification loss +nan +nan", shown)
    assert re.search(r"first layer whose output is not finite: \w+", shown)
    assert re.search(r"parameters whose gradient is not finite: \d+ of \d+: \w+", shown)
    assert len(re.findall(r"JPEGImages/00000\d\.jpg .*yes", shown)) == 2


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_replay_gives_the_losses_of_the_run_bit_by_bit(tmp_path: Path, accumulate: int, precision: str) -> None:
    recipe = Recipe(detector=NAME, steps=1, accumulate=accumulate, train_stem=False)
    step = small_step(recipe, precision)
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 64.0} if precision == "fp16" else {})
    diagnosis, _ = write_small_step(tmp_path / "step-12.safetensors", step, small_batch(3))
    display = screen()
    result = onestage.replay(tmp_path / "step-12.safetensors", device="cpu", display=display)
    assert result.recorded.finite
    assert result.recorded == diagnosis.losses == result.replayed
    assert result.diagnosis == diagnosis
    assert not any(image.non_finite for image in diagnosis.images)
    assert [image.name for image in diagnosis.images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [image.boxes for image in diagnosis.images] == [2, 0, 2]
    assert sum(image.positives for image in diagnosis.images) == result.replayed.positives > 0
    assert "the step is finite here; on cpu it was not" in printed(display)
    assert (result.in_float32 is None) == (precision == "fp32")
    if result.in_float32 is not None:
        assert result.in_float32.by_name == pytest.approx(result.recorded.by_name, rel=0.05)
        assert "in fp32 the step is finite" in printed(display)


def test_what_float16_alone_can_not_hold_is_finite_in_float32(tmp_path: Path) -> None:
    step = small_step(precision="fp16")
    convolution = step.detector.get_submodule("box_subnet.layers.3")
    scaled_up(convolution, 1e6)
    diagnosis, there = write_small_step(tmp_path / "step-12.safetensors", step, small_batch(2))
    assert there
    assert not diagnosis.losses.finite
    assert diagnosis.layer == "box_subnet.layers.3.0"
    display = screen()
    result = onestage.replay(tmp_path / "step-12.safetensors", device="cpu", display=display)
    assert result.in_float32.finite
    assert "in fp32 the step is finite\n" in printed(display)
    assert "advice: float16 holds no numbers above 65,504" in printed(display)

    scaled_up(convolution, 1e25)
    write_small_step(tmp_path / "step-13.safetensors", step, small_batch(2))
    display = screen()
    result = onestage.replay(tmp_path / "step-13.safetensors", device="cpu", display=display)
    assert not result.in_float32.finite
    assert "in fp32 the step is not finite\n" in printed(display)
    assert "advice: the learning rate is too large" in printed(display)


def scaled_up(module: torch.nn.Module, factor: float) -> None:
    for parameter in module.parameters():
        parameter.data *= factor
