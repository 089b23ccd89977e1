"""What this package does on a GPU, in under ten minutes: whether it is right there, and how fast it is.

    python benchmarks/gpu.py --json gpu.json            # please send this file in
    python benchmarks/gpu.py --device pretend --small   # without a GPU: shows only that this script works

In turn; an error ends only its own section:

- tests: `tests/device`, on this GPU: the CPU's losses, gradients and detections; waits and operators of a step.
- training: runs of each family, as `--precision auto` chooses and in float16, on drawn images from disk.
- resume: with `--deterministic True`, a run that was stopped in the middle ends with the bits of one that was not.
- ranks: steps of a world of one rank, by DDP, NCCL and SyncBatchNorm, have the losses of steps without them (without a
  GPU: on the CPU, by gloo).
- beside torchvision: `training.py` and `prediction.py`, whose tables have columns of GPUs.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist  # noqa: TID251 -- a group of one process, beside the package's own
import tyro
from side_by_side import Result, show, write_results
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import onestage
from onestage.compute.device import choose_compute
from onestage.data.generated import write_generated_voc
from onestage.detectors import Detector, build
from onestage.models.model_file import RunFolder, read_tensors
from onestage.structures import Batch
from onestage.terminal import quiet
from onestage.training.batch_size import noise_batch
from onestage.training.optimizer import train_mode
from onestage.training.processes import ALONE, synchronise_batch_norms
from onestage.training.recipe import Recipe
from onestage.training.step import OptimizerStep

TESTS, BENCHMARKS = Path(__file__).parent.parent / "tests", Path(__file__).parent
DETECTORS = ("ssd300-vgg16", "ssd300-tf_efficientnet_lite0", "retinanet-resnet50", "m2det320-vgg16")
SMALL = "ssd300-test_efficientnet"
LIMIT_SECONDS = 120  # of each benchmark beside torchvision
SectionName: TypeAlias = Literal["tests", "training", "resume", "ranks", "beside torchvision"]


@dataclass(frozen=True)
class Options:
    """Check a GPU and time what it does."""

    device: Literal["cuda", "pretend"] = "cuda"
    sections: tuple[SectionName, ...] = ("tests", "training", "resume", "ranks", "beside torchvision")
    steps: int = 100
    """Of each training."""
    small: bool = False
    """A detector of a few layers and some steps."""
    json: Path | None = None
    """Where to write the results."""


@dataclass(frozen=True)
class Place:
    """Where it runs."""

    options: Options
    folder: Path  # for drawn images and runs
    entered: Callable[[], AbstractContextManager[Any]]  # inside of it the device can be used

    @property
    def device(self) -> str:
        return "pretend:0" if self.options.device == "pretend" else "cuda:0"

    @property
    def detectors(self) -> tuple[str, ...]:
        return (SMALL,) if self.options.small else DETECTORS

    @property
    def data(self) -> Path:
        data = self.folder / "drawn"
        if not data.exists():
            write_generated_voc(data, seed=0, train=8 if self.options.small else 256, test=4)
        return data

    def train(self, name: str, detector: str, steps: int, *, resume: bool = False, **settings: Any) -> Path:
        """A run's folder."""
        settings |= {"evaluations": 1} | ({"batch_size": 4, "workers": 0} if self.options.small else {})
        made: dict[str, Any] = {"train_split": "trainval", "test_split": "test"}
        if not resume:
            made |= {"detector": detector, "backbone_weights": "none", "settings": settings}
        with self.entered():
            onestage.train(
                self.data,
                steps=steps,
                resume=resume,
                out=self.folder / name,
                device=self.device,
                display=quiet(),
                **made,
            )
        return self.folder / name


def tests(place: Place) -> list[tuple[str, ...]]:
    if place.options.device == "pretend":
        return [("tests/device", "not run: every check runs them on the pretended GPU")]
    environment = {**os.environ, "ONESTAGE_TEST_DEVICE": place.device}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rf", str(TESTS / "device")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    return [("tests/device", line) for line in (*lines, *done.stdout.splitlines()[-1:], *done.stderr.splitlines()[-1:])]


def training(place: Place) -> list[tuple[str, ...]]:
    rows = []
    for detector in place.detectors:
        for precision in ("auto", "fp16"):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            steps = 12 if place.options.small else place.options.steps
            folder = place.train(f"{detector}-{precision}", detector, steps, precision=precision)
            log = list(csv.DictReader((folder / "log.csv").open()))
            rates = sorted(float(row["images_per_second"]) for row in log)
            memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if torch.cuda.is_available() else "-"
            loss = f"loss {log[0]['loss']} -> {log[-1]['loss']}"
            rows.append((f"{detector}, {precision}", loss, f"{rates[len(rates) // 2]:.1f} images/s", memory))
    return rows


