"""The nouns: what travels between the data, the detectors, the losses and the metrics.

Conventions that hold everywhere in this package:

- Labels are 0..K-1 and never include background.
- Boxes are floats, 0-based, half-open (x1 - x0 is the width); their format and frame stand in their name.
- Shape legend: B image, A anchor, K class, C class logit (K plus background where a detector has it), N object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Categories:
    """The classes of a data set, in label order, and what their file calls them.

    Attributes:
        names: the name of each label, unique, `names[label]`.
        source_ids: the id of each label in its file (COCO's sparse ids); `label` itself where the file has none.
    """

    names: tuple[str, ...]
    source_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"categories: {', '.join(twice)} named more than once; give each class its own name")
        if len(self.source_ids) != len(self.names) or len(set(self.source_ids)) != len(self.source_ids):
            raise ValueError(
                f"categories: source ids {self.source_ids} do not name {len(self.names)} classes, once each"
            )

    @classmethod
    def from_names(cls, names: Iterable[str]) -> Categories:
        """Categories whose ids in the file are their labels (VOC, YOLO)."""
        names = tuple(names)
        return cls(names, tuple(range(len(names))))

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sample:
    """One picture with its objects, in the picture's own pixels or, once augmented, in the network's."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB
    boxes_xyxy: Float32[np.ndarray, "N 4"]
    labels: Int64[np.ndarray, " N"]
    ignored: Bool[np.ndarray, " N"]  # VOC difficult, COCO crowd: neither positive nor negative
    image_index: int  # row in the data set's table


@dataclass(frozen=True)
class Targets:
    """The objects of one picture of a batch, in pixels of the network's input."""

    boxes_xyxy: Float32[Tensor, "N 4"]
    labels: Int64[Tensor, " N"]
    ignored: Bool[Tensor, " N"]

    def to(self, device: torch.device) -> Targets:
        return Targets(*(t.to(device, non_blocking=True) for t in (self.boxes_xyxy, self.labels, self.ignored)))


@dataclass(frozen=True)
class Batch:
    """What the loader gives: raw pixels (normalisation is the detector's first layer) and their objects."""

    images: UInt8[Tensor, "B 3 H W"]  # RGB
    targets: Sequence[Targets]
    image_indices: Int64[Tensor, " B"]

    def to(self, device: torch.device) -> Batch:
        images = self.images.to(device, non_blocking=True)
        return Batch(images, [t.to(device) for t in self.targets], self.image_indices)


class Predictions(NamedTuple):
    """A detector's raw output, the same in training and in evaluation mode."""

    class_logits: Float[Tensor, "B A C"]
    box_deltas: Float[Tensor, "B A 4"]


class Matches(NamedTuple):
    """What each anchor is to learn: the three masks are disjoint and cover all anchors."""

    labels: Int64[Tensor, "B A"]  # of the matched object where positive, else 0
    boxes_xyxy: Float[Tensor, "B A 4"]  # of the matched object, pixels of the network's input; valid where positive
    positive: Bool[Tensor, "B A"]
    negative: Bool[Tensor, "B A"]
    ignored: Bool[Tensor, "B A"]


class LossSums(NamedTuple):
    """Undivided sums over a batch: the trainer divides by the positives of the whole global batch."""

    classification: Float[Tensor, ""]
    box: Float[Tensor, ""]
    num_positives: Int64[Tensor, ""]


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best first. Boxes are pixels of the frame that the maker of it names."""

    boxes_xyxy: Float[Tensor, "N 4"]
    scores: Float[Tensor, " N"]
    labels: Int64[Tensor, " N"]
    names: tuple[str, ...] = ()  # of every class, by label; () where the detector alone is asked

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a whole data set for the metrics, one row an object (N rows, `num_images` pictures)."""

    num_images: int
    image_index: Int64[np.ndarray, " N"]  # 0..num_images-1
    labels: Int64[np.ndarray, " N"]
    boxes_xyxy: Float[np.ndarray, "N 4"]  # pixels of the original picture
    ignored: Bool[np.ndarray, " N"]  # VOC difficult, COCO crowd: neither hit nor miss
    areas: Float[np.ndarray, " N"]  # pixels; COCO's is the segment's, others the box's


@dataclass(frozen=True)
class DetectionTable:
    """The detections of a whole data set for the metrics, one row a detection."""

    image_index: Int64[np.ndarray, " M"]
    labels: Int64[np.ndarray, " M"]
    scores: Float[np.ndarray, " M"]
    boxes_xyxy: Float[np.ndarray, "M 4"]  # pixels of the original picture

    @classmethod
    def from_detections(cls, detections: Sequence[Detections]) -> DetectionTable:
        """Stack one `Detections` a picture, in picture order."""
        lengths = [len(found) for found in detections]

        def stacked(parts: list[Tensor], empty_shape: tuple[int, ...]) -> np.ndarray:
            return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(empty_shape)

        return cls(
            image_index=np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
            labels=stacked([d.labels for d in detections], (0,)).astype(np.int64),
            scores=stacked([d.scores for d in detections], (0,)),
            boxes_xyxy=stacked([d.boxes_xyxy for d in detections], (0, 4)),
        )
