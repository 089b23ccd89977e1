"""What a detector is made of, in numbers: for `onestage info`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from onestage.detectors.base import Detector, Normalization, on_meta


@dataclass(frozen=True)
class Description:
    """Counts of a detector.

    Attributes:
        name: as `onestage.build` takes it.
        num_classes: without background.
        image_size: side of the square input, pixels.
        normalization: of the input.
        parameters: of all layers.
        gmacs: 10^9 multiply-accumulates of the convolutions and matrix products for one picture.
        cells: (height, width, anchors of a cell) of each level.
        settings: the detector's configuration, JSON-able.
    """

    name: str
    num_classes: int
    image_size: int
    normalization: Normalization
    parameters: int
    gmacs: float
    cells: tuple[tuple[int, int, int], ...]
    settings: dict[str, object]

    @property
    def anchors(self) -> int:
        """Of one picture."""
        return sum(height * width * anchors for height, width, anchors in self.cells)

    @property
    def anchors_per_cell(self) -> tuple[int, ...]:
        """Of each level."""
        return tuple(anchors for _, _, anchors in self.cells)


def describe(detector: Detector) -> Description:
    """Count a detector; nothing is computed and nothing changes."""
    images = torch.empty(1, 3, detector.image_size, detector.image_size, dtype=torch.uint8, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(detector)(images)
    return Description(
        name=detector.name,
        num_classes=detector.num_classes,
        image_size=detector.image_size,
        normalization=detector.normalization,
        parameters=sum(parameter.numel() for parameter in detector.parameters()),
        gmacs=counter.get_total_flops() / 2 / 1e9,  # a multiply-accumulate is two operations
        cells=detector.cells,
        settings=detector.settings(),
    )
