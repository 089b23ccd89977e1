"""Inputs below a detector's usual one, which take less time: where images are small, or a run has few minutes."""

from collections.abc import Iterator

import numpy as np

from onestage.data.table import Table
from onestage.detectors import DetectorConfig
from onestage.detectors.pyramid import PyramidConfig
from onestage.input_size import Stretch

SMALLEST_INPUT, INPUT_MULTIPLE = 192, 32
LEAST_OBJECT = 1.5  # times the side that the detector reaches, which nine of ten objects keep in a smaller input


def smaller_inputs(table: Table, config: DetectorConfig) -> Iterator[int]:
    """Sides of smaller square inputs in which objects are large enough, the largest first.

    None for detectors whose levels go with their input (SSD, M2Det), or that keep the images' proportions.
    """
    resize = config.input_resize
    sizes = table.box_sizes_hw(resize)
    if isinstance(config, PyramidConfig) and isinstance(resize, Stretch) and len(sizes):
        of_side = float(np.quantile(np.sqrt(sizes.prod(axis=1)), 0.1)) / resize.side  # a small object's share
        least = max(SMALLEST_INPUT, LEAST_OBJECT * config.least_object_side / of_side)
        for side in range((resize.side - 1) // INPUT_MULTIPLE * INPUT_MULTIPLE, 0, -INPUT_MULTIPLE):
            if side >= least:
                yield side


def input_of_small_images(table: Table, config: DetectorConfig) -> tuple[DetectorConfig, list[str]]:
    """The network with the smallest input that has room for all pixels of a typical image; and why.

    What a larger one adds shows nothing new, and takes the time of other images (docs/ledger.md, "The made recipe").
    """
    longest = float(np.median(table.image_sizes_hw.max(axis=1))) if len(table) else 0.0
    sides = [side for side in smaller_inputs(table, config) if side >= longest]
    if not longest or not sides:
        return config, []
    reason = f"input of {sides[-1]} x {sides[-1]}, not {config.input_resize}: enough for images of {longest:.0f} px"
    return config.adjusted({"image_size": sides[-1]}), [reason]
