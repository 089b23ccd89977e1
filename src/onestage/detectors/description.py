"""Sizes and counts of a detector, for `onestage info`."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from onestage.detectors.base import Detector, Normalization, on_meta
from onestage.input_size import Resize, SizeHW, typical_input_hw


@dataclass(frozen=True)
class Description:
    """Counts of a detector.

    Attributes:
        name: as `onestage.build` takes it.
        num_classes: without background.
        resize: how images are brought to the input.
        input_hw: input of a 4:3 landscape image, for which the rest is counted.
        normalization: normalisation of the input.
        parameters: number of parameters.
        gmacs: 10^9 multiply-accumulates of the convolutions and matrix products for one image.
        cells: (height, width, anchors of a cell) of each level; () where the detector does not say.
        settings: the detector's configuration, JSON-able.
    """

    name: str
    num_classes: int
    resize: Resize
    input_hw: SizeHW
    normalization: Normalization
    parameters: int
    gmacs: float
    cells: tuple[tuple[int, int, int], ...]
    settings: dict[str, object]

    @property
    def anchors(self) -> int:
        """Anchors of one image."""
        return sum(height * width * anchors for height, width, anchors in self.cells)

    @property
    def anchors_per_cell(self) -> tuple[int, ...]:
        """Anchors of a cell, for each level."""
        return tuple(anchors for _, _, anchors in self.cells)


def describe(detector: Detector) -> Description:
    """Count a detector; nothing is computed and nothing changes."""
    input_hw = typical_input_hw(detector.resize)
    images = torch.empty(1, 3, *input_hw, dtype=torch.uint8, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(detector)(images)
    return Description(
        name=detector.name,
        num_classes=detector.num_classes,
        resize=detector.resize,
        input_hw=input_hw,
        normalization=detector.normalization,
        parameters=sum(parameter.numel() for parameter in detector.parameters()),
        gmacs=counter.get_total_flops() / 2 / 1e9,  # a multiply-accumulate is two operations
        cells=detector.cells(input_hw),
        settings=asdict(detector.config),
    )
