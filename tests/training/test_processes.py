"""Ranks that train together: their messages, gradients, evaluation, errors."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from data.test_loader import a_table
from many_processes import results_of
from torch import Tensor, nn

from onestage.compute.device import Compute
from onestage.detectors import Detector, build, detector_config
from onestage.detectors.multibox import MultiBoxDetector
from onestage.errors import PassingError, UserError
from onestage.structures import Batch, Detections, Targets
from onestage.training import processes
from onestage.training.detect_all import detect_all
from onestage.training.optimizer import freeze, train_mode
from onestage.training.processes import ALONE, World, joined_processes
from onestage.training.recipe import Recipe
from onestage.training.step import OptimizerStep

RETINANET, SSD, GFL = "retinanet-test_efficientnet", "ssd300-test_efficientnet", "gfl-test_efficientnet"
CPU = Compute(torch.device("cpu"), torch.float32, "as the test asks")


def assert_close(found: Any, expected: Any, what: str, *, rtol: float, atol: float) -> None:
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, msg=lambda message: f"{what}: {message}")


# --- messages


def talk() -> dict[str, Any]:
    with joined_processes("cpu") as world:
        lines: list[str] = []
        with redirect_stderr(io.StringIO()) as errors:
            world.warn("a slow disk", lines.append)
        return {
            "who": [world.rank, world.size, world.processes_here, world.is_main],
            "device": world.device,
            "sum": world.sum(torch.tensor([1.0, world.rank])).tolist(),
            "from_main": world.from_main(f"by {world.rank}"),
            "gather": world.gather((world.rank, "x" * world.rank)),
            "on_main": world.on_main(lambda: world.rank + 10),
            "nobody stops": world.agree(),
            "one stops": world.agree(stop=world.rank == 1),
            "said": lines,
            "printed": errors.getvalue(),
        }


def test_ranks_send_each_other_facts() -> None:
    warning = "onestage: warning: rank {} of the run: a slow disk\n"
    same = {
        "device": "cpu",
        "sum": [3.0, 0.0 + 1.0 + 2.0],
        "from_main": "by 0",
        "gather": [(0, ""), (1, "x"), (2, "xx")],
        "on_main": 10,
        "nobody stops": False,
        "one stops": True,
    }
    assert results_of(talk, 3) == [
        {"who": [0, 3, 3, True], "said": ["warning: a slow disk"], "printed": "", **same},
        {"who": [1, 3, 3, False], "said": [], "printed": warning.format(1), **same},
        {"who": [2, 3, 3, False], "said": [], "printed": warning.format(2), **same},
    ]


def test_a_process_alone_is_the_only_rank() -> None:
    with joined_processes(None) as world:
        assert world is ALONE
        assert [world.rank, world.size, world.processes_here, world.is_main] == [0, 1, 1, True]
        assert world.device is None
        assert world.sum(torch.tensor(3)).item() == 3
        assert world.from_main("x") == "x"
        assert world.gather(5) == [5]
        assert world.on_main(lambda: 7) == 7
        assert world.agree() is False
        assert world.agree(stop=True) is True
        assert not world.restarted
        network = nn.Linear(1, 1)
        assert world.connect(network) is network
        with pytest.raises(UserError, match="broken"):
            world.agree(UserError("broken"))


def test_processes_of_a_launcher_do_not_share_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = pytest.raises(UserError, match="device 'cuda:1': torchrun gives each process its own")
    with refused, joined_processes("cuda:1"):
        pass


# --- errors


def fail(where: str) -> list[str]:
    """The error that comes out of `joined_processes`, for a few kinds of failure."""
    rank = int(os.environ["RANK"])
    try:
        with joined_processes("cpu") as world:
            world.connect(nn.Linear(1, 1))
            if where == "one":
                world.agree(UserError("a.jpg: broken") if rank == 1 else None)
            elif where == "two":
                world.agree(UserError(f"{rank}.jpg: broken") if rank else None)
            elif where == "main":
                world.on_main(lambda: raise_(UserError("no such folder")))
            elif where == "all":
                raise UserError("frozen: all parameters are; leave some to train")
            elif where == "interrupt":
                raise KeyboardInterrupt
            elif where == "bug" and rank == 1:
                raise ZeroDivisionError("in our code")
            elif where == "death" and rank == 1:
                os._exit(1)
            world.agree()
    except BaseException as error:
        threads = [thread.name for thread in threading.enumerate()]
        assert not dist.is_initialized()
        assert "onestage-heartbeat" not in threads
        return [type(error).__name__, str(error)]
    return []


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("where", "message"),
    [("one", "a.jpg: broken"), ("two", "1.jpg: broken"), ("main", "no such folder")],
)
def test_an_error_of_one_rank_is_raised_in_all_and_reported_by_the_main_rank(where: str, message: str) -> None:
    told = ["ReportedByAnotherRankError", message]
    assert results_of(fail, 3, where) == [["UserError", message], told, told]


def test_an_error_that_all_ranks_have_is_reported_by_one() -> None:
    message = "frozen: all parameters are; leave some to train"
    assert sorted(results_of(fail, 3, "all")) == [
        ["ReportedByAnotherRankError", message],
        ["ReportedByAnotherRankError", message],
        ["UserError", message],
    ]


def test_an_interrupt_is_reported_by_the_main_rank() -> None:
    assert results_of(fail, 2, "interrupt") == [["KeyboardInterrupt", ""], ["ReportedByAnotherRankError", "stopped"]]


def test_after_a_rank_died_or_had_a_bug_the_others_say_that_the_connection_broke() -> None:
    broke = "the connection to another rank of the run broke; see torchrun's lines for what became of it"
    first, second, third = results_of(fail, 3, "death")
    assert (first, second, third) == (["PassingError", broke], None, ["ReportedByAnotherRankError", broke])
    first, second, third = results_of(fail, 3, "bug")
    assert (first, third) == (["PassingError", broke], ["ReportedByAnotherRankError", broke])
    assert second == ["ZeroDivisionError", "in our code"]


def test_what_would_come_again_ends_torchrun_while_it_has_restarts_left(monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[Callable[[], None]] = []
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(processes.atexit, "register", at_exit.append)
    monkeypatch.setattr(processes.os, "kill", lambda *process_and_signal: told.append(process_and_signal))
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)

    def ends(error: UserError, **torchrun: str) -> int:
        """Number of times that torchrun is told to end."""
        for name, value in torchrun.items():
            monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
        at_exit.clear()
        with pytest.raises(UserError), joined_processes("cpu"):
            raise error
        for function in at_exit:
            function()
        return len(at_exit)

    mistake = UserError("no such folder")
    assert ends(mistake, MAX_RESTARTS="3", RESTART_COUNT="1") == 0  # another launcher
    assert ends(mistake, RUN_ID="a") == 1
    assert ends(PassingError("a loader worker was killed")) == 0
    assert ends(mistake, RESTART_COUNT="3") == 0
    assert told == [(os.getppid(), signal.SIGTERM)]


def join_often() -> list[Any]:
    sums, begun = [], []
    for number in range(4):
        with joined_processes("cpu") as world:
            begun.append(world.restarted)
            sums.append(world.sum(torch.tensor(number + world.rank)).item())
            if number == 1:
                world.begin_run()
            world.agree()
    return [sums, begun]


def test_processes_can_join_again_and_know_that_the_run_was_begun_before() -> None:
    both = [[0 + 1, 1 + 2, 2 + 3, 3 + 4], [False, False, True, True]]
    assert results_of(join_often, 2) == [both, both]
    assert results_of(join_often, 1) == [[[0, 1, 2, 3], [False, False, True, True]]]


# --- a step


SMALL = {
    RETINANET: {"image_size": 96, "channels": 64, "subnet_depth": 1},
    SSD: {"neck_channels": 32},
    GFL: {"image_size": 96, "channels": 32, "norm": "group"},
}
STEM = ("backbone.body.conv_stem", "backbone.body.bn1")


def a_detector(name: str, seed: int = 0, frozen: tuple[str, ...] = STEM) -> Detector:
    torch.manual_seed(seed)
    detector = build(name, 3, config=detector_config(name).adjusted(SMALL[name]))
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    freeze(detector, frozen)
    train_mode(detector)
    return detector


def in_float64(detector: Detector) -> Detector:
    """But for its losses. In float32 a rounding may turn a ReLU on or off, which changes a layer's gradient by percents
    (by one process in parts, too)."""
    detector.double()
    if isinstance(detector, MultiBoxDetector):
        detector.head.anchors = detector.head.anchors.float()
    return detector


def a_batch(side: int, objects: Sequence[bool]) -> Batch:
    """Images of noise; those with objects have two."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (len(objects), 3, side, side), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[0.1, 0.12, 0.5, 0.6], [0.4, 0.3, 0.9, 0.9]]) * side
    some = Targets(boxes, torch.tensor([0, 2]), torch.tensor([False, False]))
    none = Targets(boxes[:0], some.labels[:0], some.ignored[:0])
    return Batch(images, [some if one else none for one in objects], torch.arange(len(objects)))


