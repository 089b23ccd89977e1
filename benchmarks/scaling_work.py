"""The work that `scaling.py` measures: functions that make ready what it takes and give the call; then its sizes.

Images, boxes and scores are drawn at random from a fixed seed. Networks have fresh weights on timm's smallest
backbone, so that what is measured is this package's own part more than convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scaling_data import IMAGE_SIDE, Kind, draw_boxes, write_dataset

from onestage.compute.memory import keep_freed_memory
from onestage.data import read_dataset
from onestage.data.augmentation import augment
from onestage.data.augmentation.presets import SSD_PAPER
from onestage.data.loader import epoch_order
from onestage.data.table import TableBuilder
from onestage.detectors import Detector, build, detector_config
from onestage.evaluation import coco_metrics, voc_average_precision
from onestage.input_size import Stretch
from onestage.postprocess import Selection, select
from onestage.structures import Categories, DetectionTable, GroundTruth, Predictions, Sample, Targets
from onestage.training.optimizer import build_optimizer, train_mode
from onestage.training.recipe import Recipe

Call = Callable[[], object]
Family = Literal["ssd", "retinanet"]
Protocol = Literal["voc", "coco"]

BACKBONE = "test_efficientnet"
CLASSES = 20
OBJECTS = 10  # of an image
ANCHORS = 8732  # of SSD300
CANDIDATES = 200  # a class; and so many detections an image: SSD's selection


def draw_targets(images: int, objects: int, classes: int, side: int) -> list[Targets]:
    rng = np.random.default_rng(0)
    return [
        Targets(
            torch.from_numpy(draw_boxes(rng, objects, side)).float(),
            torch.from_numpy(rng.integers(0, classes, objects)),
            torch.zeros(objects, dtype=torch.bool),
        )
        for _ in range(images)
    ]


def make_detector(family: Family, side: int, classes: int) -> Detector:
    """SSD has an input of 300 or 512 pixels, RetinaNet any multiple of 32."""
    torch.manual_seed(0)
    name = f"ssd{side}-{BACKBONE}" if family == "ssd" else f"retinanet-{BACKBONE}"
    config = detector_config(name)
    config = config if family == "ssd" else config.adjusted({"image_size": side})
    detector: Any = build(name, classes, config=config)
    return detector.to(memory_format=torch.channels_last)


def draw_images(batch: int, side: int) -> torch.Tensor:
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def training_step(family: Family, *, side: int, batch: int = 2, classes: int = CLASSES) -> Call:
    """Network, matching, loss, gradient and update."""
    keep_freed_memory()
    detector = make_detector(family, side, classes)
    train_mode(detector)
    optimizer = build_optimizer(detector, Recipe(steps=1, learning_rate=1e-6))
    images, targets = draw_images(batch, side), draw_targets(batch, OBJECTS, classes, side)

    def step() -> None:
        losses = detector.losses(detector(images), targets, (side, side))
        optimizer.zero_grad(set_to_none=True)
        (sum(losses.sums.values()) / losses.divisor.clamp(min=1)).backward()
        optimizer.step()

    return step


def prediction(family: Family, *, side: int, batch: int = 2, classes: int = CLASSES) -> Call:
    """Network, decoding, selection, and the boxes as Python lists."""
    detector = make_detector(family, side, classes).eval()
    images = draw_images(batch, side)

    @torch.inference_mode()
    def predict() -> list[list[list[float]]]:
        found = detector.detect(detector(images), detector.evaluation_selection, (side, side))
        return [one.boxes_xyxy.tolist() for one in found]

    return predict


def selection(classes: int) -> Call:
    """NMS where each class fills its places: the worst that an image can bring."""
    rng = np.random.default_rng(0)
    boxes_xyxy = torch.from_numpy(draw_boxes(rng, ANCHORS, 300)).float()[None]
    scores = torch.rand((1, ANCHORS, classes), generator=torch.Generator().manual_seed(0)) * 0.01
    for label in range(classes):
        scores[0, torch.from_numpy(rng.choice(ANCHORS, CANDIDATES, replace=False)), label] += 0.5
    return lambda: select(boxes_xyxy, scores, Selection(candidates_per_class=CANDIDATES))


def matching_and_loss(family: Family, objects: int) -> Call:
    """Of two images, with the gradient to the network's outputs."""
    keep_freed_memory()
    side = 300 if family == "ssd" else 320
    detector = make_detector(family, side, CLASSES)
    with torch.no_grad():
        outputs = detector(draw_images(2, side))
    targets = draw_targets(2, objects, CLASSES, side)
    predictions = Predictions(*(one.float().requires_grad_() for one in outputs))

    def loss() -> None:
        losses = detector.losses(predictions, targets, (side, side))
        torch.stack(list(losses.sums.values())).sum().backward()

    return loss


