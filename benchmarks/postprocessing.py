"""Milliseconds from a network's outputs to final boxes on one core: SSD300's 8,732 anchors, 20 and 80 classes.

    python benchmarks/postprocessing.py

Decoding, softmax, threshold 0.01, the 400 best a class, NMS at 0.45, 200 out: ours and torchvision's own, on the same
logits. "Spread" are logits of untrained weights scaled until they vary, so that 2 % of the scores pass the threshold;
"sparse" are like a trained network's: background everywhere but near a few objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table as Screen
from side_by_side import Result, time_in_turn, write_results
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList

from onestage.detectors import build
from onestage.structures import Predictions

GOALS = {20: 3.0, 80: 8.0}  # milliseconds a picture
INPUT_HW = (300, 300)
OBJECTS = 8  # of a "sparse" picture
NEAR = 12  # anchors about each


@dataclass(frozen=True)
class Options:
    """Time post-processing."""

    pictures: int = 8
    rounds: int = 7
    json: Path | None = None


def spread_logits(pictures: int, anchors: int, classes: int) -> Tensor:
    """(B, A, 1 + K): 2 % of the scores are above 0.01."""
    generator = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(pictures, anchors, 1 + classes, generator=generator)
    low, high = 0.0, 30.0
    while high - low > 0.01:  # the background's lead
        lead = (low + high) / 2
        logits[..., 0] = lead
        too_many = (logits.softmax(-1)[..., 1:] > 0.01).float().mean() > 0.02
        low, high = (lead, high) if too_many else (low, lead)
    return logits


def sparse_logits(pictures: int, anchors: int, classes: int) -> Tensor:
    """(B, A, 1 + K): background, but for some neighbouring anchors an object each."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(pictures, anchors, 1 + classes, generator=generator)
    logits[..., 0] += 9.0
    for picture in range(pictures):
        for first in torch.randint(0, anchors - NEAR, (OBJECTS,), generator=generator).tolist():
            label = int(torch.randint(1, 1 + classes, (1,), generator=generator))
            logits[picture, first : first + NEAR, label] += 9.0
    return logits


def candidates(logits: Tensor, classes: int) -> dict[str, Callable[[], object]]:
    """Ours and torchvision's post-processing of the same outputs."""
    ours = build("ssd300-vgg16", classes).eval()
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=1 + classes).eval()
    pictures, anchors, _ = logits.shape
    deltas = 0.5 * torch.randn(pictures, anchors, 4, generator=torch.Generator().manual_seed(2))
    images = ImageList(torch.zeros(pictures, 3, *INPUT_HW), [INPUT_HW] * pictures)
    maps = [torch.zeros(pictures, 1, side, side) for side in (38, 19, 10, 5, 3, 1)]
    laid = theirs.anchor_generator(images, maps)
    outputs = {"cls_logits": logits, "bbox_regression": deltas}

    def by_us() -> object:
        return ours.detect(Predictions(logits, deltas), ours.evaluation_selection, INPUT_HW)

    def by_torchvision() -> object:
        return theirs.postprocess_detections(outputs, laid, images.image_sizes)

    return {"onestage": by_us, "torchvision": by_torchvision}


@torch.inference_mode()
def measure(options: Options) -> Result:
    rows, goals = [], []
    for classes, goal in GOALS.items():
        for kind, logits_of in (("spread", spread_logits), ("sparse", sparse_logits)):
            logits = logits_of(options.pictures, 8732, classes)
            timings = time_in_turn(candidates(logits, classes), rounds=options.rounds)
            ours, theirs = (1000 * timings[name].median / options.pictures for name in ("onestage", "torchvision"))
            passing = (logits.softmax(-1)[..., 1:] > 0.01).float().mean().item()
            rows.append(
                (f"{classes}, {kind}", f"{passing:.2%}", f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}")
            )
            verdict = "met" if ours <= goal else "not met"
            goals.append(
                f"{classes} classes, {kind}: at most {goal:g} ms a picture on one core: {ours:.2f} ms, {verdict}"
            )
    return Result(
        name="Post-processing on one core",
        command="python benchmarks/postprocessing.py",
        columns=("classes, logits", "scores above 0.01", "onestage, ms", "torchvision, ms", "times"),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=(f"Batches of {options.pictures}; a picture's share of them.",),
    )


def main(options: Options) -> None:
    torch.set_num_threads(1)
    result = measure(options)
    screen = Screen(*result.columns)
    for row in result.rows:
        screen.add_row(*row)
    console = Console()
    console.print(screen, *result.goals, sep="\n")
    write_results(options.json, [result])


if __name__ == "__main__":
    main(tyro.cli(Options))
