"""Prediction end to end, JPEG files to final boxes in a Python list: ours in each engine and torchvision side by side.

    python benchmarks/prediction.py
    python benchmarks/prediction.py --sections ssd300-vgg16 --images MY-IMAGES --json prediction.json
    python benchmarks/prediction.py --model runs/mine --images MY-IMAGES

Weights are random, with outputs like those of trained networks (see `random_models.py`), unless `--model` gives trained
ones. Scores are cut and detections limited as each paper's evaluation does (SSD: above 0.01, at most 200 an image).
"The network alone" is explained in `openvino_bounds.py`.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import random_models
import torch
import tyro
from openvino_bounds import NetworkAlone
from side_by_side import Result, machine, show, time_in_turn, write_results
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.functional import convert_image_dtype
from trainers import RETINANET_EDGES

from onestage.compute.device import choose_compute
from onestage.data.generated import draw_image
from onestage.detectors.base import Detector
from onestage.errors import UserError
from onestage.export import FORMATS
from onestage.export.base import Calibration, ModelToExport
from onestage.export.check import compare
from onestage.inference.predictor import BasePredictor, Predictor, load
from onestage.input_size import KeepRatio
from onestage.models.model_file import LoadedModel, load_model
from onestage.runtime.decode import decode_image as decode_upright
from onestage.runtime.decode import read_header
from onestage.structures import Detections

Candidate: TypeAlias = str  # a key of `NAMES`
PRECISIONS: dict[Candidate, str] = {
    "openvino fp32": "fp32",
    "openvino bf16": "bf16",
    "openvino int8": "int8",
}
NAMES: dict[Candidate, str] = {
    "torchvision": "torchvision as it comes",
    "torch fp32": "onestage, torch fp32",
    "torch bf16": "onestage, torch bf16",
    "onnx": "onestage, ONNX Runtime",
    **{target: f"onestage, OpenVINO {precision}" for target, precision in PRECISIONS.items()},
    "torchvision, GPU": "torchvision as it comes, on the GPU",
    "torch fp32, GPU": "onestage, torch fp32, on the GPU",
    "torch bf16, GPU": "onestage, torch bf16, on the GPU",
}
ON_GPU: tuple[Candidate, ...] = ("torchvision, GPU", "torch fp32, GPU", "torch bf16, GPU")  # where there is one
Found = tuple[list[Any], list[Any], list[Any]]  # an image's boxes, scores and labels
CALIBRATION_IMAGES = 8
SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Goal:
    """Images a second in batches of a size, set for a processor with AMX, where the network alone makes `alone`."""

    candidate: Candidate
    batch_size: int
    least: float
    alone: float


@dataclass(frozen=True)
class Section:
    """A network and what runs it.

    Attributes:
        candidates: in the order of the table.
        batch_sizes: the smallest first.
        images: of each timed call, by size of batch.
        goals: rates.
        ratio: of the fastest of ours to torchvision's, in batches of the smallest size, at least.
    """

    candidates: tuple[Candidate, ...]
    batch_sizes: tuple[int, int]
    images: tuple[int, int]
    goals: tuple[Goal, ...] = ()
    ratio: float | None = None


ALL: tuple[Candidate, ...] = ("torchvision", "torch fp32", "torch bf16", "onnx", *PRECISIONS)
# ONNX Runtime's float32 stands for OpenVINO's, which costs a minute and finds the same.
TIMED = tuple(candidate for candidate in ALL if candidate != "openvino fp32")
SECTIONS: dict[str, Section] = {
    "ssd300-vgg16": Section(
        TIMED,
        (1, 8),
        (2, 8),
        (
            Goal("openvino int8", 8, 45, alone=1000 / 15.4),
            Goal("openvino bf16", 8, 28, alone=1000 / 27),
            Goal("openvino int8", 1, 40, alone=1000 / 18.5),
            Goal("openvino bf16", 1, 24, alone=1000 / 32),
        ),
        ratio=12,
    ),
    "ssd300-tf_efficientnet_lite0": Section(TIMED, (1, 8), (16, 32)),
    "retinanet-resnet50": Section(
        ("torchvision", "torch fp32", "openvino bf16", "openvino int8"), (1, 4), (2, 4), ratio=4
    ),
    "m2det320-vgg16": Section(("torch fp32", "openvino bf16", "openvino int8"), (1, 4), (2, 4)),
}


@dataclass(frozen=True)
class Options:
    """What predicts."""

    sections: tuple[str, ...] = tuple(SECTIONS)
    """Detectors by name."""
    model: Path | None = None
    """A trained model, in place of the sections; torchvision's network keeps random weights."""
    images: Path | None = None
    """A folder of JPEG files; without, drawn images of 500x375."""
    classes: int = 20
    rounds: int = 5
    json: Path | None = None


