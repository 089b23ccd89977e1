"""Post-processing on one core, from SSD300's raw outputs to an image's detections: ours beside torchvision's.

    python benchmarks/postprocessing.py
    python benchmarks/postprocessing.py --model runs/mine --images MY-IMAGES --json postprocessing.json

8,732 anchors, scores above 0.01, NMS at 0.45, at most 200 detections; softmax and the decoding of boxes are part of it.
The outputs are those of a network with random weights on drawn images; synthetic ones as of a trained network (a few
objects, each seen by the anchors that overlap it, on a background that lets 2 % of the scores pass); and the worst that
there are: every score passes. `--model` adds a trained SSD300.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from prediction import image_files
from side_by_side import Result, show, time_in_turn, write_results
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16

from onestage.boxes import cxcywh_to_xyxy, encode_deltas, pairwise_iou
from onestage.detectors import Detector, build
from onestage.errors import UserError
from onestage.input_size import resize_image
from onestage.models.model_file import load_model
from onestage.runtime.decode import decode_image
from onestage.structures import Predictions

NAME = "ssd300-vgg16"
ANCHORS = 8_732
GOALS = {20: 3.0, 80: 8.0}  # ms an image, by classes
WORST = "every score passes"  # which has no goal
THEIR_CANDIDATES = 400  # of each class, as torchvision's SSD comes; ours takes 200
OBJECTS = 5  # an image
BACKGROUND = -7.0  # mean of the other logits where nothing is, as far below that of background
BACKGROUND_SPREAD = 1.15  # so that 2 % of the scores pass


@dataclass(frozen=True)
class Options:
    """Time the post-processing."""

    model: Path | None = None
    """A trained SSD300, beside the others."""
    images: Path | None = None
    """A folder of JPEG files; without, drawn images of 500x375."""
    count: int = 8
    """Of images."""
    rounds: int = 5
    json: Path | None = None


@dataclass(frozen=True)
class Case:
    """Raw outputs of a network, image by image."""

    name: str
    detector: Detector
    outputs: Sequence[Predictions]


# --- raw outputs


@torch.no_grad()
def of_network(name: str, detector: Detector, files: Sequence[Path]) -> Case:
    """What a network says of images."""
    detector = detector.eval()
    pixels = [resize_image(decode_image(file), (300, 300)) for file in files]
    return Case(name, detector, [detector(torch.from_numpy(one)[None].permute(0, 3, 1, 2)) for one in pixels])


def as_trained(detector: Detector, count: int) -> Case:
    """What a trained network might say of images with a few objects."""
    anchors, size = detector.anchors_cxcywh((300, 300)), 300
    outputs = []
    for _ in range(count):
        logits = torch.randn(ANCHORS, detector.num_classes + 1) * BACKGROUND_SPREAD + BACKGROUND
        logits[:, 0] = 0.0
        centres, sides = torch.rand(OBJECTS, 2) * size, 30 + torch.rand(OBJECTS, 2) * 150
        objects_xyxy = cxcywh_to_xyxy(torch.cat([centres, sides], dim=1)).clamp(0, size)
        labels = torch.randint(detector.num_classes, (OBJECTS,))
        overlap, nearest = pairwise_iou(cxcywh_to_xyxy(anchors), objects_xyxy).max(dim=1)
        logits[torch.arange(ANCHORS), 1 + labels[nearest]] += 14 * overlap
        deltas = encode_deltas(objects_xyxy[nearest], anchors).clamp(-8, 8) * (overlap > 0.3)[:, None]
        outputs.append(Predictions(logits[None], (deltas + 0.5 * torch.randn(ANCHORS, 4))[None]))
    return Case("as of a trained network", detector, outputs)


def worst(detector: Detector, count: int) -> Case:
    """Every class of every anchor above the threshold."""
    outputs = [
        Predictions(0.05 * torch.randn(1, ANCHORS, detector.num_classes + 1), torch.randn(1, ANCHORS, 4))
        for _ in range(count)
    ]
    return Case(WORST, detector, outputs)


# --- both


def ours(case: Case, candidates: int) -> int:
    """All images; how many were found in them."""
    selection = replace(case.detector.evaluation_selection, candidates_per_class=candidates)
    return sum(len(case.detector.detect(output, selection, (300, 300))[0]) for output in case.outputs)


@torch.inference_mode()
def torchvisions(model: Any, anchors_xyxy: Tensor, case: Case) -> int:
    """All images; how many were found in them."""
    found = 0
    for output in case.outputs:
        heads = {"bbox_regression": output.box_deltas, "cls_logits": output.class_logits}
        found += len(model.postprocess_detections(heads, [anchors_xyxy], [(300, 300)])[0]["scores"])
    return found


def measure(case: Case, options: Options) -> tuple[tuple[str, ...], float]:
    """The row of a table, and our ms an image."""
    classes, count = case.detector.num_classes, len(case.outputs)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=classes + 1).eval()
    anchors_xyxy = cxcywh_to_xyxy(case.detector.anchors_cxcywh((300, 300)))
    own = case.detector.evaluation_selection
    candidates: dict[str, Callable[[], int]] = {
        "ours": partial(ours, case, own.candidates_per_class),
        "ours, their candidates": partial(ours, case, THEIR_CANDIDATES),
        "torchvision": partial(torchvisions, model, anchors_xyxy, case),
    }
    timings = time_in_turn(candidates, rounds=options.rounds)
    ms = {name: 1000 * timing.median / count for name, timing in timings.items()}
    passing = [
        (case.detector.scored_boxes(output, (300, 300))[1] > own.score_threshold).sum() for output in case.outputs
    ]
    row = (
        f"{case.name}, {classes} classes",
        f"{float(sum(passing)) / count:,.0f}",
        *(f"{one:.2f}" for one in ms.values()),
        f"{ms['torchvision'] / ms['ours']:.1f}",
        "; ".join(f"{call() / count:.0f}" for call in candidates.values()),
    )
    return row, ms["ours"]


def cases(options: Options, files: Sequence[Path]) -> list[Case]:
    found = []
    for classes in GOALS:
        detector = build(NAME, classes)
        found.append(as_trained(detector, options.count))
        found.append(of_network("random weights", detector, files))
        found.append(worst(detector, options.count))
    if options.model is not None:
        trained = load_model(options.model).detector
        if len(trained.anchors_cxcywh((300, 300))) != ANCHORS:
            raise UserError(f"{options.model}: a {trained.name}; give an SSD300, whose anchors are {ANCHORS:,}")
        found.append(of_network(f"{options.model}", trained, files))
    return found


def main(options: Options) -> None:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        every_case = cases(options, image_files(options.images, options.count, Path(folder)))
    torch.set_num_threads(1)
    rows, goals = [], []
    for case in every_case:
        row, ms = measure(case, options)
        rows.append(row)
        limit = GOALS.get(case.detector.num_classes)
        if limit is not None and case.name != WORST:
            goals.append(
                f"{row[0]}: at most {limit:g} ms an image; measured {ms:.2f}: {'met' if ms <= limit else 'not met'}"
            )
    torch.set_num_threads(threads)
    result = Result(
        name="Post-processing SSD300's outputs",
        command="python benchmarks/postprocessing.py",
        columns=(
            *("outputs", "scores above 0.01", "ours, ms", f"ours with {THEIR_CANDIDATES} candidates a class, ms"),
            *("torchvision, ms", "times torchvision", "found by the three"),
        ),
        rows=tuple(rows),
        goals=tuple(goals),
        notes=(
            f"One core, an image at a time, {options.count} images, medians of {options.rounds} rounds.",
            f"NMS sees the best 200 of each class in ours, as in ssd.pytorch, and the best {THEIR_CANDIDATES} in "
            "torchvision, as in the paper's release.",
        ),
    )
    show(result)
    write_results(options.json, [result])


if __name__ == "__main__":
    main(tyro.cli(Options))