def resume(place: Place) -> list[tuple[str, ...]]:
    detector, half = place.detectors[0], 2 if place.options.small else 10
    settings: dict[str, Any] = {"deterministic": True, "precision": "fp32"}
    settings |= {
        "schedule": "steps",
        "milestones": (),
        "milestone_factors": None,
        "warmup": 0.0,
        "warmup_steps": 0,
    }  # of any length
    whole = place.train("whole", detector, 2 * half, **settings)
    parts = place.train("parts", detector, half, **settings)
    place.train("parts", detector, 2 * half, resume=True)
    torch.use_deterministic_algorithms(False)
    one, other = (read_tensors(RunFolder(folder).checkpoint)[0] for folder in (whole, parts))
    differ = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    if differ:
        raise RuntimeError(f"{len(differ)} of {len(one)} tensors differ: {', '.join(differ[:3])} ...")
    return [(detector, f"all {len(one)} tensors have the same bits")]


def ranks(place: Place) -> list[tuple[str, ...]]:
    on_gpu = place.options.device != "pretend"
    detector, device = place.detectors[-1 if place.options.small else 1], place.device if on_gpu else "cpu"

    def connected(network: Detector) -> nn.Module:
        synchronise_batch_norms(network, on_gpus=on_gpu)
        return DistributedDataParallel(network)

    alone = _losses(detector, device, lambda network: network)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{place.folder}/group", rank=0, world_size=1
    )
    try:
        together = _losses(detector, device, connected)
    finally:
        dist.destroy_process_group()
    apart = max(abs(a - b) / abs(a) for a, b in zip(alone, together, strict=True))
    if apart > 1e-3:
        raise RuntimeError(f"losses of steps differ: {alone} alone, {together} through the ranks")
    return [(f"{detector}, {device}", f"losses of {len(alone)} steps differ by {apart:.1e} at most")]


def _losses(name: str, device: str, connect: Callable[[Detector], nn.Module]) -> list[float]:
    torch.manual_seed(0)
    detector, compute = build(name, 3), choose_compute(device, "fp32")
    compute.place(detector)
    train_mode(detector)
    step = OptimizerStep(detector, connect(detector), Recipe(steps=5), compute, ALONE)
    images, targets = noise_batch(4, detector.resize.input_hw([(300, 300)]), 3, compute.device)
    return [step(Batch(images, targets, torch.arange(4)), 1e-4).total for _ in range(5)]


def beside_torchvision(place: Place) -> list[tuple[str, ...]]:
    if place.options.device == "pretend":
        return [("training.py, prediction.py", "not run: they are for real GPUs")]
    rows: list[tuple[str, ...]] = []
    for script in ("training.py", "prediction.py"):
        command = [sys.executable, str(BENCHMARKS / script), "--sections", "ssd300-vgg16"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)
            rows += [(script, line) for line in (done.stdout or done.stderr).splitlines()]
        except subprocess.TimeoutExpired:
            rows.append((script, f"took longer than {LIMIT_SECONDS} seconds; run it alone"))
    return rows


SECTIONS: dict[SectionName, Callable[[Place], Sequence[tuple[str, ...]]]] = {
    "tests": tests,
    "training": training,
    "resume": resume,
    "ranks": ranks,
    "beside torchvision": beside_torchvision,
}


def section(name: SectionName, place: Place) -> Result:
    """A section's table; where it ended by an error, the error."""
    begun, goals = time.monotonic(), ()
    try:
        rows = SECTIONS[name](place)
    except Exception as error:  # the other sections are worth having
        traceback.print_exc()
        rows, goals = [(name, f"{type(error).__name__}: {error}")], (f"{name}: ended by an error",)
    widest = max(len(row) for row in rows)
    filled = tuple((*row, *[""] * (widest - len(row))) for row in rows)
    seconds = f"{time.monotonic() - begun:.0f} s"
    return Result(name, "python benchmarks/gpu.py", (name, seconds, *[""] * (widest - 2)), filled, goals)


def main() -> int:
    """1 if a section ended by an error."""
    options = tyro.cli(Options)
    entered: Callable[[], AbstractContextManager[Any]] = nullcontext
    if options.device == "pretend":
        sys.path.insert(0, str(TESTS))
        from device.pretended_gpu import PretendedGpu

        entered = PretendedGpu
    elif not torch.cuda.is_available():
        print("no GPU is here; see --device pretend", file=sys.stderr)
        return 2
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sections:
            results.append(section(name, Place(options, Path(folder), entered)))
            show(results[-1])
            write_results(options.json, results)
    return int(any(result.goals for result in results))


if __name__ == "__main__":
    sys.exit(main())