# --- images and models


def image_files(given_in: Path | None, count: int, folder: Path) -> list[Path]:
    """JPEG files: those that are given, again and again, or drawn ones."""
    if given_in is not None:
        given = sorted(file for file in given_in.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not given:
            raise UserError(f"{given_in}: no JPEG file in it; give a folder of some")
        return [given[index % len(given)] for index in range(count)]
    files = [folder / f"{index}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        image = cv2.resize(draw_image(np.random.default_rng((0, index)), 440).image, (500, 375))
        cv2.imwrite(str(file), image[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, 90))
    return files


def torchvisions_lists(model: nn.Module, files: Sequence[Path], batch_size: int) -> list[Found]:
    """As its documentation does it: decoded by torchvision, to floats, the model's own transform."""
    found: list[Found] = []
    device = next(model.parameters()).device
    for start in range(0, len(files), batch_size):
        with torch.inference_mode():
            batch = [
                convert_image_dtype(decode_image(str(file), ImageReadMode.RGB).to(device))
                for file in files[start : start + batch_size]
            ]
            outputs: list[dict[str, Tensor]] = model(batch)
        found += [(one["boxes"].tolist(), one["scores"].tolist(), one["labels"].tolist()) for one in outputs]
    return found


def our_lists(predictor: BasePredictor, files: Sequence[Path], batch_size: int) -> list[Found]:
    """By the predictor that `onestage.load` gives."""
    found = predictor(files, batch_size)
    return [(one.boxes_xyxy.tolist(), one.scores.tolist(), one.labels.tolist()) for one in found]


def as_detections(found: Found) -> Detections:
    boxes, scores, labels = found
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.int64))


def exported(model: LoadedModel, candidate: Candidate, files: Sequence[Path], folder: Path) -> Path:
    """The model as a file for an engine; int8 is calibrated on the images."""
    selection = model.detector.evaluation_selection
    if candidate == "onnx":
        FORMATS["onnx"].write(ModelToExport(model.detector, model.categories, selection, {}), folder / "model.onnx")
        return folder / "model.onnx"
    precision, path = PRECISIONS[candidate], folder / f"{PRECISIONS[candidate]}.xml"
    few = list(dict.fromkeys(files))[:CALIBRATION_IMAGES]
    calibration = Calibration([partial(decode_upright, file) for file in few])
    to_export = ModelToExport(model.detector, model.categories, selection, {}, precision, calibration)
    FORMATS["openvino"].write(to_export, path)
    return path


def predictor_of(
    model: LoadedModel, model_file: Path, candidate: Candidate, files: Sequence[Path], folder: Path
) -> BasePredictor:
    """Ours, keeping what the paper's evaluation keeps."""
    if candidate.startswith("torch "):
        precision, device = ("fp32" if "fp32" in candidate else "bf16"), ("cuda" if candidate in ON_GPU else "cpu")
        # Read again: bfloat16 changes some layers of the network that it is given.
        fresh = load_model(model_file)
        predictor: BasePredictor = Predictor(fresh.detector, fresh.categories, device=device, precision=precision)
    else:
        predictor = load(exported(model, candidate, files, folder), device="cpu")
    predictor.selection = predictor.papers_selection
    return predictor


# --- timing


@dataclass(frozen=True)
class Measured:
    """One section's figures: images a second, by candidate (or precision) and size of batch."""

    rates: Mapping[tuple[Candidate, int], float]
    alone: Mapping[tuple[Candidate, int], float]
    convolutions: Mapping[tuple[Candidate, int], float]
    same: Mapping[Candidate, float]  # share of the detections that "torch fp32" has
    found: float  # detections an image