def augmentation(objects: int) -> Call:
    """The paper's, of 20 decoded images, so that every kind of crop is among them."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
    boxes_xyxy = draw_boxes(rng, objects).astype(np.float32)
    sample = Sample(image, boxes_xyxy, rng.integers(0, CLASSES, objects), np.zeros(objects, dtype=bool), 0)
    resize = Stretch(300)

    def augment_all() -> None:
        for number in range(20):
            augment(sample, resize, np.random.default_rng((0, number)), SSD_PAPER)

    return augment_all


def metrics(protocol: Protocol, *, images: int, objects: int, detections: int, classes: int = CLASSES) -> Call:
    """Of so many objects and detections in each image, half of the detections near an object."""
    rng = np.random.default_rng(0)
    image_index = np.repeat(np.arange(images), objects)
    boxes_xyxy, labels = draw_boxes(rng, len(image_index)), rng.integers(0, classes, len(image_index))
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    truth = GroundTruth(images, image_index, labels, boxes_xyxy, np.zeros(len(labels), dtype=bool), areas)

    found_index = np.repeat(np.arange(images), detections)
    near = found_index * objects + rng.integers(0, objects, len(found_index))
    is_near = rng.random(len(found_index)) < 0.5
    shifted = boxes_xyxy[near] + rng.uniform(-5, 5, (len(near), 4))
    found = DetectionTable(
        found_index,
        np.where(is_near, labels[near], rng.integers(0, classes, len(near))),
        rng.random(len(near)),
        np.where(is_near[:, None], shifted, draw_boxes(rng, len(near))),
    )
    measure = voc_average_precision if protocol == "voc" else coco_metrics
    return lambda: measure(truth, found, classes)


def order_of_an_epoch(images: int) -> Call:
    nothing = np.zeros((0, 4), dtype=np.float32)
    builder = TableBuilder(Path("nowhere"), "train", "voc")
    for index in range(images):
        builder.add(path=str(index), image_id=str(index), size_hw=(9, 9), boxes_xyxy=nothing, labels=[], ignored=[])
    table = builder.build(Categories.from_names(["one"]))
    return lambda: epoch_order(table, 1, 0, 0).tolist()


def reading(kind: Kind, folder: Path, *, annotations: int, objects: int, classes: int = CLASSES) -> Call:
    """A data set read into the table; so many objects an image."""
    write_dataset(kind, folder, -(-annotations // objects), objects, classes)

    def read() -> None:
        table, problems = read_dataset(folder, "train")
        if len(table.labels) != annotations or problems:
            raise RuntimeError(f"{kind}: {len(table.labels)} objects and {len(problems)} problems in {folder}")

    return read


GrowthName = Literal["batch", "pixels", "classes", "objects", "annotations"]


@dataclass(frozen=True)
class Workload:
    """A kind of work, of growing size."""

    name: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, Path], Call]  # (size, a folder that is not there yet)


@dataclass(frozen=True)
class Growth:
    """What grows: a section of the page.

    Attributes:
        title: what grows.
        axis: the same, of the plots.
        unit: what time is told of.
        workloads: a line each.
        units: how many of them a size has.
        note: what a reader of the figures must know.
    """

    title: str
    axis: str
    unit: str
    workloads: tuple[Workload, ...]
    units: Callable[[int], float] = float
    note: str = ""


BATCHES = (1, 2, 4, 8, 16, 32)
SQUARES = (320, 448, 640, 896, 1024)  # about twice the pixels each
THOUSANDS = (1, 10, 100, 300, 1_000)
ANNOTATIONS = (1_000, 10_000, 100_000, 300_000, 1_000_000)
OBJECTS_A_FILE = 20

GROWTHS: dict[GrowthName, Growth] = {
    "batch": Growth(
        "images in a batch",
        "images in a batch",
        "an image",
        (
            Workload("SSD300, training step", BATCHES[1:], lambda n, _: training_step("ssd", side=300, batch=n)),
            Workload("SSD300, prediction", BATCHES, lambda n, _: prediction("ssd", side=300, batch=n)),
            Workload("RetinaNet 320, prediction", BATCHES, lambda n, _: prediction("retinanet", side=320, batch=n)),
        ),
    ),
    "pixels": Growth(
        "side of the input",
        "megapixels of the input",
        "a megapixel",
        (
            Workload("SSD, training step", (300, 512), lambda n, _: training_step("ssd", side=n)),
            Workload("SSD, prediction", (300, 512), lambda n, _: prediction("ssd", side=n)),
            Workload("RetinaNet, training step", SQUARES, lambda n, _: training_step("retinanet", side=n, batch=1)),
            Workload("RetinaNet, prediction", SQUARES, lambda n, _: prediction("retinanet", side=n, batch=1)),
        ),
        units=lambda side: side * side / 1e6,
    ),
    "classes": Growth(
        "classes",
        "classes",
        "a class",
        (
            Workload("SSD300, training step", THOUSANDS, lambda n, _: training_step("ssd", side=300, classes=n)),
            Workload(
                "RetinaNet 320, training step",
                THOUSANDS,
                lambda n, _: training_step("retinanet", side=320, batch=1, classes=n),
            ),
            Workload("SSD300, prediction", THOUSANDS, lambda n, _: prediction("ssd", side=300, classes=n)),
            Workload("RetinaNet 320, prediction", THOUSANDS, lambda n, _: prediction("retinanet", side=320, classes=n)),
            Workload("NMS, each class with 200 candidates", THOUSANDS, lambda n, _: selection(n)),
            Workload("VOC metrics, 40,000 detections", THOUSANDS, lambda n, _: _metrics_by_classes("voc", n)),
            Workload("COCO metrics, 40,000 detections", THOUSANDS, lambda n, _: _metrics_by_classes("coco", n)),
            Workload("reading VOC, 10,000 objects", THOUSANDS, lambda n, folder: _reading_by_classes("voc", folder, n)),
            Workload(
                "reading COCO, 10,000 objects", THOUSANDS, lambda n, folder: _reading_by_classes("coco", folder, n)
            ),
            Workload(
                "reading YOLO, 10,000 objects", THOUSANDS, lambda n, folder: _reading_by_classes("yolo", folder, n)
            ),
        ),
    ),
    "objects": Growth(
        "objects in an image",
        "objects in an image",
        "an object of each image",
        (
            Workload("SSD300, matching and loss", THOUSANDS, lambda n, _: matching_and_loss("ssd", n)),
            Workload("RetinaNet 320, matching and loss", THOUSANDS, lambda n, _: matching_and_loss("retinanet", n)),
            Workload("SSD's augmentation, 20 images", THOUSANDS, lambda n, _: augmentation(n)),
            Workload(
                "VOC metrics, 50 images, 200 detections each", THOUSANDS, lambda n, _: _metrics_by_objects("voc", n)
            ),
            Workload(
                "COCO metrics, 50 images, 200 detections each", THOUSANDS, lambda n, _: _metrics_by_objects("coco", n)
            ),
        ),
        note="Detections stay at the 200 of an image that SSD keeps. Were there as many as objects, their pairs would "
        "grow as the square: a detection is held against every object of its class in its image.",
    ),
    "annotations": Growth(
        "annotations",
        "annotations",
        "an annotation",
        (
            Workload("reading VOC", ANNOTATIONS, lambda n, folder: _reading_by_annotations("voc", folder, n)),
            Workload("reading COCO", ANNOTATIONS, lambda n, folder: _reading_by_annotations("coco", folder, n)),
            Workload("reading YOLO", ANNOTATIONS, lambda n, folder: _reading_by_annotations("yolo", folder, n)),
            Workload("order of an epoch", ANNOTATIONS, lambda n, _: order_of_an_epoch(n)),
            Workload("VOC metrics, two detections each", ANNOTATIONS, lambda n, _: _metrics_by_annotations("voc", n)),
            Workload("COCO metrics, two detections each", ANNOTATIONS, lambda n, _: _metrics_by_annotations("coco", n)),
        ),
    ),
}


def _metrics_by_classes(protocol: Protocol, classes: int) -> Call:
    return metrics(protocol, images=500, objects=OBJECTS, detections=80, classes=classes)


def _metrics_by_objects(protocol: Protocol, objects: int) -> Call:
    return metrics(protocol, images=50, objects=objects, detections=CANDIDATES)


def _metrics_by_annotations(protocol: Protocol, annotations: int) -> Call:
    return metrics(protocol, images=annotations // OBJECTS, objects=OBJECTS, detections=2 * OBJECTS)


def _reading_by_classes(kind: Kind, folder: Path, classes: int) -> Call:
    return reading(kind, folder, annotations=10_000, objects=OBJECTS_A_FILE, classes=classes)


def _reading_by_annotations(kind: Kind, folder: Path, annotations: int) -> Call:
    return reading(kind, folder, annotations=annotations, objects=OBJECTS_A_FILE)