def share_of(batch: Batch, rank: int, size: int) -> Batch:
    return Batch(batch.images[rank::size], batch.targets[rank::size], batch.image_indices[rank::size])


def gradient(detector: Detector, batch: Batch, accumulate: int, world: World) -> dict[str, Any]:
    """The gradients of one step, the weights after it, and its losses."""
    recipe = Recipe(steps=1, accumulate=accumulate, momentum=0.0, weight_decay=0.0)
    step = OptimizerStep(detector, world.connect(detector), recipe, CPU, world)
    losses = step(share_of(batch, world.rank, world.size), 0.01)
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    numbers = [*losses.by_name.values(), losses.positives, losses.gradient_norm]
    return {"gradients": gradients, "losses": numbers, "weights": dict(detector.state_dict())}


@dataclass(frozen=True)
class Case:
    """A detector, a batch of which some images have objects, and the number of parts of each rank's share."""

    name: str
    objects: tuple[bool, ...]
    accumulate: int = 1
    frozen: tuple[str, ...] = STEM

    @property
    def batch(self) -> Batch:
        return a_batch(300 if self.name == SSD else 96, self.objects)


STEPS = {
    "a rank without positives": Case(RETINANET, (True, False, True, False, True)),
    "no positives at all": Case(RETINANET, (False,) * 5),
    # Batch norms are frozen: a part of many ranks has other images than one of a single rank.
    "in parts": Case(RETINANET, (True, False, False, False, True, False), accumulate=2, frozen=("backbone.",)),
    "hard negatives": Case(SSD, (True, False, True)),
    "two divisors, in parts": Case(
        GFL, (True, False, False, True, True, False), accumulate=2, frozen=("backbone.", "neck.")
    ),
}


