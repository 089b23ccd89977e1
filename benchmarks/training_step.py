"""Where the time of a training step goes, on images from disk with full augmentation.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --data NEU-DET --detectors ssd300-vgg16 --precision bf16 --json step.json

Each detector with the recipe that `onestage train` would make for the data, from random weights (the speed is that of
trained ones): the parts of a step, medians over the steps after the warm-up, and the kinds of operations by PyTorch's
profiler in one step more. Run it on an idle machine.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import augmentation
import tyro
from side_by_side import Result, show, write_results
from torch.profiler import ProfilerActivity, profile
from trainers import Ours

from onestage.compute.device import Precision, choose_compute
from onestage.data import choose_splits, read_dataset
from onestage.data.augmentation.presets import SSD_PAPER
from onestage.data.table import Table
from onestage.recipes import default_recipe
from onestage.structures import Batch, Losses
from onestage.training.step import OptimizerStep, StepLosses

PARTS = ("wait for data", "forward", "loss", "backward", "update")
KINDS = {  # of operations: beginnings of their names
    "convolutions": ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::_slow_conv", "aten::slow_conv"),
    "batch and group norms": ("aten::native_batch_norm", "aten::native_group_norm", "aten::_batch_norm"),
    "activations": ("aten::clamp", "aten::hardtanh", "aten::threshold_backward", "aten::relu", "aten::silu"),
    "pooling, resizing": ("aten::max_pool2d", "aten::upsample"),
    "copies, casts, padding": ("aten::copy_", "aten::fill_", "aten::zero_", "aten::cat", "aten::_to_copy"),
    "optimizer, averaged weights, clipping": (
        "aten::_fused",
        "aten::lerp",
        "aten::linalg_vector_norm",
        "aten::_foreach",
    ),
}
REST = "other (normalisation, L2 norm, sums, loss and matching)"


@dataclass(frozen=True)
class Options:
    """Time training steps."""

    data: str | None = None
    """A VOC, COCO or YOLO folder; without, drawn images of 500x375."""
    detectors: tuple[str, ...] = ("ssd300-vgg16", "ssd300-tf_efficientnet_lite0")
    batch_size: int | None = None
    """The recipe's if not given."""
    train_stem: bool = False
    """Train the backbone's first layers, too."""
    precision: Precision = "auto"
    warm_up: int = 2
    steps: int = 7
    images: int = 128
    """To draw."""
    json: Path | None = None


class TimedStep(OptimizerStep):
    """An optimizer step that notes the time after each of its parts."""

    times: list[float]

    def losses(self, part: Batch) -> Losses:
        with self.compute.autocast():
            predictions = self.network(part.images)
        self.times.append(time.perf_counter())
        sums = self.detector.losses(predictions, part.targets, (part.images.shape[2], part.images.shape[3]))
        self.times.append(time.perf_counter())
        return sums

    def gradient(self, parts: Sequence[Batch]) -> StepLosses:
        losses = super().gradient(parts)
        self.times.append(time.perf_counter())
        return losses


def run(name: str, table: Table, options: Options) -> tuple[Ours, list[list[float]], Counter[str]]:
    """The seconds of every part of every step, and the microseconds of every operation of the last one."""
    recipe, _ = default_recipe(name, table, pretrained=not options.train_stem)
    batch_size = options.batch_size or recipe.batch_size
    recipe = replace(recipe, batch_size=batch_size, augmentation=SSD_PAPER)
    ours = Ours(recipe, table, options.precision, "cpu")
    trainer = ours.trainer
    trainer.take_step = step = TimedStep(
        trainer.detector, trainer.network, trainer.recipe, trainer.compute, trainer.world
    )
    seconds: list[list[float]] = []
    with closing(ours.batches()) as batches:
        for _ in range(options.warm_up + options.steps):
            step.times = times = [time.perf_counter()]
            batch = next(batches)
            times.append(time.perf_counter())
            ours.step(batch)
            times.append(time.perf_counter())
            seconds.append([after - before for before, after in itertools.pairwise(times)])
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            ours.step(next(batches))
    operations = Counter({event.key: event.self_cpu_time_total for event in profiler.key_averages()})
    return ours, seconds[options.warm_up :], operations


def kinds(operations: Counter[str]) -> dict[str, float]:
    """The parts of the time that went into each kind of operations."""
    total: Counter[str] = Counter()
    for operation, microseconds in operations.items():
        kind = next((kind for kind, names in KINDS.items() if operation.startswith(names)), REST)
        total[kind] += microseconds
    return {kind: total[kind] / total.total() for kind in (*KINDS, REST)}


def main(options: Options) -> None:
    by_part: list[tuple[str, ...]] = []
    by_kind: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            table = augmentation.write_images(Path(folder), augmentation.Options(images=options.images))
        else:
            table, _ = read_dataset(options.data, choose_splits(options.data, hold_out=False).train)
        for name in options.detectors:
            ours, seconds, operations = run(name, table, options)
            batch_size = ours.trainer.images_per_step
            parts = [f"{1000 * statistics.median(column):.0f}" for column in zip(*seconds, strict=True)]
            rate = batch_size / statistics.median(map(sum, seconds))
            by_part.append((name, str(batch_size), *parts, f"{rate:.1f}"))
            by_kind[name] = kinds(operations)
    command = f"python benchmarks/training_step.py --detectors {' '.join(options.detectors)}"
    notes = (f"Medians of {options.steps} steps, {choose_compute('cpu', options.precision).reason}.",)
    results = (
        Result(
            "Parts of a training step",
            command,
            ("detector", "batch", *(f"{part}, ms" for part in PARTS), "images/s"),
            tuple(by_part),
            notes=notes,
        ),
        Result(
            "Operations of a training step",
            command,
            ("operations", *by_kind),
            tuple((kind, *(f"{shares[kind]:.1%}" for shares in by_kind.values())) for kind in (*KINDS, REST)),
            notes=("By PyTorch's profiler, in the step after those.",),
        ),
    )
    show(*results)
    write_results(options.json, results)


if __name__ == "__main__":
    main(tyro.cli(Options))
