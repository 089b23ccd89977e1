"""The nouns: what travels between the data, the detectors, the losses and the metrics.

Conventions that hold everywhere in this package:

- Labels are 0..K-1 and never include background.
- Boxes are floats, 0-based, half-open (x1 - x0 is the width); their format and frame stand in their name.
- Shape legend: B image, A anchor, K class, C class logit (K plus background where a detector has it), N object.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from onestage.drawing import SMALLEST_DRAWN_SIDE, draw_detections
from onestage.errors import UserError
from onestage.runtime.calibration import ScoreCalibration
from onestage.runtime.decode import decode_image, decode_pillow
from onestage.runtime.detections import detection_dicts, name_of, score_thresholds, wanted_labels
from onestage.texts import as_unicode

T = TypeVar("T")

ROWS_SHOWN = 10  # of detections in a notebook


def repeated(values: Iterable[T]) -> T | None:
    """The first value that stands there a second time; None if there is none."""
    seen: set[T] = set()
    return next((value for value in values if value in seen or seen.add(value)), None)


@dataclass(frozen=True)
class Categories:
    """The classes of a data set in the order of their labels, and the ids that their file has for them.

    Attributes:
        names: unique names, `names[label]`.
        source_ids: ids in the file (COCO's sparse ids), `source_ids[label]`; the label itself where the file has none.
    """

    names: tuple[str, ...]
    source_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if halves := [name for name in self.names if as_unicode(name) != name]:
            raise UserError(f"categories: {halves[0]!r} holds half a character, which can't be written; rename it")
        if (twice := repeated(self.names)) is not None:
            raise UserError(f"categories: {twice} named more than once; give each class its own name")
        if len(self.source_ids) != len(self.names) or len(set(self.source_ids)) != len(self.source_ids):
            raise UserError(
                f"categories: source ids {self.source_ids} do not name {len(self.names)} classes, once each"
            )

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Categories:
        """Categories whose ids in the file are their labels (VOC, YOLO)."""
        names = tuple(names)
        return cls(names, tuple(range(len(names))))

    @classmethod
    def from_dict(cls, values: Any) -> Categories:
        """Read `dataclasses.asdict` back, from a file's JSON; a UserError if it is something else."""
        lists: dict[str, tuple[Any, ...]] = {}
        for key, kind in (("names", str), ("source_ids", int)):
            items = values.get(key) if isinstance(values, dict) else None
            if not isinstance(items, list) or not items or any(type(item) is not kind for item in items):
                raise UserError("its categories are not a list of names and one of whole numbers; use another copy")
            lists[key] = tuple(items)
        return cls(**lists)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def label_of(self) -> dict[str, int]:
        """Name -> label."""
        return {name: label for label, name in enumerate(self.names)}


@dataclass(frozen=True)
class Sample:
    """One image with its objects, in the image's own pixels or, once augmented, in pixels of the network's input."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB
    boxes_xyxy: Float32[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, " N"]
    ignored: Bool[np.ndarray, " N"]  # VOC difficult, COCO crowd: neither positive nor negative
    image_index: int  # row in the data set's table


@dataclass(frozen=True)
class Targets:
    """The objects of one image of a batch, in pixels of the network's input."""

    boxes_xyxy: Float32[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]
    ignored: Bool[Tensor, " N"]

    def to(self, device: torch.device) -> Targets:
        return Targets(*(to_device(t, device) for t in (self.boxes_xyxy, self.labels, self.ignored)))

    @classmethod
    def stacked(cls, parts: Sequence[Targets]) -> Targets:
        """The objects of one or more images as those of one."""
        return cls(*(torch.cat(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))

    @classmethod
    def rows_of(cls, targets: Sequence[Targets], device: torch.device) -> tuple[Targets, Int64[Tensor, " N"]]:
        """The objects of all images (N), and last one that is none, for anchors without objects; the image of each."""
        none = torch.zeros(1, dtype=torch.int64, device=device)
        objects = cls.stacked([*targets, cls(torch.zeros(1, 4, device=device), none, none.bool())])
        counts = torch.tensor([len(one.labels) for one in targets], dtype=torch.int64)
        return objects, to_device(torch.arange(len(targets)).repeat_interleave(counts), device)

    def split(self, counts: Sequence[int]) -> list[Targets]:
        """The inverse of `stacked`, without a copy: the next so many objects of each image."""
        columns = (column.split(list(counts)) for column in vars(self).values())
        return [Targets(*rows) for rows in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Batch:
    """Images of a training or evaluation step with their objects. Normalisation is the detector's first layer."""

    images: UInt8[Tensor, "B 3 H W"]  # RGB
    targets: Sequence[Targets]
    image_indices: Int64[Tensor, " B"]

    def to(self, device: torch.device) -> Batch:
        """There, in four copies, however many images there are."""
        targets = Targets.stacked(self.targets).to(device).split([len(one.labels) for one in self.targets])
        return Batch(to_device(self.images, device), targets, self.image_indices)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there. A GPU's own work waits for what comes to it; the host's would not for what comes from it."""
    return tensor.to(device, non_blocking=device.type != "cpu")


class Predictions(NamedTuple):
    """A detector's raw output, the same in training and in evaluation mode.

    Its `scored_boxes` says what they mean. Most predict four deltas a box (D = 4); GFL a distribution of each side's
    distance.
    """

    class_logits: Float[Tensor, "B A C"]
    box_deltas: Float[Tensor, "B A D"]


class Matches(NamedTuple):
    """Targets of each anchor: the three masks are disjoint and cover all anchors."""

    labels: Int64[Tensor, "B A"]  # of the matched object where positive, else 0
    boxes_xyxy: Float[Tensor, "B A 4"]  # of the matched object, pixels of the network's input; valid where positive
    positive: Bool[Tensor, "B A"]
    negative: Bool[Tensor, "B A"]
    ignored: Bool[Tensor, "B A"]


@dataclass(frozen=True)
class Losses:
    """Undivided sums over a batch, by name, and what the trainer divides them by.

    The trainer divides by the divisor of the whole global batch, so one process and many give the same gradient.

    Attributes:
        sums: as {"classification": ..., "box": ...}; the total loss is their sum. Names are as they come: logs,
            trackers, the replay of a skipped step and the report take them over.
        divisor: positive anchors of the batch.
        own_divisors: for sums that are divided by something else, by name: that. A detector whose losses have some says
            so by `several_divisors`.
    """

    sums: dict[str, Float[Tensor, ""]]
    divisor: Int64[Tensor, ""]
    own_divisors: dict[str, Float[Tensor, ""]] = field(default_factory=dict)

    def scaled(self, **weights: float) -> Losses:
        """With some sums multiplied by a weight, by name."""
        return replace(self, sums={name: value * weights.get(name, 1.0) for name, value in self.sums.items()})

    def divisors(self) -> Float[Tensor, " T"]:
        """What each of the T sums is divided by, in their order."""
        return torch.stack([self.own_divisors.get(name, self.divisor).float() for name in self.sums]).detach()


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first, in pixels of the original image where a predictor made them.

    Rows are indexed as an array's: `found[0]`, `found[:5]`, `found[found.scores > 0.8]`; each gives `Detections`.
    """

    boxes_xyxy: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    names: tuple[str, ...] = ()  # of every class, by label; () straight from a detector
    track_ids: Int64[Tensor, " N"] | None = None  # numbers that objects keep through a video's frames; -1: none
    calibration: ScoreCalibration | None = None  # what a score means; None: nobody has found it

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: int | slice | Sequence[int] | Tensor | np.integer | np.ndarray) -> Detections:
        """The detections of a row (a whole number of Python, NumPy or torch), a slice, a mask or a list of rows.

        Raises:
            IndexError: no such row, a mask of another length, or neither whole numbers nor a mask.
        """
        chosen = rows if isinstance(rows, slice) else _rows(rows, len(self))
        chosen = torch.arange(len(self), device=self.scores.device)[chosen]
        track_ids = None if self.track_ids is None else self.track_ids[chosen]
        columns = self.boxes_xyxy[chosen], self.scores[chosen], self.labels[chosen]
        return Detections(*columns, self.names, track_ids, self.calibration)

    def __iter__(self) -> Iterator[Detections]:
        """Each row as `Detections` of one."""
        return (self[row] for row in range(len(self)))

    def filter(self, *, score: float | Sequence[float] = 0.0, names: Collection[str] | None = None) -> Detections:
        """The detections of these classes with a score above this one, or above that of their class, by label.

        Raises:
            ValueError: a name that no class has.
            UserError: a label without a score.
        """
        own = score_thresholds(score, self.labels.cpu().numpy())
        chosen = self.scores > torch.as_tensor(own, dtype=self.scores.dtype, device=self.scores.device)
        if names is not None:
            wanted = torch.tensor(wanted_labels(self.names, names), device=self.labels.device)
            chosen &= wanted[self.labels]
        return self[chosen]

    @property
    def probabilities(self) -> Float[Tensor, " N"] | None:
        """How likely each detection is right, as an evaluation found it; None for a model without calibration."""
        if self.calibration is None:
            return None
        likely = self.calibration.probabilities(self.scores.cpu().numpy(), self.labels.cpu().numpy())
        return torch.from_numpy(likely).to(self.scores)

    def name_of(self, label: int) -> str:
        """Name of a label; its number where there are no names."""
        return name_of(label, self.names)

    def to_dict(self) -> list[dict[str, Any]]:
        """Rows of `detections.json`: name, label, score, probability (if known), box_xyxy, track_id.

        Numbers have 4 digits, sides of boxes hundredths of a pixel.
        """
        columns = (self.boxes_xyxy, self.scores, self.labels)
        boxes_xyxy, scores, labels = (column.detach().cpu().numpy() for column in columns)
        likely = None if self.calibration is None else self.calibration.probabilities(scores, labels)
        rows = detection_dicts(boxes_xyxy, scores, labels, self.names, likely)
        if self.track_ids is not None:
            numbered = zip(rows, self.track_ids.tolist(), strict=True)
            rows = [row if track < 0 else {**row, "track_id": track} for row, track in numbered]
        return rows

    def to_coco(self, image_id: int, categories: Categories) -> list[dict[str, Any]]:
        """COCO's result format: image_id, category_id (the file's own), bbox (x, y, width, height), score."""
        return [
            {
                "image_id": image_id,
                "category_id": categories.source_ids[label],
                "bbox": [round(side, 2) for side in (x0, y0, x1 - x0, y1 - y0)],
                "score": round(score, 5),
            }
            for label, score, (x0, y0, x1, y1) in zip(
                self.labels.tolist(), self.scores.tolist(), self.boxes_xyxy.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, with `class_name` in its data.

        Raises:
            UserError: the package supervision is missing.
        """
        try:
            from supervision import Detections as SupervisionDetections
        except ImportError as error:
            raise UserError("supervision is missing: pip install supervision") from error
        labels = self.labels.cpu().numpy()
        return SupervisionDetections(
            xyxy=self.boxes_xyxy.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=labels,
            tracker_id=None if self.track_ids is None else self.track_ids.cpu().numpy(),
            data={"class_name": np.array([self.name_of(label) for label in labels.tolist()], dtype=np.str_)},
        )

    def show(self, image: str | Path | bytes | np.ndarray | Image.Image) -> Image.Image:
        """The image with boxes and names drawn, as a Pillow image, which a notebook shows; small ones are enlarged.

        `image` is what the predictor was given: a file, its bytes, an RGB array or a Pillow image.

        Raises:
            ImageError: an image that can't be read.
        """
        if not isinstance(image, np.ndarray):
            image = decode_pillow(image) if isinstance(image, Image.Image) else decode_image(image)
        return Image.fromarray(self.draw(image, min_side=SMALLEST_DRAWN_SIDE))

    def _repr_html_(self) -> str:
        """What a notebook shows: the first rows, and how many there are."""
        from onestage.html import table  # jinja2, which only notebooks need here

        rows = [
            (one["name"], f"{one['score']:.2f}", ", ".join(f"{side:.0f}" for side in one["box_xyxy"]))
            for one in self[:ROWS_SHOWN].to_dict()
        ]
        more = [f"and {len(self) - ROWS_SHOWN:,} more"] if len(self) > ROWS_SHOWN else []
        title = f"{len(self):,} detection{'' if len(self) == 1 else 's'}"
        return table(title, ("name", "score", "x0, y0, x1, y1"), rows, more)

    def draw(self, image_rgb: UInt8[np.ndarray, "H W 3"], *, min_side: int = 0) -> UInt8[np.ndarray, "H2 W2 3"]:
        """A copy of the image with boxes and names drawn; see `drawing.draw_detections`."""
        return draw_detections(
            image_rgb,
            self.boxes_xyxy.detach().float().cpu().numpy(),
            self.scores.detach().float().cpu().numpy(),
            self.labels.cpu().numpy(),
            self.names,
            track_ids=None if self.track_ids is None else self.track_ids.cpu().numpy(),
            min_side=min_side,
        )


def _rows(rows: int | Sequence[int] | Tensor | np.integer | np.ndarray, count: int) -> Tensor:
    """A mask, or the numbers of rows (M,), of `count` there are; a single number as a list of one."""
    chosen = torch.as_tensor(rows)
    if chosen.ndim == 1 and chosen.dtype == torch.bool:
        return chosen
    if chosen.ndim > 1 or chosen.dtype == torch.bool or (chosen.is_floating_point() and chosen.numel()):
        raise IndexError(f"{rows!r}: give whole numbers of rows, a slice, or a mask of {count} values")
    chosen = chosen.reshape(-1).long()  # an empty list becomes no rows
    outside = chosen[(chosen < -count) | (chosen >= count)]
    if len(outside):
        raise IndexError(f"row {int(outside[0])} of {count} detections")
    return chosen


@dataclass(frozen=True)
class GroundTruth:
    """All objects of a data set, for the metrics: a row an object."""

    num_images: int
    image_index: Int64[np.ndarray, " N"]  # 0..num_images-1
    labels: Int64[np.ndarray, " N"]
    boxes_xyxy: Float[np.ndarray, "N 4"]  # pixels of the original image
    ignored: Bool[np.ndarray, " N"]  # VOC difficult, COCO crowd: neither hit nor miss
    areas: Float[np.ndarray, " N"]  # pixels; COCO's is the segment's, others the box's

    def rows(self, rows: Bool[np.ndarray, " N"] | Int64[np.ndarray, " R"]) -> GroundTruth:
        """Some of the objects, by a mask or by their numbers, in as many images."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if name != "num_images"})


@dataclass(frozen=True)
class DetectionTable:
    """All detections in a data set, for the metrics: a row a detection."""

    image_index: Int64[np.ndarray, " M"]
    labels: Int64[np.ndarray, " M"]
    scores: Float[np.ndarray, " M"]
    boxes_xyxy: Float[np.ndarray, "M 4"]  # pixels of the original image

    def rows(self, rows: Bool[np.ndarray, " M"] | Int64[np.ndarray, " R"]) -> DetectionTable:
        """Some of the detections, by a mask or by their numbers."""
        return DetectionTable(*(column[rows] for column in vars(self).values()))

    @classmethod
    def from_detections(cls, detections: Sequence[Detections]) -> DetectionTable:
        """Stack one `Detections` an image, in image order."""
        lengths = [len(found) for found in detections]

        def stacked(parts: list[Tensor], empty_shape: tuple[int, ...]) -> np.ndarray:
            return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(empty_shape)

        return cls(
            image_index=np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
            labels=stacked([d.labels for d in detections], (0,)).astype(np.int64),
            scores=stacked([d.scores for d in detections], (0,)),
            boxes_xyxy=stacked([d.boxes_xyxy for d in detections], (0, 4)),
        )