@cache
def gradient_alone(name: str) -> dict[str, Any]:
    case = STEPS[name]
    return gradient(in_float64(a_detector(case.name, frozen=case.frozen)), case.batch, case.accumulate, ALONE)


def gradients_together() -> dict[str, Any]:
    found = {}
    with joined_processes("cpu") as world:
        for name, case in STEPS.items():
            detector = in_float64(a_detector(case.name, world.rank, case.frozen))  # all get the main rank's weights
            found[name] = gradient(detector, case.batch, case.accumulate, world)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_a_step_of_many_ranks_is_that_of_one(count: int) -> None:
    parts = results_of(gradients_together, count)
    for name, case in STEPS.items():
        alone = gradient_alone(name)
        first, *others = (part[name] for part in parts)
        for other in others:
            assert_close(other, first, f"{name}, between processes", rtol=0, atol=0)
        assert first["losses"] == pytest.approx(alone["losses"], rel=1e-6), name
        assert (alone["losses"][-2] > 0) == any(case.objects)
        assert first["gradients"].keys() == alone["gradients"].keys()
        for key, own in alone["gradients"].items():
            difference = (first["gradients"][key] - own).norm().item()
            assert difference < 1e-6 * alone["losses"][-1], (name, key)
        assert_close(first["weights"], alone["weights"], name, rtol=1e-6, atol=1e-6)


def second_steps() -> list[dict[str, Tensor]]:
    """The weights after two steps, the second taken straight away and as after a restart."""
    with joined_processes("cpu") as world:
        recipe, batch = Recipe(steps=1, momentum=0.0), share_of(a_batch(96, (True,) * 3), world.rank, world.size)
        going_on = a_detector(RETINANET)
        step = OptimizerStep(going_on, world.connect(going_on), recipe, CPU, world)
        step(batch, 0.01)
        restarted = a_detector(RETINANET)
        restarted.load_state_dict(going_on.state_dict())
        step(batch, 0.01)
        OptimizerStep(restarted, world.connect(restarted), recipe, CPU, world)(batch, 0.01)
    return [dict(going_on.state_dict()), dict(restarted.state_dict())]


def test_a_step_of_three_ranks_after_a_restart_has_the_same_bits() -> None:
    for going_on, restarted in results_of(second_steps, 3):  # of two, a sum is the same in any order
        assert_close(restarted, going_on, "after a restart", rtol=0, atol=0)


# --- evaluation


def evaluate(folder: str) -> dict[str, list[Tensor]]:
    table = a_table(Path(folder), 7)
    with joined_processes("cpu") as world:
        detector = a_detector(SSD, seed=1)
        shown: list[int] = []
        found = detect_all(detector, table, CPU, batch_size=2, world=world, advance=shown.append)
        modes = [module.training for module in detector.modules()]
    return {**as_tensors(found), "shown": [torch.tensor(shown)], "modes": [torch.tensor(modes)]}


def as_tensors(found: Sequence[Detections]) -> dict[str, list[Tensor]]:
    return {
        "boxes": [one.boxes_xyxy for one in found],
        "scores": [one.scores for one in found],
        "labels": [one.labels for one in found],
    }


def test_detections_by_many_ranks_are_those_of_one_to_the_bit(tmp_path: Path) -> None:
    detector = a_detector(SSD, seed=1)
    modes = [module.training for module in detector.modules()]
    alone = as_tensors(detect_all(detector, a_table(tmp_path / "data", 7), CPU, batch_size=2))
    assert len(alone["boxes"]) == 7
    assert sum(len(boxes) for boxes in alone["boxes"]) > 7
    for count in (2, 5):  # of five ranks one has nothing to do
        for rank, together in enumerate(results_of(evaluate, count, str(tmp_path / "data"))):
            batches = len(range(rank, 4, count))
            assert len(together.pop("shown")[0]) == batches
            assert together.pop("modes")[0].tolist() == modes
            torch.testing.assert_close(together, alone, rtol=0, atol=0)