def measure(name: str, section: Section, files: Sequence[Path], options: Options, folder: Path) -> Measured:
    """Make the candidates of a section and time them in turn."""
    model_file, theirs = _model(name, files, options, folder)
    model = load_model(model_file)
    run: dict[Candidate, Callable[[Sequence[Path], int], list[Found]]] = {}
    for candidate in (*section.candidates, *(ON_GPU if torch.cuda.is_available() else ())):
        if not candidate.startswith("torchvision"):
            run[candidate] = partial(our_lists, predictor_of(model, model_file, candidate, files, folder))
        elif theirs is not None:
            network = copy.deepcopy(theirs).cuda() if candidate in ON_GPU else theirs
            run[candidate] = partial(torchvisions_lists, network)
    looked_at = files[: section.images[0]]
    found = {candidate: list(map(as_detections, call(looked_at, 1))) for candidate, call in run.items()}
    rates, alone, convolutions = {}, {}, {}
    for batch_size, count in zip(section.batch_sizes, section.images, strict=True):
        networks = {
            candidate: NetworkAlone(
                folder / f"{PRECISIONS[candidate]}.xml", batch_size, _input_hw(model.detector, files)
            )
            for candidate in run
            if candidate in PRECISIONS
        }
        timings = time_in_turn(
            {candidate: partial(call, files[:count], batch_size) for candidate, call in run.items()}
            | {f"{candidate}, alone": network for candidate, network in networks.items()},
            rounds=options.rounds,
        )
        for candidate in run:
            rates[candidate, batch_size] = count / timings[candidate].median
        for candidate, network in networks.items():
            alone[candidate, batch_size] = batch_size / timings[f"{candidate}, alone"].median
            convolutions[candidate, batch_size] = batch_size / network.convolutions_seconds(options.rounds)
    own = found["torch fp32"]
    # In lower precision the deep networks of random weights find other objects.
    comparable = [
        name for name in found if options.model is not None or name in ("torch fp32", "onnx", "openvino fp32")
    ]
    same = {candidate: compare(own, found[candidate]).share for candidate in comparable}
    return Measured(rates, alone, convolutions, same, sum(map(len, own)) / len(own))


def _model(name: str, files: Sequence[Path], options: Options, folder: Path) -> tuple[Path, nn.Module | None]:
    """The model file, and torchvision's network."""
    if options.model is None:
        path = folder / "model.safetensors"
        return path, random_models.make(name, files, path, classes=options.classes, edges=RETINANET_EDGES)
    loaded = load_model(options.model)
    resize = loaded.detector.resize
    edges = (resize.shortest, resize.longest) if isinstance(resize, KeepRatio) else RETINANET_EDGES
    theirs = random_models.torchvisions(name, len(loaded.categories), edges)
    if theirs is not None:
        random_models.spread(theirs, files, random_models.share_of_scores(loaded.detector, files))
    return options.model, theirs


def _input_hw(detector: Detector, files: Sequence[Path]) -> tuple[int, int]:
    header = read_header(files[0])
    return detector.resize.input_hw([detector.resize.image_hw((header.height, header.width))])


# --- what is told


def as_results(name: str, section: Section, measured: Measured, options: Options) -> list[Result]:
    """A table of the candidates, and one of what OpenVINO allows."""
    small, large = section.batch_sizes
    where = f"--model {options.model}" if options.model else f"--sections {name}"
    command = f"python benchmarks/prediction.py {where}"
    columns = ("predicted by", *(f"batches of {size}, images/s" for size in section.batch_sizes))
    columns += tuple(f"times torchvision, batches of {size}" for size in section.batch_sizes)
    candidates = list(dict.fromkeys(candidate for candidate, _ in measured.rates))
    rows = tuple(
        (
            NAMES[candidate],
            *(f"{measured.rates[candidate, size]:.1f}" for size in section.batch_sizes),
            *(_times_torchvision(measured, candidate, size) for size in section.batch_sizes),
            f"{measured.same[candidate]:.1%}" if candidate in measured.same else "",
        )
        for candidate in candidates
    )
    images = f"JPEG files of {options.images}" if options.images else "drawn JPEG files of 500x375"
    weights = "trained weights" if options.model else "random weights, outputs as of trained ones"
    notes = (
        f"{images[0].upper()}{images[1:]} to final boxes in Python lists; {weights}; medians of {options.rounds} "
        f"calls for {section.images[0]} images in batches of {small} and {section.images[1]} in batches of "
        f"{large}. fp32 finds {measured.found:.0f} objects an image; the last column: so many of them are found again "
        "(IoU above 0.99, scores within 0.002).",
        f"`onestage predict` without exporting: {choose_compute('cpu').reason}. Ours reads the next images while the "
        "network works; torchvision as it comes decodes, resizes, predicts and filters one after the other.",
    )
    goals = (*(_goal_line(goal, measured) for goal in section.goals), *_ratio_line(section, measured))
    title = f"Predicting with {name}" + (", trained" if options.model else "")
    table = Result(title, command, (*columns, "fp32's detections"), rows, goals, notes)
    return [table, _bounds(title, command, section, measured)]


def _bounds(title: str, command: str, section: Section, measured: Measured) -> Result:
    rows = tuple(
        (
            f"{PRECISIONS[candidate]}, batches of {size}",
            f"{(whole := measured.rates[candidate, size]):.1f}",
            f"{(alone := measured.alone[candidate, size]):.1f}",
            f"{(convolutions := measured.convolutions[candidate, size]):.1f}",
            f"{whole / alone:.0%}",
            f"{whole / convolutions:.0%}",
        )
        for size in section.batch_sizes
        for candidate in dict.fromkeys(candidate for candidate, _ in measured.alone)
    )
    columns = ("OpenVINO, images/s", "files to boxes", "the network alone", "the convolutions alone")
    notes = ("What OpenVINO allows here: the same network without decoding, resizing, boxes and NMS, sizes fixed.",)
    return Result(title, command, (*columns, "of the network's rate", "of the convolutions'"), rows, (), notes)


def _times_torchvision(measured: Measured, candidate: Candidate, size: int) -> str:
    theirs = measured.rates.get(("torchvision", size))
    return "" if theirs is None else f"{measured.rates[candidate, size] / theirs:.1f}"


def _goal_line(goal: Goal, measured: Measured) -> str:
    """Where there is no AMX, the goal is the same share of what the network alone makes."""
    rate, alone = (rates[goal.candidate, goal.batch_size] for rates in (measured.rates, measured.alone))
    what = f"{PRECISIONS[goal.candidate]}, batches of {goal.batch_size}"
    if "amx" in machine()["instructions"]:
        verdict = "met" if rate >= goal.least else "not met"
        return f"{what}: at least {goal.least:g} images/s; measured {rate:.1f}: {verdict}"
    share = goal.least / goal.alone
    verdict = "met" if rate >= share * alone else "not met"
    return (
        f"{what}: at least {goal.least:g} images/s where the processor has AMX, which is {share:.0%} of the network "
        f"alone there; measured, without AMX, {rate:.1f} images/s, {rate / alone:.0%} of it: {verdict}"
    )


def _ratio_line(section: Section, measured: Measured) -> list[str]:
    size = section.batch_sizes[0]
    if section.ratio is None or ("torchvision", size) not in measured.rates:
        return []
    ours = {candidate: rate for (candidate, of), rate in measured.rates.items() if of == size}
    theirs = ours.pop("torchvision")
    best = max(ours, key=lambda candidate: ours[candidate])
    ratio = ours[best] / theirs
    bound = max((rate / theirs for (_, of), rate in measured.alone.items() if of == size), default=ratio)
    return [
        f"batches of {size}: at least {section.ratio:g} times torchvision as it comes; measured {ratio:.1f} "
        f"({NAMES[best]}), where the network alone would make {bound:.1f}: "
        f"{'met' if ratio >= section.ratio else 'not met'}"
    ]


def main(options: Options) -> None:
    results: list[Result] = []
    sections = options.sections if options.model is None else (load_model(options.model).detector.name,)
    for name in sections:
        section = SECTIONS.get(name, Section(ALL, (1, 8), (4, 8)))
        with tempfile.TemporaryDirectory() as folder:
            files = image_files(options.images, max(section.images), Path(folder))
            measured = measure(name, section, files, options, Path(folder))
        for result in as_results(name, section, measured, options):
            show(result)
            results.append(result)
    write_results(options.json, results)


if __name__ == "__main__":
    main(tyro.cli(Options))
